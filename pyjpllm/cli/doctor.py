"""`jpllm doctor`: what this machine has for training, and what is wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyjpllm.cli import exits

if TYPE_CHECKING:
    from pyjpllm.bench.doctor import Diagnosis

EXAMPLE = "Example: jpllm doctor (or, for the ranks of a job: mpirun -n 4 jpllm doctor)"


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show processor, memory, threads, MPI, backends, GPU and disk, and name what is wrong with its remedy.

    Exits with 0 when this machine can train, 1 when it cannot.
    """
    from pyjpllm.bench.doctor import diagnose

    if exits.rank() != 0:  # under mpirun one rank speaks for its node
        return
    found = diagnose(ranks_here=exits.ranks_here())
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        _print(found)
    if not found.usable:
        raise typer.Exit(exits.FAILED)


def _print(found: Diagnosis) -> None:
    for section, facts in found.facts.items():
        typer.echo(section)
        width = max((len(name) for name in facts), default=0)
        for name, value in facts.items():
            lines = [str(line) for line in value] if isinstance(value, list) else [_plain(value)]
            for index, line in enumerate(lines or ["none"]):
                typer.echo(f"  {name if index == 0 else '':<{width}}  {line}")
    typer.echo("")
    for finding in found.findings:
        typer.echo(f"{finding.level}: {finding.what}\n  remedy: {finding.remedy}")
    word = "ready to train" if found.usable else "not usable as it is"
    count = len(found.findings)
    typer.echo(f"{word}; {count or 'no'} finding{'s' if count != 1 else ''}")


def _plain(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
