"""Copying a complete checkpoint to its second folder: every rank its own files, verified, complete by a rename."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from pyjpllm.distributed.collectives import all_reduce, broadcast_object
from pyjpllm.distributed.mesh import Mesh
from pyjpllm.files import copy_file
from pyjpllm.training.caught import caught
from pyjpllm.training.copies import Copies
from pyjpllm.training.folders import MANIFEST, publish, steps_in, sweep, temporary_of
from pyjpllm.training.manifest import verify


class CopyError(OSError):
    """A checkpoint could not be copied; the checkpoint itself is untouched."""


class Copying:
    """A copy on its way to the disk. Made and finished by all ranks.

    Args:
        source: the checkpoint.
        files: the files of it that this rank copies, as the manifest has them; those that it wrote are in its reach.
        device: where the ranks' agreement is computed.
        background: a thread copies while training goes on; otherwise :meth:`finish` does it.
    """

    def __init__(
        self,
        source: Path,
        files: Mapping[str, Mapping[str, Any]],
        copies: Copies,
        mesh: Mesh,
        device: torch.device,
        *,
        keep_last: int,
        keep_every: int,
        background: bool,
    ) -> None:
        self.source, self.files, self.copies, self.mesh, self.device = source, files, copies, mesh, device
        self.keep_last, self.keep_every = keep_last, keep_every
        self.step = int(source.name.removeprefix("step-"))
        self.folder = copies.folder / source.name
        self.temporary = temporary_of(self.folder)
        self.rank = mesh.world_group.rank() if mesh.world_group is not None else 0
        problem: str | None = None
        if self.rank == 0:
            with caught() as prepared:
                copies.check()
                shutil.rmtree(self.temporary, ignore_errors=True)
                self.temporary.mkdir()
            problem = prepared.error
        self.problem = broadcast_object(problem, mesh.world_group)
        self._error: str | None = None
        self._thread: threading.Thread | None = None
        if background and self.problem is None:
            self._thread = threading.Thread(target=self._copy, name="jpllm-copy", daemon=True)
            self._thread.start()

    def _copy(self) -> None:
        with caught() as copied:
            for name, expected in self.files.items():
                copy_file(self.source / name, self.temporary / name)
                fault = verify(self.temporary, name, expected)
                if fault is not None:
                    raise CopyError(fault)
        self._error = copied.error

    @property
    def copied(self) -> bool:
        """Whether this rank's files are there, or have failed to get there: finish() will not wait for them."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Until this rank copies no more."""
        if self._thread is not None:
            self._thread.join()

    def finish(self, spare: Collection[int] = ()) -> None:
        """Make it a checkpoint, and remove in both places those that are no longer kept; not those of ``spare``.

        Raises CopyError on every rank when any rank could not copy (disk full, permission, no longer mounted).
        """
        group, problem = self.mesh.world_group, self.problem
        if problem is None:
            if self._thread is None:
                self._copy()
            self.wait()
            problem = self._first_error()
            if problem is None:
                if self.rank == 0:
                    with caught() as published:
                        copy_file(self.source / MANIFEST, self.temporary / MANIFEST)
                        publish(self.temporary, self.folder)
                        sweep(self.folder.parent, self.keep_last, self.keep_every)
                        sweep(self.source.parent, self.keep_last, self.keep_every, spare)
                    problem = published.error
                problem = broadcast_object(problem, group)
        if problem is None:
            return
        there = ""
        if self.rank == 0:
            with caught():
                shutil.rmtree(self.temporary, ignore_errors=True)
                there = f"; the newest copy there is that of step {max(steps_in(self.folder.parent))}"
        raise CopyError(f"{self.folder.parent}: the checkpoint of step {self.step} was not copied ({problem}){there}")

    def _first_error(self) -> str | None:
        """The error of the lowest rank that has one, on every rank, which hear of no other's."""
        group = self.mesh.world_group
        if group is None:
            return None if self._error is None else f"rank 0: {self._error}"
        size = group.size()
        first = torch.tensor([self.rank if self._error is not None else size], device=self.device)
        all_reduce(first, group, "min")
        failed = int(first.item())
        return None if failed == size else broadcast_object(f"rank {failed}: {self._error}", group, failed)
