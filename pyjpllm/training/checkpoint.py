"""Saving and loading the whole state of a run: weights, optimizer state, counters, on any layout of ranks.

Every rank writes its share into a hidden folder, rank 0 adds the manifest and renames the folder: a checkpoint is
there whole or not at all. Data-parallel replicas hold the same state, so they divide the writing among them.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pyjpllm.distributed.agreement import on_first_rank
from pyjpllm.distributed.collectives import broadcast_object, gather_objects
from pyjpllm.distributed.mesh import Mesh
from pyjpllm.errors import UserError, did_you_mean
from pyjpllm.files import fsync_file, sha256_of, usual_mode
from pyjpllm.parallel.layout import Layout
from pyjpllm.training.caught import caught
from pyjpllm.training.folders import MANIFEST, publish, step_folder, sweep, temporary_of
from pyjpllm.training.manifest import Located, Manifest, PieceReader, StoredPiece, StoredTensor, locate
from pyjpllm.training.optimizer import AdamW, Piece

# Tensors are copied before they are written (views of one buffer can't be); a file of this size bounds the copy where
# training waits.
FILE_BYTES = 512 << 20


class SaveError(OSError):
    """A checkpoint could not be written; the one before it is untouched."""


@dataclass
class Written:
    """What one rank wrote: checksums of its files, pieces of its tensors; or why it could not."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    pieces: list[tuple[str, tuple[int, ...], StoredPiece]] = field(default_factory=list)
    error: str | None = None


def _my_share(pieces: list[Piece], mesh: Mesh) -> list[Piece]:
    """The pieces this rank writes: each distinct one once, balanced by size over the replicas that have it."""
    load = {axis: [0] * mesh.size(axis) for axis in ("replicas", "expert_replicas")}
    mine = []
    for piece in sorted(pieces, key=lambda p: (-p.tensors["master"].numel(), p.name)):
        axis = piece.layout.replicas
        writer = mesh.rank(axis) if piece.owned else load[axis].index(min(load[axis]))
        load[axis][writer] += piece.tensors["master"].numel()
        if writer == mesh.rank(axis) and _is_first_holder(piece.layout, mesh):
            mine.append(piece)
    return mine


