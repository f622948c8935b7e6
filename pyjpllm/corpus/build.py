"""`jpllm corpus build`: passes over shards by ranks and their processes, global steps between, one report at the end.

A shard is done when its record is there; so a run that was ended at any moment goes on with the next command, and what
it writes does not depend on who does which shard.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyjpllm.corpus.config import CorpusConfig, stage_name
from pyjpllm.corpus.counts import Counts
from pyjpllm.corpus.decisions import write_decisions
from pyjpllm.corpus.exchange import Alone, Exchange
from pyjpllm.corpus.intake.html import check_extract
from pyjpllm.corpus.job import Pass, passes_of, recorded
from pyjpllm.corpus.layout import RunFolder
from pyjpllm.corpus.outputs import TokenSink
from pyjpllm.corpus.plan import Shard, plan_shards, shard_from_json
from pyjpllm.corpus.pool import run_shards
from pyjpllm.corpus.report import report_of
from pyjpllm.corpus.stage import WithLimits
from pyjpllm.corpus.stage_config import GlobalStepConfig
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write


@dataclass(frozen=True)
class Progress:
    """How far this rank is."""

    pass_number: int
    passes: int
    done: int
    shards: int
    counts: Counts
    """Of the shards that were done since the command began."""


def build_corpus(
    config: CorpusConfig,
    run: str | os.PathLike[str],
    *,
    tokens: TokenSink | None = None,
    exchange: Exchange | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Run a pipeline into the folder ``run``, or go on with it. Collective over ``exchange``; returns the report.

    ``tokens``: for a pipeline with ``output.format = "tokens"``, and only for one. Raises UserError where the inputs
    are not there, and where ``run`` holds another run.
    """
    if (tokens is not None) != (config.output.format == "tokens"):
        raise ValueError(f"output.format = {config.output.format!r} with tokens = {tokens!r}")
    ranks = exchange or Alone()
    folder = RunFolder(Path(run))
    with contextlib.ExitStack() as held:
        files, shards = _agreed(ranks, lambda: _prepare(config, folder, tokens, held))
        if _there(folder.report, ranks):
            if ranks.rank == 0:
                shutil.rmtree(folder.work, ignore_errors=True)
            ranks.barrier()
            report: dict[str, Any] = json.loads(folder.report.read_bytes())
            return report
        passes = passes_of(config)
        for work in passes:
            if work.number:
                _decide(passes[work.number - 1], work, folder, len(shards), ranks)
            _do((config, folder, work, shards, tokens), len(passes), ranks, progress)
            ranks.barrier()
        if ranks.rank == 0:
            _finish(folder, passes, files, len(shards), tokens)
        ranks.barrier()
    finished: dict[str, Any] = json.loads(folder.report.read_bytes())
    return finished


def _agreed(ranks: Exchange, prepare: Callable[[], tuple[int, list[Shard]]]) -> tuple[int, list[Shard]]:
    """What rank 0 has prepared, on every rank, or its error."""
    answer: tuple[str | None, Any] = (None, None)
    if ranks.rank == 0:
        try:
            answer = (None, prepare())
        except UserError as error:
            answer = (str(error), None)
    problem, value = ranks.broadcast(answer)
    if problem is not None:
        raise UserError(problem)
    prepared: tuple[int, list[Shard]] = value
    return prepared


def _prepare(
    config: CorpusConfig, folder: RunFolder, tokens: TokenSink | None, held: contextlib.ExitStack
) -> tuple[int, list[Shard]]:
    """The number of files and the shards: a new run's, or those of the run that is there."""
    path = folder.path
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not folder.lock.exists():
        raise UserError(f"{path}: is no run of this command and not empty; name another folder")
    path.mkdir(parents=True, exist_ok=True)
    held.enter_context(_locked(folder))
    _remove_leftovers(path)
    used = _used(config, tokens)
    if folder.report.exists():  # done: the inputs may be gone
        return _known_run(folder, used, None)
    check_extract(config.input.extract)
    files, pairs = config.input.files(), config.input.pair_spans()
    pages = [page for pair in pairs for page in (pair.path, pair.original) if page is not None]
    state = [[str(file), *_state(file)] for file in (*files, *pages)]
    if folder.plan.exists():
        return _known_run(folder, used, state)
    for stage in config.stages:
        if isinstance(stage, GlobalStepConfig):
            stage.begin()
    shards = plan_shards(files, config.run.shard_mib << 20, pairs)
    _write_json(folder.config, used)
    # In ASCII: a file's name need not be UTF-8, and of JSON's escapes Python makes the same name again.
    _write_json(folder.plan, {"files": state, "shards": [shard.as_json() for shard in shards]}, ascii_only=True)
    return len(state), shards


def _used(config: CorpusConfig, tokens: TokenSink | None) -> dict[str, Any]:
    """The config as far as the output depends on it, with the checksums of the files that its stages read."""
    used = config.as_dict()
    del used["run"]["processes"]
    used["files"] = {path: checksum for stage in config.stages for path, checksum in stage.files_read().items()}
    if tokens is not None:
        used["output"]["tokenizer"] = tokens.fingerprint  # not where it lies
    return used


