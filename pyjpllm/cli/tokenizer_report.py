"""`jpllm tokenizer report FILE... --tokenizer DIR [--tokenizer DIR ...]`."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pyjpllm.data.tokenizer_report import Fit, Report

EXAMPLE = "Example: jpllm tokenizer report heldout.jsonl --tokenizer mine --tokenizer theirs --domain source"
_DOMAINS = 40
_NAME = 32
_COLUMN = 16
_PIECES = 12


def command(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="JSON Lines (also .gz, .zst), Parquet or .txt files, folders of them, or patterns in quotes.",
            show_default=False,
        ),
    ],
    tokenizer: Annotated[
        list[Path],
        typer.Option(
            help="Folder that holds tokenizer.model, or that file; several are set side by side.", show_default=False
        ),
    ],
    domain: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="The field of meta that domains are; by default files.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON, a list.")] = False,
) -> None:
    """How tokenizers fit a text: characters a token by domain, byte fallback, round trip, scripts, unused pieces."""
    from pyjpllm.corpus import expand_inputs
    from pyjpllm.data.tokenizer import Tokenizer
    from pyjpllm.data.tokenizer_report import report_tokenizers

    inputs = expand_inputs(files)
    loaded = [(str(path), Tokenizer.load(path)) for path in tokenizer]
    reports = report_tokenizers(loaded, inputs, domain)
    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports], ensure_ascii=False))
    else:
        typer.echo("\n".join(show(reports)))


def show(reports: Sequence[Report]) -> Iterator[str]:
    """The reports as lines, a column for each."""
    first = reports[0]
    yield _row("", [_cut(report.tokenizer, _COLUMN - 2) for report in reports], ("documents", "characters"))
    yield _row("kind", [report.kind for report in reports])
    yield _row("ids", [f"{report.vocab_size:,}" for report in reports])
    for title, value in (
        ("characters a token", lambda fit: f"{fit.characters_per_token:.3f}"),
        ("characters written in bytes", lambda fit: f"{fit.byte_rate:.4%}"),
    ):
        yield from _by_domain(title, value, reports)
    yield ""
    yield _row("documents changed", [f"{report.total.normalized:,}" for report in reports], ("", "by normalisation"))
    yield _row("documents lost", [f"{report.total.failures:,}" for report in reports], ("", "in round trip"))
    for report in reports:
        for example in report.examples:
            yield f"  {report.tokenizer}: {example.domain}, document {example.document}:"
            yield f"    {example.text!r}"
            yield f"    {example.back!r} came back"
    yield ""
    yield "pieces by script"
    scripts = {script: None for report in reports for script in report.scripts}
    for script in scripts:
        yield _row(f"  {script}", [f"{report.scripts.get(script, 0):,}" for report in reports])
    yield ""
    shares = [f"{len(report.unused) / max(1, report.pieces):.1%}" for report in reports]
    yield _row("learned pieces", [f"{report.pieces:,}" for report in reports])
    yield _row("  of them unused", shares, ("", f"in {first.total.documents:,} documents"))
    for report in reports:
        if report.unused:
            step = max(1, len(report.unused) // _PIECES)
            yield f"  {report.tokenizer}: {' '.join(map(repr, report.unused[::step][:_PIECES]))}"


def _by_domain(title: str, value: Callable[[Fit], str], reports: Sequence[Report]) -> Iterator[str]:
    yield ""
    yield title
    totals = [report.total for report in reports]
    yield _row("  all", list(map(value, totals)), _size(totals[0]))
    domains = list(reports[0].domains)
    if len(domains) < 2:
        return
    for domain in domains[:_DOMAINS]:
        fits = [report.domains[domain] for report in reports]
        yield _row(f"  {_cut(domain, _NAME - 4)}", list(map(value, fits)), _size(fits[0]))
    if len(domains) > _DOMAINS:
        yield f"  and {len(domains) - _DOMAINS:,} smaller ones (--json has all)"


def _size(fit: Fit) -> tuple[str, str]:
    return f"{fit.documents:,}", f"{fit.characters:,}"


def _row(name: str, values: Sequence[str], size: tuple[str, str] = ("", "")) -> str:
    name += " " * (_NAME - _width(name))
    columns = "".join(" " * (_COLUMN - _width(value)) + value for value in values)
    return f"{name}{size[0]:>12}{size[1]:>20}{columns}".rstrip()


def _width(text: str) -> int:
    """Columns of a terminal."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _cut(text: str, columns: int) -> str:
    """The end of a name, which tells paths apart, in at most so many columns."""
    if _width(text) <= columns:
        return text
    while _width(text) > columns - 3:
        text = text[1:]
    return f"...{text}"
