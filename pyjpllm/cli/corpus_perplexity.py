"""`jpllm corpus perplexity train TEXT --out MODEL` and `jpllm corpus perplexity evaluate MODEL TEXT`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Language models over characters, for the perplexity of documents.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: jpllm corpus perplexity train books/ --out books.safetensors",
)

Text = Annotated[
    list[Path],
    typer.Argument(metavar="TEXT...", help="Documents: files, folders, patterns in quotes.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.command(epilog="Example: jpllm corpus perplexity train books/ --out books.safetensors")
def train(
    text: Text,
    out: Annotated[Path, typer.Option("--out", help="The model's file.", show_default=False)],
    order: Annotated[int, typer.Option(min=1, max=16, help="Characters of the longest n-grams.")] = 5,
    min_count: Annotated[int, typer.Option(min=1, help="Rarer n-grams of 3 characters and more are left out.")] = 2,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of documents that are only measured.")] = 0.05,
    max_gib: Annotated[float, typer.Option(min=0.001, help="Memory for the counts.")] = 4.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of what is held out.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a language model on text as it should be."""
    from pyjpllm.cli.outputs import file_to_write
    from pyjpllm.corpus.quality import train_language_model

    file_to_write("--out", out)
    model = train_language_model(
        text,
        order=order,
        min_count=min_count,
        held_out=held_out,
        max_gib=max_gib,
        seed=seed,
        progress=lambda line: typer.echo(f"corpus: {line}", err=True),
    )
    model.save(out)
    report = dict(model.report)
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(_trained(out, report)))


@app.command(epilog="Example: jpllm corpus perplexity evaluate books.safetensors crawl/part-1.jsonl.zst")
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model's file.", show_default=False)],
    text: Text,
    as_json: AsJson = False,
) -> None:
    """The perplexity of documents, in percentiles: where the limits of the stage may lie."""
    from pyjpllm.corpus import read_documents
    from pyjpllm.corpus.quality import load_language_model
    from pyjpllm.corpus.quality.perplexity import measure

    found = load_language_model(model)
    report = measure(found, (document.text for document in read_documents(text)))
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(_measured(report)))


def _size(report: dict[str, Any]) -> str:
    from pyjpllm.corpus.report import counted

    return f"{counted(report['documents'], 'document')} of {counted(report['characters'], 'character')}"


def _trained(out: Path, report: dict[str, Any]) -> list[str]:
    from pyjpllm.corpus.report import counted

    grams = report["n_grams"]
    lines = [
        f"{_size(report)}: {counted(grams['counted'], 'n-gram')}, {grams['kept']:,} of them in the model",
        f"model: {out} ({out.stat().st_size / 1e6:.1f} MB)",
    ]
    return [*lines, "", "held out:", *_measured(report["held_out"])] if "held_out" in report else lines


def _measured(report: dict[str, Any]) -> list[str]:
    head = f"{_size(report)}: perplexity per character {report['perplexity']:.2f}"
    percentiles = report["percentiles"].items()
    return [head, *(f"{percent:>4}% of the documents have at most {value:.2f}" for percent, value in percentiles)]
