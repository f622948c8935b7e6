"""Shards over processes of one machine. They are spawned, never forked: a fork of a process that holds MPI or threads
is not safe. They end with the process that started them.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

from pyjpllm.corpus.counts import Counts
from pyjpllm.corpus.job import Job

_job: Job | None = None


def run_shards(arguments: tuple[Any, ...], numbers: Sequence[int], processes: int) -> Iterator[tuple[int, Counts]]:
    """Do the shards ``numbers`` of the job ``Job(*arguments)``; gives each one with its counts when it is done."""
    if processes == 1 or len(numbers) <= 1:
        if numbers:
            job = Job(*arguments)
            for number in numbers:
                yield number, job.run(number)
        return
    pool = ProcessPoolExecutor(min(processes, len(numbers)), multiprocessing.get_context("spawn"), _start, (arguments,))
    try:
        left = iter(numbers)
        waiting: set[Future[tuple[int, Counts]]] = set()
        while True:
            for number in left:  # a few at a time: a million shards need no million futures
                waiting.add(pool.submit(_run, number))
                if len(waiting) >= 2 * processes:
                    break
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a process of the pipeline was ended (out of memory?); the same command goes on where it stopped"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(arguments: tuple[Any, ...]) -> None:
    """Build the stages once a process, and end with the parent even if that is killed."""
    global _job
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _job = Job(*arguments)


def _run(number: int) -> tuple[int, Counts]:
    assert _job is not None
    return number, _job.run(number)
