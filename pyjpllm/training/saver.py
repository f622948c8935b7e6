"""When a run's checkpoints are written, made complete, and copied to their second folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyjpllm.config.schema import Config
from pyjpllm.distributed.mesh import Mesh
from pyjpllm.training.checkpoint import SaveError, Saving
from pyjpllm.training.copies import Copies
from pyjpllm.training.copying import CopyError, Copying
from pyjpllm.training.manifest import Manifest
from pyjpllm.training.optimizer import AdamW


class Saver:
    """One checkpoint at a time on its way to the disk, and one complete one on its way to its second folder.

    All ranks call the same methods at the same steps. They learn from the sums of a step how far the others are
    (`unwritten`, `hear`); only then, or where they have to wait, is anything made complete.

    Args:
        say: prints a line, on the rank that speaks.
        step: of the newest checkpoint.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        optimizer: AdamW,
        mesh: Mesh,
        device: torch.device,
        copies: Copies | None,
        *,
        say: Callable[[str], None],
        step: int,
    ) -> None:
        self.config, self.run_dir, self.optimizer, self.mesh, self.device = config, run_dir, optimizer, mesh, device
        self.copies, self.say, self.saved_step = copies, say, step
        self.background = config.checkpoint.asynchronous
        self._kept = {"keep_last": config.checkpoint.keep_last, "keep_every": config.checkpoint.keep_every}
        self._saving: Saving | None = None
        self._copying: Copying | None = None
        self._all_written = self._all_copied = False

    def unwritten(self) -> tuple[float, float]:
        """1 where this rank still writes, and 1 where it still copies; to be summed over the ranks."""
        writes = self._saving is not None and not self._saving.written
        copies = self._copying is not None and not self._copying.copied
        return float(writes), float(copies)

    def hear(self, writers: float, copiers: float) -> None:
        """How many ranks still write, and how many still copy."""
        self._all_written, self._all_copied = writers == 0, copiers == 0

    @property
    def ready(self) -> bool:
        """Whether there is something to make complete that no rank still works on."""
        return (self._saving is not None and self._all_written) or (self._copying is not None and self._all_copied)

    def complete(self, *, wait: bool = False) -> None:
        """Make complete what all ranks have written, and copied; with ``wait`` also a checkpoint still being written.

        A checkpoint is made complete first, whatever the copy of the one before it does.
        """
        if self._saving is not None and (wait or self._all_written):
            self._finish_saving(must=False)
        elif self._copying is not None and self._all_copied:
            self._finish_copying()

    def save(self, step: int, state: dict[str, Any], *, must: bool) -> None:
        """Begin the checkpoint of ``step``; ``must``: wait for it and its copy, and raise SaveError if it fails."""
        self._saving = Saving(
            self.run_dir,
            step,
            self.optimizer,
            self.mesh,
            state=state,
            config=self.config.model_dump(mode="json"),
            **self._kept,
            background=self.background and not must,
        )
        self._all_written = False
        if must or not self.background:
            self._finish_saving(must)

    def copy_again(self, checkpoint: Path, manifest: Manifest, *, wait: bool) -> None:
        """Copy a checkpoint that an earlier start of the run has written and not copied; the ranks share its files."""
        group = self.mesh.world_group
        rank, size = (group.rank(), group.size()) if group is not None else (0, 1)
        mine = {name: manifest.files[name] for name in sorted(manifest.files)[rank::size]}
        self._start_copying(checkpoint, mine, wait=wait)

    def wait(self) -> None:
        """Until this rank writes and copies no more, where a run ends by an error: nothing may write after it."""
        for work in (self._saving, self._copying):
            if work is not None:
                work.wait()

    def _finish_saving(self, must: bool) -> None:
        assert self._saving is not None
        saving, self._saving = self._saving, None
        try:
            saving.finish(() if self._copying is None else (self._copying.step,))
        except SaveError as error:
            if must:
                raise
            # The run is worth more than this one checkpoint: the next interval tries again.
            self.say(f"WARNING: {error}; the newest checkpoint is that of step {self.saved_step}")
            return
        self.saved_step = saving.step
        if self.copies is not None:
            self._start_copying(saving.folder, saving.files, wait=must or not self.background)

    def _start_copying(self, checkpoint: Path, files: dict[str, dict[str, Any]], *, wait: bool) -> None:
        assert self.copies is not None
        if self._copying is not None:
            self._finish_copying()
        self._copying = Copying(
            checkpoint, files, self.copies, self.mesh, self.device, **self._kept, background=not wait
        )
        self._all_copied = False
        if wait:
            self._finish_copying()

    def _finish_copying(self) -> None:
        assert self._copying is not None
        copying, self._copying = self._copying, None
        try:
            copying.finish(() if self._saving is None else (self._saving.step,))
        except CopyError as error:
            self.say(f"WARNING: {error}; the next checkpoint tries again")
