"""A trained model from wherever it is: a run folder, one of its checkpoints, or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pyjpllm.config.schema import Config, ModelConfig
from pyjpllm.errors import UserError
from pyjpllm.model import Transformer
from pyjpllm.model.huggingface import load_config, load_weights
from pyjpllm.parallel import TensorParallel, layout_of
from pyjpllm.training.copies import copies_of, copy_of
from pyjpllm.training.experts import load_expert_biases
from pyjpllm.training.folders import MANIFEST, latest
from pyjpllm.training.manifest import Manifest, PieceReader, locate


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, its shape, and the folder of its tokenizer (None when it has none)."""

    model: Transformer
    config: ModelConfig
    tokenizer: Path | None
    source: Path
    """The checkpoint or Hugging Face folder that was read."""
    note: str | None = None
    """A line about files that were not whole there and were read from the checkpoint's second copy."""


def find_model(path: Path) -> Path:
    """The checkpoint folder or Hugging Face folder that ``path`` means; UserError when it means neither."""
    if not path.is_dir():
        raise UserError(f"{path} is no folder; give a run folder, a checkpoint or a Hugging Face folder")
    if (path / MANIFEST).is_file() or (path / "config.json").is_file():
        return path
    newest = latest(path, copies_of(path))
    if newest is not None:
        return newest
    if (path / "config.toml").is_file() or (path / "checkpoints").is_dir():
        raise UserError(f"{path} has no complete checkpoint yet")
    raise UserError(f"{path} holds no model: neither {MANIFEST}, config.json nor checkpoints/ is in it")


def load_model(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    tp: TensorParallel | None = None,
    device: str | torch.device = "cpu",
) -> Loaded:
    """Load the model that ``path`` means, this rank's part of it when ``tp`` is given.

    Raises UserError, with the file's name, for a folder without a model and for a damaged file.
    """
    source = find_model(path)
    parallel = tp if tp is not None else TensorParallel()
    note: str | None = None
    if (source / MANIFEST).is_file():
        reader, note = open_checkpoint(source)
        config = Config.model_validate(reader.manifest.config).model
        model = Transformer(config, tp=parallel, dtype=dtype, device=device)
        _fill(model, reader)
        tokenizer = tokenizer_of(source)
    else:
        config = load_config(source)
        model = Transformer(config, tp=parallel, dtype=dtype, device=device)
        load_weights(model, source)
        tokenizer = source if (source / "tokenizer.model").is_file() else None
    model.eval()
    return Loaded(model, config, tokenizer, source, note)


def tokenizer_of(checkpoint: Path) -> Path | None:
    """The folder of the tokenizer that lies with a checkpoint, in its run's folder or where copies are kept."""
    for folder in (checkpoint.parent.parent, checkpoint.parent):
        if (folder / "tokenizer" / "tokenizer.model").is_file():
            return folder / "tokenizer"
    return None


def open_checkpoint(folder: Path) -> tuple[PieceReader, str | None]:
    """A reader of the checkpoint in ``folder``, all of whose files are verified first.

    Those that are not whole are read from the checkpoint's second copy, where the run's config has one; the second
    result says so in a line. UserError names a file that is whole nowhere.
    """
    copies = copies_of(folder.parent.parent) if folder.parent.name == "checkpoints" else None
    copy = copy_of(folder, copies)
    folders = [folder] if copy is None else [folder, copy]
    manifest, note = Manifest.first_of(folders)
    found = locate(folders, manifest, sorted(manifest.files))
    if found.problem is not None:
        raise UserError(found.problem)
    return PieceReader(folder, manifest, found.elsewhere), note or found.note()


def read_model_state(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight of a checkpoint by name, whole, FP32 (FP64 for an FP64 run), one at a time.

    All files are verified first, as `open_checkpoint` says; UserError names a damaged one.
    """
    reader, _ = open_checkpoint(folder)
    for name in reader.manifest.tensors:
        yield name, reader.whole("master", name)


@torch.no_grad()
def _fill(model: Transformer, reader: PieceReader) -> None:
    manifest = reader.manifest
    for name, param in model.named_parameters():
        if name not in manifest.tensors:
            raise UserError(f"{reader.folder} has no tensor {name!r}")
        part = torch.empty(param.shape, dtype=torch.float64 if param.dtype == torch.float64 else torch.float32)
        if part.numel():
            reader.read_into(part, "master", name, layout_of(param).slices)
        param.copy_(part)
    load_expert_biases(model, manifest.state.get("expert_biases", {}))
