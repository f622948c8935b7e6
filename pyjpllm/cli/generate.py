"""`jpllm generate PATH --prompt TEXT`: continue a text with a trained model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyjpllm.cli.exits import work_starts
from pyjpllm.errors import UserError

if TYPE_CHECKING:
    from pyjpllm.data import Tokenizer
    from pyjpllm.distributed import World
    from pyjpllm.training import Loaded

EXAMPLE = "Example: jpllm generate runs/first --prompt 昔々あるところに --max-new-tokens 50 --seed 7"


class Dtype(str, Enum):
    """Number formats a model is run in."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp64 = "fp64"


class Device(str, Enum):
    """Where to compute."""

    cpu = "cpu"
    cuda = "cuda"


class Kernels(str, Enum):
    """Backends of the operations."""

    torch = "torch"
    native = "native"
    reference = "reference"


def command(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A run, one of its checkpoints, or a Hugging Face folder.")
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Text to continue; may be given several times.", show_default="stdin"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most this many tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that reach this probability.")] = 0.95,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw from this many likeliest tokens.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the draws: the same gives the same text.")
    ] = 0,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of tokenizer.model.", show_default="the one with the model")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Number format to compute in.")] = Dtype.fp32,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
    kernels: Annotated[Kernels, typer.Option(help="Backend of the operations.")] = Kernels.torch,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of prompts and continuations.")] = False,
) -> None:
    """Continue each prompt, or the text on standard input, with the model in PATH.

    Under mpirun the ranks share the model (tensor parallelism).
    """
    if not 0.0 < top_p <= 1.0:
        raise UserError(f"--top-p {top_p} is out of range: greater than 0, at most 1")
    loaded, world = load(path, dtype=dtype.value, device=device.value, kernels=kernels.value)
    if loaded.note is not None and world.rank == 0:
        typer.echo(loaded.note, err=True)
    tok = load_tokenizer(loaded, path, tokenizer)
    if tok.vocab_size > loaded.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tok.vocab_size} tokens, but the model in {path} {loaded.config.vocab_size}; "
            "give the one it was trained with as --tokenizer"
        )
    work_starts()
    chief = world.rank == 0
    answers: list[dict[str, Any]] = []
    for prompt in _shared(prompts or _from_stdin(chief), world):
        ids = prompt_ids(tok, prompt)
        new: list[int] = []
        text = ""
        if chief and not as_json:
            typer.echo(prompt, nl=False)
        for token in _stream(loaded, ids, tok, max_new_tokens, temperature, top_p, top_k, seed):
            new.append(token)
            if chief and not as_json:  # a character may be several tokens: show what is sure
                whole = tok.continuation(ids, new).rstrip("\ufffd")
                typer.echo(whole[len(text) :], nl=False)
                text = whole
                sys.stdout.flush()
        if chief and not as_json:
            typer.echo(tok.continuation(ids, new)[len(text) :])
        ended = bool(new) and new[-1] == tok.eos_id
        answers.append(
            {"prompt": prompt, "continuation": tok.continuation(ids, new), "tokens": len(new), "ended": ended}
        )
    if chief and as_json:
        typer.echo(json.dumps(answers, ensure_ascii=False, indent=2))
    from pyjpllm.distributed import finalize

    finalize()


def load(path: Path, *, dtype: str, device: str, kernels: str) -> tuple[Loaded, World]:
    """The model of ``path`` on this process, or this rank's part of it."""
    import torch

    from pyjpllm import ops
    from pyjpllm.distributed import init, make_mesh
    from pyjpllm.parallel import TensorParallel
    from pyjpllm.training import find_model, load_model

    find_model(path)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: torch {torch.__version__} sees no GPU here; leave it out")
    world = init("nccl" if device == "cuda" else "mpi4py")
    tp = TensorParallel.from_mesh(make_mesh(world, dp=1, tp=world.size), sequence=False)
    ops.use_backend(kernels)
    number = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[dtype]
    return load_model(path, dtype=number, tp=tp, device=device), world


def load_tokenizer(loaded: Loaded, path: Path, given: Path | None) -> Tokenizer:
    """The tokenizer that is given, or the one that lies with the model."""
    from pyjpllm.data import Tokenizer

    folder = given or loaded.tokenizer
    if folder is None:
        raise UserError(f"{path} has no tokenizer.model; name its folder with --tokenizer")
    return Tokenizer.load(folder)


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of a prompt as a document begins: after bos where the tokenizer has its own, after eos when it is empty.

    Raises UserError for a prompt that is no text."""
    try:
        ids = tokenizer.encode(prompt)
    except UnicodeEncodeError:
        raise UserError(f"the prompt {prompt[:20]!r} is not UTF-8; convert it, e.g. with iconv") from None
    own_bos = tokenizer.bos_id != tokenizer.eos_id
    return [tokenizer.bos_id, *ids] if own_bos or not ids else ids


def _from_stdin(chief: bool) -> list[str]:
    if not chief:  # the launcher gives standard input to rank 0
        return []
    if sys.stdin.isatty():
        raise UserError("no --prompt, and standard input is the terminal; give --prompt TEXT or pipe a text in")
    try:
        return [sys.stdin.read().rstrip("\n")]
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 ({error}); convert it, e.g. with iconv") from None


def _shared(prompts: list[str], world: World) -> list[str]:
    if world.size == 1:
        return prompts
    import torch.distributed as dist

    box: list[Any] = [prompts]
    dist.broadcast_object_list(box, src=0)
    shared: list[str] = box[0]
    return shared


def _stream(
    loaded: Loaded,
    ids: list[int],
    tokenizer: Tokenizer,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int | None,
    seed: int,
) -> Iterator[int]:
    from pyjpllm.model import stream

    return stream(
        loaded.model,
        ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        eos_id=tokenizer.eos_id,
    )
