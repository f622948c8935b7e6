"""`jpllm convert SRC DST`: a trained model as a Hugging Face folder, and a Hugging Face folder as a run's start."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyjpllm.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pyjpllm.config.schema import ModelConfig
    from pyjpllm.training.manifest import PieceReader

EXAMPLE = """Examples: jpllm convert runs/first exported --dtype bf16

jpllm convert llama-3.2-1b runs/continued --to checkpoint --config config.toml"""


class Target(str, Enum):
    """What is written."""

    hf = "hf"
    checkpoint = "checkpoint"


class Dtype(str, Enum):
    """Number formats of weights in a Hugging Face folder."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A run, one of its checkpoints, or a Hugging Face folder.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    to: Annotated[
        Target, typer.Option("--to", help="A Hugging Face folder, or the first checkpoint of a run in DST.")
    ] = Target.hf,
    dtype: Annotated[
        Dtype | None, typer.Option(help="With --to hf: type of the weights.", show_default="as in SRC")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="With --to hf: tokenizer to put in.", show_default="the one with the model")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="With --to checkpoint: the config that the run will be trained with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the model of SRC as a Hugging Face folder DST, which `transformers` loads with the same logits.

    With --to checkpoint, SRC's weights become step 0 of a run in DST, and `jpllm train CONFIG --run DST` starts from
    it. (A run also starts from a Hugging Face folder that its config names as model.init_from.)
    """
    from pyjpllm.cli.outputs import folder_to_write
    from pyjpllm.training import find_model

    model = find_model(source)
    folder_to_write("DST", target)
    if target.resolve() == model.resolve():
        raise UserError(f"{target} is the source itself; name another folder")
    if to is Target.checkpoint:
        if config is None:
            raise UserError("--to checkpoint needs --config: the config that the run will be trained with")
        if dtype is not None or tokenizer is not None:
            raise UserError("--dtype and --tokenizer go with --to hf; a run has its own in its config")
        written = _to_checkpoint(model, target, config)
    else:
        if config is not None:
            raise UserError("--config goes with --to checkpoint")
        written = _to_hf(model, target, dtype, tokenizer)
    if as_json:
        typer.echo(json.dumps(written, ensure_ascii=False))
    else:
        typer.echo(f"{written['path']}: {written['parameters']:,} parameters as {written['dtype']}, from {model}")


def _to_hf(source: Path, target: Path, dtype: Dtype | None, tokenizer: Path | None) -> dict[str, Any]:
    from pyjpllm.model import count_parameters
    from pyjpllm.model.huggingface import export, is_part
    from pyjpllm.ops.types import DTYPES

    if target.is_dir() and not (target / "config.json").is_file() and not all(map(is_part, target.iterdir())):
        raise UserError(f"{target} holds something else than a Hugging Face model; name a new folder")
    state, config, own, found = _read(source)
    number = DTYPES[dtype.value] if dtype is not None else own
    words = tokenizer or found
    export(state, config, target, tokenizer=words, dtype=number)
    return {
        "path": str(target),
        "parameters": count_parameters(config),
        "dtype": str(number).removeprefix("torch."),
        "tokenizer": str(words) if words is not None else None,
    }


def _read(source: Path) -> tuple[Mapping[str, Tensor], ModelConfig, torch.dtype, Path | None]:
    """Weights, shape, type of weights and tokenizer folder (if any) of a checkpoint or a Hugging Face folder."""
    import torch

    from pyjpllm.config.schema import Config
    from pyjpllm.ops.types import DTYPES
    from pyjpllm.training import load_model
    from pyjpllm.training.loading import open_checkpoint, tokenizer_of

    if (source / "manifest.json").is_file():
        reader, note = open_checkpoint(source)
        if note is not None:
            typer.echo(note, err=True)
        resolved = Config.model_validate(reader.manifest.config)
        return CheckpointState(reader), resolved.model, DTYPES[resolved.precision.dtype], tokenizer_of(source)
    loaded = load_model(source)
    state = {name: param.detach() for name, param in loaded.model.named_parameters()}
    table = json.loads((source / "config.json").read_text(encoding="utf-8"))
    named = getattr(torch, str(table.get("dtype") or table.get("torch_dtype") or "float32"), None)
    number = named if isinstance(named, torch.dtype) else torch.float32
    has_tokenizer = any((source / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return state, loaded.config, number, source if has_tokenizer else loaded.tokenizer


class CheckpointState(Mapping[str, "Tensor"]):
    """The weights of a checkpoint by name, each read when it is asked for."""

    def __init__(self, reader: PieceReader) -> None:
        self._names = tuple(reader.manifest.tensors)
        self._reader = reader

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._reader.whole("master", name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _to_checkpoint(source: Path, run: Path, path: Path) -> dict[str, Any]:
    import torch

    from pyjpllm.cli.train import load
    from pyjpllm.config import check_config
    from pyjpllm.config.schema import Config
    from pyjpllm.data import Tokenizer
    from pyjpllm.distributed import World, make_mesh
    from pyjpllm.model import Transformer
    from pyjpllm.parallel import FlatParameters
    from pyjpllm.training import complete_steps
    from pyjpllm.training.checkpoint import save
    from pyjpllm.training.optimizer import AdamW
    from pyjpllm.training.rundir import prepare
    from pyjpllm.training.scaling import LossScale

    if complete_steps(run):
        raise UserError(f"{run} has checkpoints already; name a new folder")
    config = load(path, ())
    check_config(config, config.parallel.fewest_ranks, source=path, machine=False)
    state = _read(source)[0]
    tokenizer = Tokenizer.load(config.data.tokenizer)
    if config.model.vocab_size == 0:
        model_config = config.model.model_copy(update={"vocab_size": tokenizer.vocab_size})
        config = Config.model_validate(config.model_copy(update={"model": model_config}))
    number = torch.float64 if config.precision.dtype == "fp64" else torch.float32
    model = Transformer(config.model, dtype=number)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if name not in state:
                raise UserError(f"{source} has no {name!r}, which the model of {path} has")
            value = state[name]
            if value.shape != param.shape:
                raise UserError(f"{name} is {list(value.shape)} in {source}, but {list(param.shape)} by {path}")
            param.copy_(value)
    extra = next((name for name in state if name not in dict(model.named_parameters())), None)
    if extra is not None:
        raise UserError(f"{source} has {extra!r}, which the model of {path} has not")
    prepare(run, config, tokenizer.model_path, None)
    mesh = make_mesh(World(rank=0, size=1, local_rank=0, local_size=1, backend="gloo"))
    flat = FlatParameters(model.named_parameters(), master_dtype=number)
    counters: dict[str, Any] = {"step": 0, "consumed": 0, "updates": 0, "skipped": 0, "in_a_row": 0}
    counters["loss_scale"] = LossScale(config.precision).state()
    folder = save(
        run,
        0,
        AdamW(flat, config.optimizer),
        mesh,
        state=counters,
        config=config.model_dump(mode="json"),
        keep_last=1,
        keep_every=0,
    )
    flat.remove_hooks()
    return {
        "path": str(folder),
        "parameters": sum(param.numel() for param in model.parameters()),
        "dtype": str(number).removeprefix("torch."),
    }
