"""`jpllm bench`: this machine measured. `step` is here, `kernels` in bench_kernels.py."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyjpllm.cli import bench_kernels
from pyjpllm.cli.generate import Kernels
from pyjpllm.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pyjpllm.config.schema import ModelConfig

app = typer.Typer(help="Measure this machine.", no_args_is_help=True)

EXAMPLE = "Example: jpllm bench step --model gpt-124m --dtype bf16 --kernels native --compile --threads 2"

# Models that figures are quoted for. The second has the sizes of the smallest GPT-2 in Llama's form: the head shares
# the embedding, and SwiGLU's three matrices of 2048 have as many weights as two of 3072.
MODELS: dict[str, dict[str, Any]] = {
    "llama-58m": {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 8, "intermediate_size": 1408},
    "gpt-124m": {
        "hidden_size": 768,
        "num_layers": 12,
        "num_heads": 12,
        "num_kv_heads": 12,
        "intermediate_size": 2048,
        "tie_embeddings": True,
    },
}
VOCABULARIES = {"llama-58m": 32_000, "gpt-124m": 50_304}


class Dtype(str, Enum):
    """Number formats of the step."""

    fp32 = "fp32"
    bf16 = "bf16"


app.command("kernels", epilog=bench_kernels.EXAMPLE)(bench_kernels.kernels)


@app.callback()
def _group() -> None:
    """Measure this machine."""


@app.command("step", epilog=EXAMPLE)
def step(
    model: Annotated[
        str | None, typer.Option(help="llama-58m or gpt-124m, of which figures are quoted.", show_default="llama-58m")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Sizes of a preset (see `jpllm train --presets`).")] = None,
    hidden: Annotated[int | None, typer.Option(min=2, help="Width of the model.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Number of blocks.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Query heads.")] = None,
    kv_heads: Annotated[int | None, typer.Option(min=1, help="Key and value heads.")] = None,
    ffn: Annotated[int | None, typer.Option(min=1, help="Width of the feed-forward.")] = None,
    vocab: Annotated[int | None, typer.Option(min=2, help="Vocabulary.", show_default="the model's, or 32000")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of the step.")] = 2,
    seq: Annotated[int, typer.Option(min=1, help="Tokens of a sequence.")] = 1024,
    dtype: Annotated[Dtype, typer.Option(help="Number format.")] = Dtype.fp32,
    kernels: Annotated[
        list[Kernels] | None, typer.Option(help="Our kernels; may be repeated.", show_default="torch")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Also transformers through torch.compile.")] = False,
    alone: Annotated[bool, typer.Option("--alone", help="Ours only, without transformers.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each side; the best one counts.")] = 5,
    core: Annotated[int | None, typer.Option(min=0, help="Core to measure on.", show_default="the last one")] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Time our first kernels by the wall clock on so many cores, too.")
    ] = 1,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, each side in its own process.")] = True,
    operations: Annotated[bool, typer.Option(help="Show where the time goes by operation.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time one whole training step (forward, backward, clipping, AdamW) of our model and of transformers' same model.

    One pinned core, CPU time, both in this run by turns. Exits with 1 when their losses differ.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # torch's profiler is silent, if this is set before torch is loaded
    from pyjpllm.bench.probe import pin

    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise UserError(f"--threads {threads}: this process may run on {len(cores)} core{'s' * (len(cores) > 1)}")
    pinned = pin(core)
    from pyjpllm.bench.sides import Work
    from pyjpllm.bench.step import run_step_bench, table
    from pyjpllm.bench.step_verdicts import step_verdicts, verdict_lines

    if model is not None and preset is not None:
        raise UserError(f"--model {model!r} and --preset {preset!r} are two models: give one of them")
    if model is not None and model not in MODELS:
        raise UserError(f"--model {model!r} is unknown{did_you_mean(model, MODELS)}; there are {', '.join(MODELS)}")
    shape = _shape(model or "llama-58m", preset, hidden, layers, heads, kv_heads, ffn, vocab, seq)
    ours = [one.value for one in dict.fromkeys(kernels or [Kernels.torch])]
    theirs = [] if alone else ["transformers"] + ["transformers-compiled"] * compiled
    found = run_step_bench(
        Work(shape, batch, seq, dtype.value),
        [*ours, *theirs],
        repeats=repeats,
        core=pinned,
        memory=memory,
        profile=operations,
        threads=threads,
        cores=cores,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if as_json:
        answer = found.as_dict() | {"verdicts": [asdict(verdict) for verdict in step_verdicts(found)]}
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        typer.echo("\n".join([table(found), "", *verdict_lines(found)]))
    if found.losses_agree is False:
        raise typer.Exit(1)


def _shape(
    model: str,
    preset: str | None,
    hidden: int | None,
    layers: int | None,
    heads: int | None,
    kv_heads: int | None,
    ffn: int | None,
    vocab: int | None,
    seq: int,
) -> ModelConfig:
    """One of `MODELS`, or a preset instead, with the sizes that are given put over it."""
    from pydantic import ValidationError

    from pyjpllm.config import PRESETS
    from pyjpllm.config.schema import ModelConfig

    sizes, vocabulary = dict(MODELS[model]), VOCABULARIES[model]
    if preset is not None:
        if preset not in PRESETS:
            raise UserError(f"--preset {preset!r} is unknown{did_you_mean(preset, PRESETS)}")
        sizes, vocabulary = dict(PRESETS[preset]), 32_000
    sizes.pop("head_dim", None)
    given = {"hidden_size": hidden, "num_layers": layers, "num_heads": heads, "intermediate_size": ffn}
    sizes |= {key: value for key, value in given.items() if value is not None}
    if kv_heads is not None or heads is not None:
        sizes["num_kv_heads"] = kv_heads or heads
    if sizes["num_heads"] % sizes["num_kv_heads"]:
        raise UserError(f"--kv-heads {sizes['num_kv_heads']} does not divide the {sizes['num_heads']} heads")
    if sizes["hidden_size"] % (2 * sizes["num_heads"]):
        raise UserError(
            f"--hidden {sizes['hidden_size']} over {sizes['num_heads']} heads gives no even head width; "
            f"take a multiple of {2 * sizes['num_heads']}"
        )
    sizes |= {"head_dim": sizes["hidden_size"] // sizes["num_heads"], "vocab_size": vocab or vocabulary}
    sizes["max_position"] = max(seq, int(sizes.get("max_position", 0)))
    try:
        return ModelConfig.model_validate(sizes)
    except ValidationError as error:
        raise UserError(f"jpllm bench step: {error.errors()[0]['msg']}") from None
