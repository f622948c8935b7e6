"""`jpllm corpus classifier train LABELS --out MODEL` and `jpllm corpus classifier evaluate MODEL LABELS`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pyjpllm.corpus.quality.labels import Example

    Counted = tuple[list[Example], dict[str, int]]

app = typer.Typer(
    help="Classifiers of documents by labels, such as an educational value: linear on character n-grams.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: jpllm corpus classifier train labelled.jsonl --label educational --out educational.safetensors",
)

Labelled = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="LABELS...", help="Documents whose meta have a label, or that have one in --labels.", show_default=False
    ),
]
Positive = Annotated[
    list[Path] | None,
    typer.Option("--positive", help="Instead of LABELS: good documents. Can be given again.", show_default=False),
]
Negative = Annotated[
    list[Path] | None,
    typer.Option("--negative", help="The other documents. Can be given again.", show_default=False),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="FILE", help="JSON Lines, CSV or Parquet with the labels of LABELS.", show_default=False
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="FIELD", help="Of --labels and the meta, what joins them.", show_default="id, or url"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.command(epilog="Example: jpllm corpus classifier train --positive books/ --negative 'crawl/*.jsonl.zst' --out m")
def train(
    out: Annotated[Path, typer.Option("--out", help="The model's file.", show_default=False)],
    labelled: Labelled = None,
    field: Annotated[str, typer.Option("--label", metavar="FIELD", help="The label's field.")] = "label",
    labels: LabelsFile = None,
    key: Key = None,
    positive: Positive = None,
    negative: Negative = None,
    good: Annotated[
        str | None,
        typer.Option(help="Names: the label whose probability is the score. Numbers: the least that is good."),
    ] = None,
    longest: Annotated[int, typer.Option(min=1, max=16, help="Characters of the longest n-grams.")] = 4,
    bits: Annotated[int, typer.Option(min=8, max=28, help="2^bits weights a label.")] = 20,
    characters: Annotated[int, typer.Option(min=1, help="Looked at from a document's beginning.")] = 3000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the documents.")] = 5,
    rate: Annotated[float, typer.Option(min=1e-6, help="AdaGrad's step.")] = 0.3,
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share held out: half to calibrate, half to test.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the split and the order.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a classifier, calibrate it, and test it on documents that were held out."""
    from pyjpllm.cli.outputs import file_to_write
    from pyjpllm.corpus.quality import Settings, train_classifier

    file_to_write("--out", out)
    settings = Settings(longest, bits, characters, epochs, rate, held_out, seed)
    examples, joined = _examples(labelled, field, (labels, key), positive, negative, characters)
    classifier = train_classifier(
        examples, settings, good=good, field=field, progress=lambda line: typer.echo(f"corpus: {line}", err=True)
    )
    classifier = replace(classifier, report={**classifier.report, **joined})
    classifier.save(out)
    report = dict(classifier.report)
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(_trained(out, report)))


@app.command(epilog="Example: jpllm corpus classifier evaluate educational.safetensors labelled.jsonl")
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model's file.", show_default=False)],
    labelled: Labelled = None,
    field: Annotated[
        str | None,
        typer.Option(
            "--label", metavar="FIELD", help="The label's field; by default as in training.", show_default=False
        ),
    ] = None,
    labels: LabelsFile = None,
    key: Key = None,
    positive: Positive = None,
    negative: Negative = None,
    as_json: AsJson = False,
) -> None:
    """What a classifier is worth on labelled documents, and what each threshold of its score would keep."""
    import numpy as np

    from pyjpllm.corpus.quality import load_classifier, metrics
    from pyjpllm.corpus.quality.training import judge
    from pyjpllm.errors import UserError

    classifier = load_classifier(model)
    known = classifier.report["field"]
    examples, joined = _examples(labelled, field or known, (labels, key), positive, negative, classifier.characters)
    if not examples:
        raise UserError("no document to evaluate on")
    values = classifier.values()
    report = {
        "documents": len(examples),
        **joined,
        "good": classifier.good,
        **judge(classifier, examples),
        "thresholds": metrics.by_threshold(
            np.array(classifier.scores([one.text for one in examples])),
            np.array([classifier.is_good(one.label) for one in examples]),
            min(values),
            max(values),
        ),
    }
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(_evaluated(report)))


def _examples(
    labelled: list[Path] | None,
    field: str,
    beside: tuple[Path | None, str | None],
    positive: list[Path] | None,
    negative: list[Path] | None,
    characters: int,
) -> Counted:
    """The labelled documents, and what was counted where the labels stand ``beside`` them, in a file by a key."""
    from pyjpllm.corpus.quality.label_file import read_joined, read_label_file
    from pyjpllm.corpus.quality.labels import read_labelled, read_two_sets
    from pyjpllm.corpus.report import counted
    from pyjpllm.errors import UserError

    if labelled and (positive or negative):
        raise UserError("LABELS and --positive, --negative are two ways to label documents: give one")
    labels, key = beside
    if labels is None and key is not None:
        raise UserError("--key joins documents with --labels: name that file as well")
    if labels is not None:
        if not labelled:
            raise UserError("--labels has no text: give the documents too, as LABELS")
        joined = read_joined(labelled, read_label_file(labels, field, key), characters)
        counts = joined.counts()
        typer.echo(
            f"corpus: {labels}: labels of {counted(counts['documents_with_label'], 'document')}; "
            f"without a label, left out: {counts['documents_without_label']:,}; "
            f"labels without a document: {counts['labels_without_document']:,}",
            err=True,
        )
        return joined.examples, counts
    if labelled:
        return read_labelled(labelled, field, characters), {}
    if not positive or not negative:
        raise UserError("no labelled documents: give files whose meta have a label, or both --positive and --negative")
    return read_two_sets(positive, negative, characters), {}


_NAMES = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "log_loss": "log loss",
    "ece": "calibration error",
    "mean_absolute_error": "mean abs. error",
}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _trained(out: Path, report: dict[str, Any]) -> list[str]:
    documents, labels = report["documents"], report["labels"]
    names = [name for name in _NAMES if name in report["held_out"]]
    lines = [
        f"{sum(documents.values()):,} documents: {documents['train']:,} to train, {documents['calibrate']:,} to "
        f"calibrate, {documents['test']:,} to test",
        "labels: " + ", ".join(f"{label} {count:,}" for label, count in labels.items()),
        "",
        f"{'on the test documents':<24}" + "".join(f"{_NAMES[name]:>19}" for name in names),
    ]
    for title, key in (("as trained", "uncalibrated"), ("calibrated", "held_out")):
        lines.append(f"{title:<24}" + "".join(f"{_number(report[key][name]):>19}" for name in names))
    return [*lines, "", f"model: {out} ({out.stat().st_size / 1e6:.1f} MB)"]


def _evaluated(report: dict[str, Any]) -> list[str]:
    from pyjpllm.corpus.report import counted

    shown = ", ".join(f"{_NAMES[name]} {_number(report[name])}" for name in _NAMES if name in report)
    good = report["good"]
    lines = [
        f"{counted(report['documents'], 'document')}: {shown}",
        "",
        f"good: {good}" if isinstance(good, str) else f"good: {good} and more",
        f"{'score from':>10}{'kept':>9}{'precision':>11}{'recall':>9}{'F1':>9}",
    ]
    for row in report["thresholds"]:
        line = f"{row['threshold']:>10.2f}"
        for name, width in (("kept", 9), ("precision", 11), ("recall", 9), ("f1", 9)):
            line += f"{'-' if row[name] is None else f'{row[name]:.1%}':>{width}}"
        lines.append(line)
    return lines
