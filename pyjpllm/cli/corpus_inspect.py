"""`jpllm corpus inspect FILE --preset NAME`: what each rule measured in a document, and decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: jpllm corpus inspect crawl/part-1.jsonl.zst --preset swallow-v1 --sample 40 --html rules.html"


def command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Documents: files, folders, patterns in quotes.", show_default=False),
    ],
    preset: Annotated[str, typer.Option(help="Whose rules: see docs/corpus-rules.md.", show_default=False)],
    index: Annotated[
        int | None, typer.Option(min=0, help="Only this document, counted from 0.", show_default=False)
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="So many documents, drawn evenly from all.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 1234,
    compatible: Annotated[bool, typer.Option("--compatible", help="As the preset's published code counts.")] = False,
    words: Annotated[str, typer.Option(help="What cuts text into words: preset, script or sudachi.")] = "preset",
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a page, with kept and dropped side by side.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object a document.")] = False,
) -> None:
    """Show what each rule of a preset measured in documents, and decided."""
    from pyjpllm.cli.outputs import file_to_write
    from pyjpllm.corpus import read_documents
    from pyjpllm.corpus.rules import RulesConfig
    from pyjpllm.corpus.rules.inspect import choose, inspect, lines
    from pyjpllm.corpus.rules.page import page
    from pyjpllm.errors import UserError, did_you_mean
    from pyjpllm.files import atomic_write

    kinds = ("preset", "script", "sudachi")
    if words not in kinds:
        raise UserError(f"--words {words}{did_you_mean(words, kinds)}")
    if html is not None:
        file_to_write("--html", html)
    values = {"kind": "rules", "preset": preset, "compatible": compatible, "words": words}
    stage = RulesConfig.model_validate(values).build()
    chosen = choose(read_documents(files), index=index, sample=sample, seed=seed)
    found = [inspect(stage, place, document) for place, document in chosen]
    if html is not None:
        source = str(files[0]) if len(files) == 1 else f"{len(files)} inputs"
        with atomic_write(html) as path:
            path.write_text(page(stage.preset, source, found), encoding="utf-8")
    for one in found:
        if as_json:
            typer.echo(json.dumps(one.as_dict(), ensure_ascii=False))
        else:
            typer.echo("\n".join(lines(one)))
    if html is not None and not as_json:
        typer.echo(f"\npage: {html}")
