"""`jpllm corpus inspect FILE`, by `--preset NAME` or `--config PIPELINE`: what each rule measured, and decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyjpllm.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pyjpllm.corpus.rules import RulesConfig

EXAMPLE = "Example: jpllm corpus inspect crawl/part-1.jsonl.zst --preset swallow-v1 --sample 40 --html rules.html"


def command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Documents: files, folders, patterns in quotes.", show_default=False),
    ],
    preset: Annotated[
        str | None, typer.Option(help="Whose rules: see docs/corpus-rules.md.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="PIPELINE", help="The rules of this pipeline (TOML), as changed there."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Which of its stages, by name.", show_default="the only one of rules")
    ] = None,
    index: Annotated[
        int | None, typer.Option(min=0, help="Only this document, counted from 0.", show_default=False)
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="So many documents, drawn evenly from all.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 1234,
    compatible: Annotated[
        bool, typer.Option("--compatible", help="With --preset: as its published code counts.")
    ] = False,
    words: Annotated[
        str, typer.Option(help="With --preset: what cuts text into words, preset, script or sudachi.")
    ] = "preset",
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a page, with kept and dropped side by side.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object a document.")] = False,
) -> None:
    """Show what each rule of a preset, or of a pipeline's stage, measured in documents, and decided.

    Documents are judged as the files have them: of a pipeline, no other stage runs.
    """
    from pyjpllm.cli.outputs import file_to_write
    from pyjpllm.corpus import read_documents
    from pyjpllm.corpus.rules.inspect import choose, inspect, lines
    from pyjpllm.corpus.rules.page import page
    from pyjpllm.files import atomic_write

    if html is not None:
        file_to_write("--html", html)
    if preset is not None and config is None:
        rules = _of_preset(preset, compatible, words, stage).build()
    elif config is not None and preset is None:
        rules = _of_pipeline(config, compatible, words, stage).build()
    else:
        raise UserError("whose rules? Either --preset NAME or --config PIPELINE is needed, and not both")
    chosen = choose(read_documents(files), index=index, sample=sample, seed=seed)
    found = [inspect(rules, place, document) for place, document in chosen]
    if html is not None:
        source = str(files[0]) if len(files) == 1 else f"{len(files)} inputs"
        with atomic_write(html) as path:
            path.write_text(page(rules.preset, source, found), encoding="utf-8")
    for one in found:
        if as_json:
            typer.echo(json.dumps(one.as_dict(), ensure_ascii=False))
        else:
            typer.echo("\n".join(lines(one)))
    if html is not None and not as_json:
        typer.echo(f"\npage: {html}")


def _of_preset(preset: str, compatible: bool, words: str, stage: str | None) -> RulesConfig:
    """A stage of the preset as it is. Raises UserError for an option that is not for it."""
    from pyjpllm.corpus.rules import RulesConfig

    if stage is not None:
        raise UserError(f"--stage {stage}: is one of a pipeline; write --config PIPELINE in place of --preset {preset}")
    kinds = ("preset", "script", "sudachi")
    if words not in kinds:
        raise UserError(f"--words {words}{did_you_mean(words, kinds)}")
    values = {"kind": "rules", "preset": preset, "compatible": compatible, "words": words}
    return RulesConfig.model_validate(values)


def _of_pipeline(config: Path, compatible: bool, words: str, stage: str | None) -> RulesConfig:
    """A stage of rules of a pipeline's file. Raises UserError where it has none, or several and none is named."""
    from pyjpllm.corpus.config import load_corpus_config, stage_name
    from pyjpllm.corpus.rules import RulesConfig

    if compatible or words != "preset":
        option = "--compatible" if compatible else f"--words {words}"
        raise UserError(f"{option}: is for --preset; the stage of {config} says that itself")
    stages = {stage_name(one): one for one in load_corpus_config(config).stages if isinstance(one, RulesConfig)}
    if not stages:
        raise UserError(f"{config}: has no stage of rules to inspect")
    if stage is None:
        if len(stages) > 1:
            raise UserError(f"{config}: has several stages of rules; name one: --stage {' or '.join(stages)}")
        return next(iter(stages.values()))
    if stage not in stages:
        raise UserError(f"--stage {stage}: no stage of rules of {config}{did_you_mean(stage, stages)}")
    return stages[stage]
