"""The folders of checkpoints, in a run and where they are kept a second time: complete ones, the newest, kept ones.

A folder is a checkpoint when its manifest is in it. It comes by a rename and goes by a rename, so that a kill at any
moment leaves whole checkpoints only.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from pyjpllm.files import fsync_directory

MANIFEST = "manifest.json"


def checkpoints_of(run_dir: Path) -> Path:
    """Where a run has its own checkpoints."""
    return run_dir / "checkpoints"


def step_folder(run_dir: Path, step: int) -> Path:
    """Where a run has the checkpoint of ``step``."""
    return checkpoints_of(run_dir) / f"step-{step:08d}"


def temporary_of(folder: Path) -> Path:
    """Where a checkpoint is written before it is one."""
    return folder.with_name(f".{folder.name}.tmp")


def steps_in(folder: Path) -> list[int]:
    """The steps that have a complete checkpoint in ``folder``, oldest first."""
    found = []
    for path in folder.glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", path.name)
        if match and (path / MANIFEST).is_file():
            found.append(int(match[1]))
    return sorted(found)


def complete_steps(run_dir: Path) -> list[int]:
    """The steps of which a run has a complete checkpoint, oldest first."""
    return steps_in(checkpoints_of(run_dir))


def latest(run_dir: Path, copies: Path | None = None) -> Path | None:
    """The newest complete checkpoint of a run, or None; where ``copies`` has it too, the run's own."""
    own = complete_steps(run_dir)[-1:]
    copied = steps_in(copies)[-1:] if copies is not None else []
    if copies is not None and copied > own:
        return copies / f"step-{copied[0]:08d}"
    return step_folder(run_dir, own[0]) if own else None


def publish(temporary: Path, folder: Path) -> None:
    """Make the checkpoint that is whole in ``temporary`` the one of ``folder``, instead of one that is there.

    There is one when a step is written again after a restart from an older one. Between its going and the other's
    coming it lies under a name from which `recover` brings it back.
    """
    fsync_directory(temporary)
    if folder.exists():
        aside = _aside(folder)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
    os.rename(temporary, folder)
    fsync_directory(folder.parent)


def recover(folder: Path) -> None:
    """Bring back a complete checkpoint that a kill in `publish` left under its other name."""
    for aside in folder.glob(".step-*.old"):
        home = folder / aside.name.removeprefix(".").removesuffix(".old")
        if (aside / MANIFEST).is_file() and not home.exists():
            os.rename(aside, home)
            fsync_directory(folder)


def sweep(folder: Path, keep_last: int, keep_every: int, spare: Collection[int] = ()) -> list[int]:
    """Remove what a killed save left, and all checkpoints but the last ``keep_last`` and every ``keep_every``-th step.

    Nothing of the steps ``spare`` is touched: they are being written or read. Returns the steps removed. A folder is
    renamed before it is emptied, so a half-removed one is never taken for whole.
    """
    spared = {f"step-{step:08d}" for step in spare}
    for leftover in folder.glob(".step-*"):
        if leftover.name.removeprefix(".").split(".")[0] not in spared:
            shutil.rmtree(leftover, ignore_errors=True)
    removed = []
    for step in steps_in(folder)[:-keep_last]:
        if step not in spare and (keep_every == 0 or step % keep_every != 0):
            old = folder / f"step-{step:08d}"
            trash = old.with_name(f".{old.name}.trash")
            old.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)
            removed.append(step)
    return removed


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
