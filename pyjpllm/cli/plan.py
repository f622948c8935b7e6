"""`jpllm plan`: what a layout will do, before it runs. `schedule`: the pipeline's tables; `memory`: bytes by rank."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyjpllm.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pyjpllm.parallel.pipeline import Costs, Schedule
    from pyjpllm.training.memory import Plan

app = typer.Typer(help="What a layout will do, before it runs.", no_args_is_help=True)

EXAMPLE = "Example: jpllm plan schedule zb-v --ranks 4 --micro-batches 8 --html zb-v.html"
SEARCHED = "searched"
_FOR = {"chunks": "interleaved", **dict.fromkeys(("memory", "placement", "one_step", "tries"), SEARCHED)}
"""The options that one schedule alone reads."""


@app.callback()
def _group() -> None:
    """What a layout will do, before it runs."""


@app.command("schedule", epilog=EXAMPLE)
def schedule(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="gpipe, 1f1b, interleaved, zb-h1, zb-v, or searched; without it all but the last are compared.",
            show_default=False,
        ),
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks of the pipeline.")] = 4,
    micro_batches: Annotated[int, typer.Option(min=1, help="Micro-batches of a step.")] = 8,
    times: Annotated[
        str, typer.Option(help="Time of F, B and W of a rank's whole part, by commas, in any one unit.")
    ] = "1,1,1",
    message: Annotated[float, typer.Option(min=0, help="Time of a message between ranks, in the same unit.")] = 0.0,
    chunks: Annotated[
        int, typer.Option(min=2, help="interleaved: pieces of the model on each rank.", show_default="2")
    ] = 2,
    memory: Annotated[
        float | None,
        typer.Option(
            help="searched: most activations on a rank, in micro-batches of its whole part.",
            show_default="as 1f1b's first rank",
        ),
    ] = None,
    placement: Annotated[
        str, typer.Option(help="searched: v (two pieces a rank, down and up again) or straight (one).")
    ] = "v",
    one_step: Annotated[
        bool, typer.Option("--one-step", help="searched: for one step by itself, where all ranks wait at its end.")
    ] = False,
    tries: Annotated[int, typer.Option(min=0, help="searched: moves that are tried.")] = 2000,
    html: Annotated[Path | None, typer.Option(help="Write a page with the pictures.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures, and of one schedule its table.")] = False,
) -> None:
    """Draw a pipeline schedule, or compare all: bubbles, memory, messages.

    Predictions from the given times. "bubble" is the share of all ranks' time that is idle in one step by itself;
    "between steps" where a rank that is done starts the next step without waiting for the others.
    """
    from pyjpllm.cli.outputs import file_to_write
    from pyjpllm.files import atomic_write
    from pyjpllm.parallel.pipeline import NAMES, draw, named, simulate

    if html is not None:
        file_to_write("--html", html)
    if name is not None and name not in (*NAMES, SEARCHED):
        raise UserError(f"plan schedule {name!r}: no such schedule{did_you_mean(name, (*NAMES, SEARCHED))}")
    for option, reader in _FOR.items():
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE" and name not in _compared_with(reader):
            written = f"--{option.replace('_', '-')}"
            raise UserError(f"{written} is for the schedule {reader}; leave it out, or write plan schedule {reader}")
    if placement not in ("v", "straight"):
        raise UserError(f"--placement {placement!r}{did_you_mean(placement, ('v', 'straight'))}")
    three = _three(times)
    if name == SEARCHED:
        found = [_searched(ranks, micro_batches, three, message, memory, placement, one_step, tries)]
    else:
        found = [named(one, ranks, micro_batches, chunks) for one in (NAMES if name is None else (name,))]
    lines, drawings = [], []
    for one in found:
        costs = _costs(one, three, message)
        timeline = simulate(one, costs)
        figures = _figures(one, costs)
        lines.append(figures)
        drawings.append((_sentence(figures), timeline))
    if html is not None:
        with atomic_write(html) as beside:
            beside.write_text(draw.page(f"{ranks} ranks, {micro_batches} micro-batches", drawings), encoding="utf-8")
    if as_json:
        table = [[(action.kind.value, *action[1:]) for action in row] for row in found[0].rows]
        answer: Any = lines if name is None else lines[0] | {"rank_of": found[0].rank_of, "rows": table}
        typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    if name is None:
        typer.echo(_table(lines))
    else:
        typer.echo(draw.text(drawings[0][1]))
        typer.echo(f"\n{drawings[0][0]}")
    if html is not None:
        typer.echo(f"page: {html}")


def _compared_with(reader: str) -> tuple[str | None, ...]:
    """The names that plan a schedule: its own, and none at all, by which all but the searched one are compared."""
    return (reader,) if reader == SEARCHED else (reader, None)


MEMORY_EXAMPLE = "Example: jpllm plan memory config.toml parallel.pipeline=4 --ranks 16"


@app.command("memory", epilog=MEMORY_EXAMPLE)
def memory(
    config: Annotated[Path, typer.Argument(help="The run's TOML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Fields that replace the file's.")
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, help="Ranks of the job.", show_default="the fewest that the config asks for"),
    ] = None,
    expert_load: Annotated[
        float,
        typer.Option(
            min=1, help="Rows that a rank's experts get, over an even share: expert_load_max of a run is a bound."
        ),
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures for a program.")] = False,
) -> None:
    """Memory of weights, gradients, optimizer and activations on each stage, and the pipeline's idle share.

    Predicted from the config, no file but it is read; model.vocab_size must be in it. Temporaries of operations,
    buffers of MPI and the libraries themselves come on top.
    """
    from pyjpllm.cli.train import load
    from pyjpllm.config import check_config
    from pyjpllm.training.memory import plan

    wanted = load(config, overrides or [])
    if wanted.model.vocab_size == 0:
        raise UserError("plan memory needs model.vocab_size: write it, or model.vocab_size=32000 behind the file")
    size = ranks or wanted.parallel.fewest_ranks
    check_config(wanted, size, source=config, machine=False, files=False)
    if expert_load > 1 and wanted.parallel.expert == 1:
        raise UserError(
            f"--expert-load {expert_load:g}: with parallel.expert = 1 no rank's rows depend on a load; leave it out"
        )
    found = plan(wanted, size, expert_load)
    if as_json:
        fields = {"ranks": size, "sizes": found.sizes, "micro_batches": found.micro_batches}
        fields |= {"schedule": found.schedule.name, "bubble": found.bubble}
        fields |= {"bubble_between_steps": found.steady_bubble}
        stages = [dataclasses.asdict(stage) | {"total": stage.total} for stage in found.ranks]
        typer.echo(json.dumps({**fields, "stages": stages}))
        return
    layout = " x ".join(f"{name} {count}" for name, count in found.sizes.items() if count > 1) or "one rank"
    typer.echo(f"{size} ranks as {layout}, {found.micro_batches} micro-batches a step\n")
    typer.echo(_stages(found))
    typer.echo("\nGiB on each stage's first tensor-parallel rank, predicted; temporaries and libraries come on top")
    if len(found.ranks) > 1:
        name, bubbles = found.schedule.name, f"{found.bubble:.1%}, between steps {found.steady_bubble:.1%}"
        typer.echo(f"{name}: bubble {bubbles} (predicted)")


def _stages(found: Plan) -> str:
    parts = ("weights", "gradients", "optimizer", "activations", "total")
    rows: list[tuple[str, ...]] = [("stage", "layers", "parameters", *parts)]
    for one in found.ranks:
        sizes = [f"{getattr(one, part) / 2**30:.2f}" for part in parts]
        rows.append((str(one.rank), "+".join(map(str, one.layers)), f"{one.parameters:,}", *sizes))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def _three(times: str) -> tuple[float, float, float]:
    try:
        forward, gradient, weight = (float(part) for part in times.split(","))
    except ValueError:
        raise UserError(f"--times {times!r}: three numbers are needed, as in 1,1,1") from None
    for part in (forward, gradient, weight):
        if not (math.isfinite(part) and part > 0):
            raise UserError(f"--times {times!r}: each must be above 0")
    return forward, gradient, weight


def _costs(schedule: Schedule, times: tuple[float, float, float], message: float) -> Costs:
    """Each piece of a rank takes its share of the times and of the memory."""
    from pyjpllm.parallel.pipeline import Costs

    pieces = schedule.chunks // schedule.ranks
    forward, gradient, weight = (time / pieces for time in times)
    even = Costs.even(schedule.chunks, forward, gradient, weight, message)
    return Costs(even.forward, even.input, even.weight, message, (1 / pieces,) * schedule.chunks)


def _searched(
    ranks: int,
    micro_batches: int,
    times: tuple[float, float, float],
    message: float,
    memory: float | None,
    placement: str,
    one_step: bool,
    tries: int,
) -> Schedule:
    from pyjpllm.parallel.pipeline import Schedule, search, straight, v_shape

    rank_of = v_shape(ranks) if placement == "v" else straight(ranks)
    costs: Costs = _costs(Schedule(SEARCHED, rank_of, micro_batches, ((),) * ranks), times, message)
    limit = float(ranks) if memory is None else memory
    if not limit >= 1:
        raise UserError(f"--memory {limit:g}: a rank holds at least one micro-batch of its part: 1 or more")

    def say(count: int, bubble: float) -> None:
        print(f"{count} of {tries} moves, bubble {bubble:.2%}", file=sys.stderr, flush=True)

    loud = say if sys.stderr.isatty() else None
    return search(rank_of, micro_batches, costs, limit, steady=not one_step, tries=tries, say=loud)


def _figures(schedule: Schedule, costs: Costs) -> dict[str, Any]:
    from pyjpllm.parallel.pipeline import peak_memory, simulate, steady_bubble

    return {
        "schedule": schedule.name,
        "bubble": simulate(schedule, costs).bubble,
        "bubble_between_steps": steady_bubble(schedule, costs),
        "peak_memory": max(peak_memory(schedule, costs)),
        "messages_per_micro_batch": sum(1 for _ in schedule.messages()) / schedule.micro_batches,
    }


def _sentence(figures: dict[str, Any]) -> str:
    return (
        f"{figures['schedule']}: bubble {figures['bubble']:.1%}, between steps {figures['bubble_between_steps']:.1%}; "
        f"at most {figures['peak_memory']:g} micro-batches of activations on a rank, "
        f"{figures['messages_per_micro_batch']:g} messages a micro-batch (predicted)"
    )


def _table(lines: list[dict[str, Any]]) -> str:
    head = f"{'schedule':<12} {'bubble':>8} {'between steps':>14} {'memory':>8} {'messages':>9}"
    body = [
        f"{one['schedule']:<12} {one['bubble']:>8.1%} {one['bubble_between_steps']:>14.1%} {one['peak_memory']:>8g} "
        f"{one['messages_per_micro_batch']:>9g}"
        for one in lines
    ]
    units = "memory: micro-batches of activations on the fullest rank; messages: a micro-batch; all predicted"
    return "\n".join([head, *body, "", units])