def _is_first_holder(layout: Layout, mesh: Mesh) -> bool:
    """Whether this rank writes for all that hold its piece, data-parallel replicas apart: the first of them does.

    They are neighbouring tensor-parallel ranks, or the two ends of a pipeline.
    """
    if layout.pipeline_copies > 1 and layout.grad_group is not None and layout.grad_group.rank() > 0:
        return False
    return mesh.rank("tp") % (layout.copies // layout.pipeline_copies) == 0


def _write_share(folder: Path, rank: int, share: Iterable[Piece]) -> Written:
    """Write pieces whose tensors are their own; an iterable that makes them as they are asked for bounds the memory."""
    written = Written()
    batch: dict[str, Tensor] = {}
    size = 0

    def flush() -> None:
        nonlocal batch, size
        if not batch:
            return
        name = f"rank-{rank:05d}-{len(written.files):03d}.safetensors"
        save_file(batch, folder / name)
        usual_mode(folder / name)
        fsync_file(folder / name)
        written.files[name] = {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
        batch, size = {}, 0

    for piece in share:
        if piece.tensors["master"].numel() == 0:
            continue
        bytes_of_piece = sum(t.numel() * t.element_size() for t in piece.tensors.values())
        if size and size + bytes_of_piece > FILE_BYTES:
            flush()
        file = f"rank-{rank:05d}-{len(written.files):03d}.safetensors"
        part = sum(key.split("#")[0] == f"master/{piece.name}" for key in batch)
        stored = StoredPiece(file, piece.layout.slices, part)
        batch.update({stored.key(kind, piece.name): tensor for kind, tensor in piece.tensors.items()})
        size += bytes_of_piece
        written.pieces.append((piece.name, piece.layout.global_shape, stored))
    flush()
    return written


class Saving:
    """A checkpoint on its way to the disk. Made and finished by all ranks.

    Args:
        background: a thread writes this rank's share from a copy of it, so that training may change the state at once;
            otherwise it is written in :meth:`finish`, from copies of a file's size.
    """

    def __init__(
        self,
        run_dir: Path,
        step: int,
        optimizer: AdamW,
        mesh: Mesh,
        *,
        state: dict[str, Any],
        config: dict[str, Any],
        keep_last: int,
        keep_every: int,
        background: bool,
    ) -> None:
        self.run_dir, self.step, self.mesh, self.state, self.config = run_dir, step, mesh, state, config
        self.keep_last, self.keep_every = keep_last, keep_every
        self.folder = step_folder(run_dir, step)
        self.temporary = temporary_of(self.folder)
        self.rank = _global_rank(mesh)
        problem: str | None = None
        if self.rank == 0:
            with caught() as failed:
                shutil.rmtree(self.temporary, ignore_errors=True)
                self.temporary.mkdir(parents=True)
            problem = failed.error
        self.problem = broadcast_object(problem, mesh.world_group)
        copies: Iterable[Piece] = map(_copy, _my_share(list(optimizer.pieces()), mesh))
        self._written = Written()
        self._thread: threading.Thread | None = None
        if background and self.problem is None:
            copies = list(copies)
            self._thread = threading.Thread(target=self._write, args=(copies,), name="jpllm-checkpoint", daemon=True)
            self._thread.start()
        self._copies = copies

    def _write(self, copies: Iterable[Piece]) -> None:
        with caught() as failed:
            self._written = _write_share(self.temporary, self.rank, copies)
        if failed.error is not None:
            self._written = Written(error=failed.error)

    @property
    def written(self) -> bool:
        """Whether this rank's share is on the disk, or has failed to get there: finish() will not wait for it."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Until this rank writes no more."""
        if self._thread is not None:
            self._thread.join()

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """This rank's files, as the manifest has them, when they are written."""
        return self._written.files

    def finish(self, spare: Collection[int] = ()) -> Path:
        """Make it a checkpoint and remove those that are no longer kept, but not those of the steps ``spare``.

        Returns its folder. Raises SaveError on every rank when any rank could not write (disk full, permission).
        """
        mesh, problem = self.mesh, self.problem
        if problem is None:
            if self._thread is None:
                self._write(self._copies)
            self.wait()
            reports = gather_objects(self._written, mesh.world_group)
            if self.rank == 0:
                assert reports is not None
                problem = next((f"rank {r}: {w.error}" for r, w in enumerate(reports) if w.error), None)
                if problem is None:
                    with caught() as failed:
                        _publish(self.folder, self.temporary, reports, self.step, self.state, self.config)
                        sweep(self.folder.parent, self.keep_last, self.keep_every, spare)
                    problem = failed.error
            problem = broadcast_object(problem, mesh.world_group)
        if problem is not None:
            if self.rank == 0:
                shutil.rmtree(self.temporary, ignore_errors=True)
            raise SaveError(f"checkpoint of step {self.step} was not written ({problem})")
        return self.folder


def save(
    run_dir: Path,
    step: int,
    optimizer: AdamW,
    mesh: Mesh,
    *,
    state: dict[str, Any],
    config: dict[str, Any],
    keep_last: int,
    keep_every: int,
) -> Path:
    """Write the checkpoint of ``step`` and wait for it; see `Saving`."""
    return Saving(
        run_dir,
        step,
        optimizer,
        mesh,
        state=state,
        config=config,
        keep_last=keep_last,
        keep_every=keep_every,
        background=False,
    ).finish()


def _copy(piece: Piece) -> Piece:
    """The piece with tensors of its own, on the CPU."""
    return replace(piece, tensors={kind: tensor.detach().cpu().clone() for kind, tensor in piece.tensors.items()})


def _publish(
    folder: Path, temporary: Path, reports: list[Written], step: int, state: dict[str, Any], config: dict[str, Any]
) -> None:
    manifest = Manifest(step, state, config, {}, {})
    for report in reports:
        manifest.files.update(report.files)
        for name, shape, piece in report.pieces:
            manifest.tensors.setdefault(name, StoredTensor(shape)).pieces.append(piece)
    manifest.write(temporary)
    fsync_file(temporary / MANIFEST)
    publish(temporary, folder)


def load(
    folder: Path,
    optimizer: AdamW,
    mesh: Mesh,
    *,
    copy: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Manifest:
    """Fill the optimizer's buffers (and the model through them) from a checkpoint. Called by all ranks.

    Files are verified before anything is used, each by one rank. One that is not whole is taken from ``copy``, the
    folder of the checkpoint's second copy, which ``say`` gets to hear in one line. Raises UserError on every rank,
    with the file's name, when one is whole nowhere, and when the checkpoint is not of this model.
    """
    folders = [folder] if copy is None else [folder, copy]
    manifest, note = on_first_rank(lambda: Manifest.first_of(folders), mesh.world_group)
    mine = sorted(manifest.files)[_global_rank(mesh) :: _global_size(mesh)]
    parts = gather_objects({entry.name for _, entry in optimizer.flat.entries()}, mesh.group("pp"))
    names = broadcast_object(set().union(*parts or ()), mesh.group("pp"))
    found = locate(folders, manifest, mine)
    found.problem = found.problem or _mismatch(manifest, optimizer, names)
    everywhere = Located()
    for located in gather_objects(found, mesh.world_group) or ():
        everywhere.add(located)
    everywhere = broadcast_object(everywhere, mesh.world_group)
    if everywhere.problem is not None:
        whole = " and ".join(map(str, folders))
        raise UserError(f"{everywhere.problem}; remove {whole} to go on from the checkpoint before it")
    for line in (note, everywhere.note()):
        if line is not None and say is not None:
            say(line)
    reader = PieceReader(folder, manifest, everywhere.elsewhere)
    for piece in optimizer.pieces():
        for kind, tensor in piece.tensors.items():
            if tensor.numel():
                reader.read_into(tensor, kind, piece.name, piece.layout.slices)
    optimizer.flat.master_to_model()
    return manifest


def _mismatch(manifest: Manifest, optimizer: AdamW, names: set[str]) -> str | None:
    """Why the checkpoint is not of this model, or None; ``names`` are those of all ranks of the pipeline."""
    wanted = {entry.name: entry.layout.global_shape for _, entry in optimizer.flat.entries()}
    for name, shape in wanted.items():
        if name not in manifest.tensors:
            return f"the checkpoint has no tensor {name!r}{did_you_mean(name, manifest.tensors)}"
        if manifest.tensors[name].shape != tuple(shape):
            return f"{name} is {manifest.tensors[name].shape} in the checkpoint and {tuple(shape)} in the config"
    extra = next((name for name in manifest.tensors if name not in names), None)
    return f"the checkpoint has a tensor {extra!r} that the config's model has not" if extra else None


def _global_rank(mesh: Mesh) -> int:
    return mesh.world_group.rank() if mesh.world_group is not None else 0


def _global_size(mesh: Mesh) -> int:
    return mesh.world_group.size() if mesh.world_group is not None else 1


__all__ = ["SaveError", "Saving", "load", "save"]
