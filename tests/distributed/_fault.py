"""A program that one rank leaves in the way named on the command line, while the others wait for it."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

import pyjpllm.distributed as pd


def main(way: str, timeout_s: float) -> None:
    world = pd.init(timeout_s=timeout_s)
    x = torch.ones(100)
    dist.all_reduce(x)
    print(f"pid {world.rank} {os.getpid()}", flush=True)
    if world.rank == 1:
        leave(way, x)
    if way == "message":
        dist.recv(x, 1, tag=7)
    dist.all_reduce(x)
    print(f"done {world.rank}", flush=True)


def leave(way: str, x: torch.Tensor) -> None:
    if way == "raise":
        try:
            raise ValueError("boom")
        finally:
            pd.finalize()  # must not wait for the others
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if way in ("hang", "message"):
        time.sleep(1000)
    if way == "exit":
        sys.exit(3)
    if way == "leave":
        sys.exit(0)
    if way == "caught":
        try:
            sys.exit(2)
        except SystemExit:
            dist.all_reduce(x)
            sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
