"""A model as a Hugging Face folder that `transformers` loads."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from pyjpllm.config.schema import ModelConfig
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write, usual_mode
from pyjpllm.model.huggingface.config import architecture, config_json
from pyjpllm.model.huggingface.names import hf_names
from pyjpllm.model.huggingface.read import INDEX, SINGLE
from pyjpllm.model.transformer import Transformer
from pyjpllm.parallel import layout_of

# transformers' own size of a file.
SHARD_BYTES = 5_000_000_000

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


class TokenizerLike(Protocol):
    """What `export` needs of a tokenizer; `pyjpllm.data.Tokenizer` is one."""

    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def pad_id(self) -> int | None: ...
    def save_hf(self, folder: Path) -> None: ...


def export(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    folder: str | Path,
    tokenizer: TokenizerLike | str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``folder``: config.json, safetensors, generation_config.json and, if given, the tokenizer.

    ``state`` has the whole tensors by our names; a mapping that reads them when asked is read once, in order, a file
    of 5 GB at a time. ``tokenizer`` is a `pyjpllm.data.Tokenizer`, or a folder of one, or a Hugging Face folder whose
    tokenizer files are copied. ``dtype`` is that of the file; by default that of the embedding. A model that
    was in ``folder`` is replaced once all the new weights are there; other files stay. config.json comes last: a
    folder that has one is whole. Raises UserError, before anything is written, for weights that are not the config's
    and for a tokenizer that cannot be exported.
    """
    folder = Path(folder)
    shapes = {
        name: layout_of(param).global_shape for name, param in Transformer(config, device="meta").named_parameters()
    }
    missing, extra = shapes.keys() - state.keys(), state.keys() - shapes.keys()
    if missing or extra:
        what = ", ".join(sorted(missing or extra)[:4])
        raise UserError(f"cannot export: the model's weights {'lack' if missing else 'have no place for'} {what}")
    dtype = state["embedding.weight"].dtype if dtype is None else dtype
    ids, generation = _token_ids(tokenizer)
    kind = architecture(config)
    table = config_json(config, dtype=str(dtype).removeprefix("torch."), **ids)
    files = _plan(shapes, dtype)
    with contextlib.ExitStack() as writes:
        words = _tokenizer_files(tokenizer, writes)
        folder.mkdir(parents=True, exist_ok=True)
        for file, names in files.items():
            path = writes.enter_context(atomic_write(folder / file))
            tensors: dict[str, Tensor] = {}
            for name in names:
                whole = _checked(name, state[name], shapes[name], dtype)
                theirs = hf_names(name, shapes[name], kind)
                tensors |= zip(theirs, map(torch.clone, whole), strict=True) if whole.ndim == 3 else {theirs[0]: whole}
            save_file(tensors, path, metadata={"format": "pt"})
            usual_mode(path)
        if len(files) > 1:
            total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
            weight_map = {
                theirs: file
                for file, names in files.items()
                for name in names
                for theirs in hf_names(name, shapes[name], kind)
            }
            _write_json(writes.enter_context(atomic_write(folder / INDEX)), _index(total, weight_map))
        _remove_old(folder)
        for source in words:
            if source.resolve() != (folder / source.name).resolve():
                with atomic_write(folder / source.name) as path:
                    shutil.copyfile(source, path)
    with atomic_write(folder / "generation_config.json") as path:
        _write_json(path, generation)
    with atomic_write(folder / "config.json") as path:
        _write_json(path, table)


def is_part(path: Path) -> bool:
    """Whether a file is one that ``export`` writes, or left behind when it was killed."""
    name = path.name
    ours = (SINGLE, INDEX, "config.json", "generation_config.json", *_TOKENIZER_FILES)
    return name in ours or fnmatch(name, "model-*-of-*.safetensors") or fnmatch(name, ".*.tmp")


def _index(total: int, weight_map: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _plan(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, list[str]]:
    """Which tensors go into which file, in order, each file of at most `SHARD_BYTES` but for a larger tensor."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and held + size > SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{n:05d}-of-{len(shards):05d}.safetensors": names for n, names in enumerate(shards, 1)}


def _checked(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise UserError(f"cannot export: {name} is {list(tensor.shape)}, by the config it is {list(shape)}")
    return tensor.detach().to("cpu", dtype).contiguous()


def _remove_old(folder: Path) -> None:
    """Take an earlier model out of ``folder``, its config.json first; temporary files begin with a dot and stay."""
    (folder / "config.json").unlink(missing_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    for path in (folder / SINGLE, *folder.glob("model-*-of-*.safetensors")):
        path.unlink(missing_ok=True)


def _token_ids(tokenizer: TokenizerLike | str | Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ids for config.json, and generation_config.json, of the tokenizer."""
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    if tokenizer is None:
        return {}, {"_from_model_config": True}
    if isinstance(tokenizer, (str, Path)):
        if not _is_hf(Path(tokenizer)):
            return _token_ids(_load(tokenizer))
        known: dict[str, Any] = {}
        for file in ("config.json", "generation_config.json"):
            path = Path(tokenizer) / file
            if path.is_file():
                known.update(_read_json(path))
        ids = {key: known.get(key) for key in keys}
        path = Path(tokenizer) / "generation_config.json"
        return ids, _read_json(path) if path.is_file() else ids
    values = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    ids = {key: None if value is None or value < 0 else value for key, value in zip(keys, values, strict=True)}
    return ids, dict(ids)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no JSON object: {error}") from error


def _is_hf(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").is_file() or (folder / "tokenizer.json").is_file()


def _load(path: str | Path) -> TokenizerLike:
    from pyjpllm.data import Tokenizer  # a model is exported without a tokenizer, too

    return Tokenizer.load(path)


def _tokenizer_files(tokenizer: TokenizerLike | str | Path | None, held: contextlib.ExitStack) -> list[Path]:
    """The files of the tokenizer: those of a Hugging Face folder, or new ones that are there as long as ``held``."""
    if tokenizer is None:
        return []
    if isinstance(tokenizer, (str, Path)):
        if _is_hf(Path(tokenizer)):
            return [path for name in _TOKENIZER_FILES if (path := Path(tokenizer) / name).is_file()]
        tokenizer = _load(tokenizer)
    folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="jpllm-export-")))
    tokenizer.save_hf(folder)
    return sorted(folder.iterdir())
