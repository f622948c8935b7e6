"""A trained model from wherever it is: a run folder, one of its checkpoints, or a Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pyjpllm.config.schema import Config, ModelConfig
from pyjpllm.errors import UserError
from pyjpllm.model import Transformer
from pyjpllm.model.huggingface import load_config, load_weights
from pyjpllm.parallel import TensorParallel, layout_of
from pyjpllm.training.experts import load_expert_biases
from pyjpllm.training.manifest import MANIFEST, Manifest, PieceReader, latest, verify


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, its shape, and the folder of its tokenizer (None when it has none)."""

    model: Transformer
    config: ModelConfig
    tokenizer: Path | None
    source: Path
    """The checkpoint or Hugging Face folder that was read."""


def find_model(path: Path) -> Path:
    """The checkpoint folder or Hugging Face folder that ``path`` means; UserError when it means neither."""
    if not path.is_dir():
        raise UserError(f"{path} is no folder; give a run folder, a checkpoint or a Hugging Face folder")
    if (path / MANIFEST).is_file() or (path / "config.json").is_file():
        return path
    newest = latest(path)
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
    if (source / MANIFEST).is_file():
        manifest = Manifest.read(source)
        config = Config.model_validate(manifest.config).model
        model = Transformer(config, tp=parallel, dtype=dtype, device=device)
        _fill(model, source, manifest)
        tokenizer = source.parent.parent / "tokenizer"
    else:
        config = load_config(source)
        model = Transformer(config, tp=parallel, dtype=dtype, device=device)
        load_weights(model, source)
        tokenizer = source
    model.eval()
    return Loaded(model, config, tokenizer if (tokenizer / "tokenizer.model").is_file() else None, source)


@torch.no_grad()
def _fill(model: Transformer, folder: Path, manifest: Manifest) -> None:
    fault = verify(folder, manifest, sorted(manifest.files))
    if fault:
        raise UserError(fault)
    reader = PieceReader(folder, manifest)
    for name, param in model.named_parameters():
        if name not in manifest.tensors:
            raise UserError(f"{folder} has no tensor {name!r}")
        part = torch.empty(param.shape, dtype=torch.float64 if param.dtype == torch.float64 else torch.float32)
        if part.numel():
            reader.read_into(part, "master", name, layout_of(param).slices)
        param.copy_(part)
    load_expert_biases(model, manifest.state.get("expert_biases", {}))
