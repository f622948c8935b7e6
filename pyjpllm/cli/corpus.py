"""`jpllm corpus build CONFIG --run DIR`, `jpllm corpus stats DIR`, and the commands of the files beside this one."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyjpllm.cli import corpus_classifier, corpus_inspect, corpus_perplexity, exits
from pyjpllm.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from pyjpllm.corpus.build import Progress

app = typer.Typer(
    help="From crawled pages to clean text: read, filter, deduplicate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: jpllm corpus build pipeline.toml --run corpora/first",
)

app.command("inspect", epilog=corpus_inspect.EXAMPLE)(corpus_inspect.command)
app.add_typer(corpus_classifier.app, name="classifier")
app.add_typer(corpus_perplexity.app, name="perplexity")

_LINE_EVERY_S = 30.0

AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.command(epilog="Example: mpirun -n 4 jpllm corpus build pipeline.toml --run corpora/first")
def build(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The pipeline, a TOML file.", show_default=False)],
    run: Annotated[
        Path | None,
        typer.Option("--run", help="The run's folder; the same command goes on with it.", show_default=False),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the config and its stages, and read nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline, on this process or, under mpirun or srun, on all ranks of the job; interrupted, go on with it."""
    from pyjpllm.cli.exchange import exchange
    from pyjpllm.cli.outputs import folder_to_write
    from pyjpllm.corpus.build import build_corpus
    from pyjpllm.corpus.config import load_corpus_config, stage_name
    from pyjpllm.corpus.intake.html import check_extract
    from pyjpllm.corpus.report import counted, show

    if run is None and not check:
        raise UserError("corpus build needs --run DIR, the folder that it writes; --check needs none")
    pipeline = load_corpus_config(config)
    for stage in pipeline.stages:
        stage.build()  # whatever is missing is said before anything starts
    tokens = None
    if pipeline.output.tokenizer is not None:
        from pyjpllm.data.token_output import TokenOutput

        tokens = TokenOutput.load(pipeline.output.tokenizer)
    if check:
        check_extract(pipeline.input.extract)
        files = [*pipeline.input.files(), *pipeline.input.pair_spans()]
        names = ", ".join(stage_name(stage) for stage in pipeline.stages) or "no stage"
        typer.echo(f"{config}: ready; {counted(len(files), 'file')}; {names}")
        return
    assert run is not None
    folder_to_write("--run", run)
    with exchange() as ranks, _Display(ranks.size) as display:
        report = build_corpus(pipeline, run, tokens=tokens, exchange=ranks, progress=display.say)
        first = ranks.rank == 0
    if first:
        typer.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(show(report, measures=False)))


@app.command(epilog="Example: jpllm corpus stats corpora/first")
def stats(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that is done.", show_default=False)],
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Count the tokens of the documents with this tokenizer.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What came through each stage, what was dropped why, and a histogram of each measure with its limits."""
    from pyjpllm.corpus.report import read_report, show

    report = read_report(run)
    if tokenizer is not None:
        report["tokens"] = _tokens(run, report, tokenizer)
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(show(report)))


def _tokens(run: Path, report: dict[str, Any], tokenizer: Path) -> dict[str, Any]:
    """The tokens of a run's documents, as a run that writes tokens reports them."""
    from pyjpllm.data.encode import count_tokens

    if "tokens" in report:
        raise UserError(f"{run}: holds tokens, which its report counts; leave out --tokenizer")
    if not report["written"]["documents"]:
        raise UserError(f"{run}: no document was written, so there are no tokens to count")
    stats = count_tokens(run / "documents", tokenizer)
    return {**asdict(stats), "characters_per_token": round(stats.characters_per_token, 4)}


class _Display:
    """How far it is, on stderr: a bar on a terminal, else a line now and then; of several ranks the first speaks."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._bars: Bars | None = None
        self._next = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> _Display:
        self._next = self._began + _LINE_EVERY_S
        if sys.stderr.isatty() and exits.rank() == 0:
            from rich.console import Console
            from rich.progress import Progress as Bars

            self._bars = Bars(console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def say(self, progress: Progress) -> None:
        """Show how far this rank is."""
        if self._bars is not None:
            task = self._bars.task_ids[0] if self._bars.task_ids else self._bars.add_task("")
            self._bars.update(task, description=_line(progress), completed=progress.done, total=progress.shards)
        elif exits.rank() == 0 and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            whose = f" of rank 0 of {self._ranks}" if self._ranks > 1 else ""
            line = f"corpus: {progress.done}/{progress.shards} shards{whose}, {_line(progress)}"
            print(line, file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()


def _line(progress: Progress) -> str:
    counts = progress.counts
    which = f"pass {progress.pass_number + 1} of {progress.passes}: " if progress.passes > 1 else ""
    seen = counts.read.documents or sum(stage.read.documents for stage in counts.stages[:1])
    return f"{which}{counts.written.documents:,} of {seen:,} documents kept"
