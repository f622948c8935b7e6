"""Weights of a Hugging Face folder into a `Transformer`: each rank reads its slices of the safetensors, no more."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pyjpllm.errors import UserError
from pyjpllm.model.huggingface.config import architecture
from pyjpllm.model.huggingface.names import hf_names
from pyjpllm.model.transformer import Transformer
from pyjpllm.parallel import Layout, pieces_of

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_FLOATS = {"F64", "F32", "F16", "BF16"}


def _names(names: Iterable[str]) -> str:
    """The first few of many names."""
    listed = sorted(names)
    more = f" and {len(listed) - 4} more" if len(listed) > 5 else ""
    return ", ".join(listed[: 4 if more else 5]) + more


class Shards:
    """The safetensors files of a folder, opened as they are needed."""

    def __init__(self, folder: str | Path, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = Path(folder), stack
        self._open: dict[Path, Any] = {}
        self.files: dict[str, Path] = {}
        index, single = self.folder / INDEX, self.folder / SINGLE
        if index.is_file():
            self._read_index(index)
        elif single.is_file():
            self.files = dict.fromkeys(self._opened(single).keys(), single)
        else:
            other = next(self.folder.glob("*.bin"), None)
            hint = f" ({other.name} is an older format: save it as safetensors first)" if other else ""
            raise UserError(f"{self.folder} has neither {SINGLE} nor {INDEX}{hint}")

    def _read_index(self, index: Path) -> None:
        try:
            table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            self.files = {name: self.folder / file for name, file in table.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is no index of safetensors files: {error!r}") from error
        missing = sorted({path.name for path in self.files.values() if not path.is_file()})
        if missing:
            raise UserError(f"{self.folder} lacks {_names(missing)}, which {INDEX} names")

    def _opened(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} is truncated or no safetensors file: {error}") from error
        return self._open[path]

    def header(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and type of a tensor, without reading it."""
        path = self.files[name]
        try:
            view = self._opened(path).get_slice(name)
        except SafetensorError as error:
            raise UserError(f"{path} lacks {name}, which {INDEX} says it has") from error
        return tuple(view.get_shape()), view.get_dtype()

    def read(self, name: str, layout: Layout) -> torch.Tensor:
        """The piece of a tensor that ``layout`` names."""
        view = self._opened(self.files[name]).get_slice(name)
        piece: torch.Tensor = view[layout.index]
        return piece


@contextlib.contextmanager
def open_shards(folder: str | Path) -> Iterator[Shards]:
    """The safetensors of ``folder``, single or sharded; UserError for a file that is missing or broken."""
    with contextlib.ExitStack() as stack:
        yield Shards(folder, stack)


def load_weights(model: Transformer, folder: str | Path) -> None:
    """Fill ``model``, any layout and type of it, from the safetensors of a Hugging Face folder.

    Raises UserError naming the tensors that are missing, of another shape or type than the config says, or in the
    files but not in the model. Nothing is written before all names and shapes are right.
    """
    kind = architecture(model.config)
    whole = Transformer(model.config, device="meta")  # a rank of a pipeline has not all of it
    known = {one for name, param in whole.named_parameters() for one in hf_names(name, tuple(param.shape), kind)}
    wanted: dict[str, tuple[int, ...]] = {}
    pieces: list[tuple[str, torch.Tensor, Layout]] = []
    for name, param, layout in pieces_of(model):
        names = hf_names(name, layout.global_shape, kind)
        experts = param.ndim == 3
        wanted |= dict.fromkeys(names, layout.global_shape[1:] if experts else layout.global_shape)
        if not param.numel() or param.is_meta:
            continue
        if experts:
            one = Layout(layout.global_shape[1:], layout.slices[1:])
            pieces += [(names[e], part, one) for e, part in zip(range(*layout.slices[0]), param, strict=True)]
        else:
            pieces.append((names[0], param, layout))
    with open_shards(folder) as shards:
        missing = known - shards.files.keys()
        if missing:
            raise UserError(f"{folder} lacks {_names(missing)}")
        extra = {name for name in shards.files.keys() - known if not name.endswith(".rotary_emb.inv_freq")}
        if model.config.tie_embeddings:
            extra.discard("lm_head.weight")
        if extra:
            raise UserError(f"{folder} holds {_names(extra)}, which a model of its config.json does not have")
        for name, expected in wanted.items():
            shape, dtype = shards.header(name)
            if shape != expected:
                raise UserError(f"{folder}: {name} is {list(shape)}, by config.json it is {list(expected)}")
            if dtype not in _FLOATS:
                raise UserError(f"{folder}: {name} is of type {dtype}; supported: {', '.join(sorted(_FLOATS))}")
        with torch.no_grad():
            for name, piece, layout in pieces:
                piece.copy_(shards.read(name, layout))
