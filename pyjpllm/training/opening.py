"""What a start of a run finds in its folders, and puts there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pyjpllm.config.schema import Config
from pyjpllm.training.copies import Copies, copy_of
from pyjpllm.training.folders import checkpoints_of, latest, recover
from pyjpllm.training.rundir import prepare


class Opened(NamedTuple):
    """What rank 0 has found, for all ranks."""

    start: Path | None
    """The checkpoint to go on from, in the run's folder or where copies are kept."""
    copy: Path | None
    """The copy of one in the run's folder."""
    uncopied: bool
    """Whether that one has yet to be copied."""
    notes: list[str]
    """Lines to be said."""


def open_folders(run_dir: Path, config: Config, tokenizer_model: Path, copies: Copies | None) -> Opened:
    """Take the folders of a run, find its newest checkpoint, and write config and tokenizer. On rank 0 alone.

    Raises UserError when the folder of ``checkpoint.copy_to`` is another run's, and when the config's model is not the
    checkpoint's.
    """
    notes = copies.open() if copies is not None else []
    folder = copies.folder if copies is not None and copies.claimed else None
    for place in (checkpoints_of(run_dir), folder):
        if place is not None:
            recover(place)
    start = latest(run_dir, folder)
    copy = copy_of(start, folder) if start is not None else None
    changes = prepare(run_dir, config, tokenizer_model, start, copy)
    notes += [f"changed since the checkpoint: {line}" for line in changes]
    return Opened(start, copy, copies is not None and copies.lacks(start), notes)