def _state(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _known_run(folder: RunFolder, used: dict[str, Any], state: list[list[Any]] | None) -> tuple[int, list[Shard]]:
    """The plan of the run that is there. Raises UserError where it was made with another config or other files."""
    before = json.loads(folder.config.read_bytes())
    read_then, read_now = before.pop("files", {}), used.pop("files")
    if before != json.loads(json.dumps(used)):
        differs = next(name for name in used if before.get(name) != json.loads(json.dumps(used[name])))
        raise UserError(
            f"{folder.path}: holds a run whose [{differs}] is another; name another folder, or take back the change "
            f"(as it was: {folder.config})"
        )
    if read_then != read_now:
        name = next(each for each in {**read_then, **read_now} if read_then.get(each) != read_now.get(each))
        raise UserError(
            f"{folder.path}: holds a run that read another {name}; name another folder, or take back the change"
        )
    plan = json.loads(folder.plan.read_bytes())
    if state is not None:
        known = {entry[0]: entry for entry in plan["files"]}
        changed = next((entry for entry in state if known.get(entry[0]) != entry), None)
        gone = next((name for name in known if name not in {entry[0] for entry in state}), None)
        if changed is not None or gone is not None:
            name = changed[0] if changed is not None else gone
            raise UserError(f"{folder.path}: holds a run of other inputs ({name} has changed); name another folder")
    return len(plan["files"]), [shard_from_json(values) for values in plan["shards"]]


@contextlib.contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    with open(folder.lock, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder.path}: another command works on this run") from None
        yield


def _remove_leftovers(path: Path) -> None:
    """Temporary files of commands that were killed; this one holds the lock, so nobody is writing them."""
    for leftover in path.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _do(
    job: tuple[CorpusConfig, RunFolder, Pass, Sequence[Shard], TokenSink | None],
    passes: int,
    ranks: Exchange,
    progress: Callable[[Progress], None] | None,
) -> None:
    """This rank's shards of one pass."""
    config, folder, work, shards, _ = job
    mine = range(ranks.rank, len(shards), ranks.size)
    left = [number for number in mine if not folder.record(work.number, number).exists()]
    processes = config.run.processes or len(os.sched_getaffinity(0))
    counts = Counts()
    done = len(mine) - len(left)
    for _, more in run_shards(job, left, processes):
        counts.merge(more)
        done += 1
        if progress is not None:
            progress(Progress(work.number, passes, done, len(mine), counts))


def _there(path: Path, ranks: Exchange) -> bool:
    """Whether rank 0 sees a file: on a network file system others may see it later, and all must go the same way."""
    return ranks.broadcast(path.exists() if ranks.rank == 0 else False)


def _decide(before: Pass, after: Pass, folder: RunFolder, shards: int, ranks: Exchange) -> None:
    """The global step between two passes: a file of decisions for every shard."""
    if _there(folder.decided(before.number), ranks):
        return
    assert after.step is not None
    own = folder.work / f"{before.number}-step"
    if ranks.rank == 0:
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
    ranks.barrier()
    step = after.step.build()
    began = time.process_time()
    decisions = step([folder.between(before.number, number) for number in range(shards)], ranks, own)
    for number in range(ranks.rank, shards, ranks.size):
        write_decisions(folder.decisions(before.number, number), decisions.get(number, []))
    seconds = sum(ranks.all_gather(time.process_time() - began))
    if ranks.rank == 0:
        shutil.rmtree(own, ignore_errors=True)
        _write_json(folder.decided(before.number), {"step": stage_name(after.step), "seconds": round(seconds, 6)})
    ranks.barrier()


def _finish(folder: RunFolder, passes: Sequence[Pass], files: int, shards: int, tokens: TokenSink | None) -> None:
    """Sum the records up, join the tokens and write the report; then what lay between the passes can go."""
    total = Counts()
    for work in passes:
        counts = Counts()
        for number in range(shards):
            one = recorded(folder, work.number, number)
            if one is None:
                raise RuntimeError(
                    f"{folder.record(work.number, number)}: is missing; does every rank see this folder?"
                )
            counts.merge(one)
        if work.number == 0:
            total = counts
        else:
            decided = json.loads(folder.decided(work.number - 1).read_bytes())
            counts.spend(decided["step"], decided["seconds"])
            total.followed_by(counts)
    limits = {
        stage_name(stage): dict(built.limits)
        for work in passes
        for stage in work.stages
        if isinstance(built := stage.build(), WithLimits)
    }
    report = report_of(total, files, shards, limits)
    if tokens is not None:
        parts = [folder.shard_tokens(number) for number in range(shards)]
        size = total.written.bytes
        report["tokens"] = tokens.join(parts, folder.tokens, characters=total.written.characters, size=size)
    _write_json(folder.report, report)
    shutil.rmtree(folder.work, ignore_errors=True)  # last: a command that is killed here has nothing left to read


def _write_json(path: Path, value: object, *, ascii_only: bool = False) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=ascii_only, indent=1) + "\n", encoding="utf-8")
