"""`jpllm report RUN`: a run in short on the terminal, and as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: jpllm report runs/first --out first.html"


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, going or done.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the page.", show_default="RUN/report.html")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Write one self-contained HTML page about a run, and print its figures in short."""
    from pyjpllm.cli.outputs import file_to_write
    from pyjpllm.evaluation.metrics import read_run
    from pyjpllm.evaluation.report import write_page
    from pyjpllm.evaluation.summary import summarize, summary_dict, summary_lines

    if out is not None:
        file_to_write("--out", out)
    found = read_run(run)
    summary = summarize(found)
    page = write_page(found, summary, out)
    if as_json:
        typer.echo(json.dumps({**summary_dict(summary), "report": str(page)}, ensure_ascii=False, indent=2))
        return
    for line in summary_lines(summary):
        typer.echo(line)
    typer.echo(f"\nreport: {page}")
