"""`jpllm tokenizer train FILES --out DIR`, `jpllm tokenizer encode FILES --tokenizer DIR --out PREFIX` and
`jpllm tokenizer report FILES --tokenizer DIR`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyjpllm.cli import tokenizer_report
from pyjpllm.errors import UserError

if TYPE_CHECKING:
    from rich.status import Status

    from pyjpllm.data.encode import EncodeStats

app = typer.Typer(
    help="Train a tokenizer; encode text into token files; see how tokenizers fit a text.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: jpllm tokenizer train text/*.jsonl.gz --out tokenizer --vocab-size 32000",
)

app.command("report", epilog=tokenizer_report.EXAMPLE)(tokenizer_report.command)

_LINE_EVERY_S = 10.0


class Kind(str, Enum):
    """--kind."""

    UNIGRAM = "unigram"
    BPE = "bpe"


class Normalization(str, Enum):
    """--normalization."""

    NFKC = "nfkc"
    IDENTITY = "identity"


class PreSplit(str, Enum):
    """--pre-split."""

    NONE = "none"
    SUDACHI = "sudachi"


Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        help="JSON Lines (also .gz, .zst), Parquet or .txt files, folders of them, or patterns in quotes.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command(
    epilog="Example: jpllm tokenizer train text/ --out tokenizer --kind unigram --vocab-size 32000 --threads 8"
)
def train(
    files: Files,
    out: Annotated[Path, typer.Option(help="Folder to write tokenizer.model into.", show_default=False)],
    recipe: Annotated[
        str,
        typer.Option(help="jpllm, llm-jp or sarashina: what the four options below are by default (docs/data.md)."),
    ] = "jpllm",
    vocab_size: Annotated[
        int | None, typer.Option(help="Number of token ids; jpllm: 32000.", show_default=False)
    ] = None,
    normalization: Annotated[
        Normalization | None,
        typer.Option(
            help="nfkc (jpllm) makes ＡＢＣ, ｶﾞ and ① to ABC, ガ and 1; identity keeps all.", show_default=False
        ),
    ] = None,
    japanese_share: Annotated[
        float | None,
        typer.Option(
            help="Learn from Japanese and other lines apart, this share of the ids from the first; jpllm: not apart.",
            show_default=False,
        ),
    ] = None,
    pre_split: Annotated[
        PreSplit | None,
        typer.Option(help="Cut Japanese lines that are apart into words, for training only.", show_default=False),
    ] = None,
    kind: Annotated[Kind, typer.Option(help="The model of sentencepiece.")] = Kind.UNIGRAM,
    character_coverage: Annotated[
        float, typer.Option(help="Part of the characters with a piece of their own; others are written in bytes.")
    ] = 0.9995,
    max_piece_length: Annotated[int, typer.Option(help="Characters of the longest piece.")] = 16,
    sample_mib: Annotated[int, typer.Option(help="Train on this much text, drawn evenly from all of it.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 1234,
    threads: Annotated[int, typer.Option(help="Threads; another number may change scores in the last digits.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Train a tokenizer on text: sentencepiece with byte fallback and settings for Japanese."""
    from pyjpllm.cli.outputs import folder_to_write
    from pyjpllm.corpus import expand_inputs, read_documents
    from pyjpllm.data.tokenizer_train import recipe_options, train_tokenizer

    options = recipe_options(
        recipe,
        vocab_size=vocab_size,
        kind=kind.value,
        normalization=normalization and normalization.value,
        japanese_share=japanese_share,
        pre_split=pre_split and pre_split.value,
        character_coverage=character_coverage,
        max_piece_length=max_piece_length,
        sample_bytes=sample_mib << 20,
        seed=seed,
        threads=threads,
    )
    options.check()
    folder_to_write("--out", out)
    inputs = expand_inputs(files)
    started = time.monotonic()
    with _Display() as display:
        texts = _counted((document.text for document in read_documents(inputs)), display)
        tokenizer = train_tokenizer(texts, out, options)
    seconds = time.monotonic() - started
    if as_json:
        answer = {"path": str(tokenizer.model_path), "sha256": tokenizer.fingerprint, "seconds": round(seconds, 3)}
        typer.echo(json.dumps({**answer, "recipe": recipe, **asdict(options), "vocab_size": tokenizer.vocab_size}))
        return
    typer.echo(f"{tokenizer.model_path}: {kind.value} of {tokenizer.vocab_size:,} tokens, in {seconds:.1f} s")


@app.command(epilog="Example: jpllm tokenizer encode text/train/ --tokenizer tokenizer --out tokens/train --workers 8")
def encode(
    files: Files,
    tokenizer: Annotated[
        Path, typer.Option(help="Folder that holds tokenizer.model, or that file.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(metavar="PREFIX", help="Writes PREFIX.bin, PREFIX.idx, PREFIX.json.", show_default=False)
    ],
    workers: Annotated[
        int | None,
        typer.Option(help="Processes; by default one for each CPU this process may use.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Encode text into token files in Megatron's indexed format; each document ends with the token eos."""
    from pyjpllm.cli.outputs import file_to_write, folder_to_write
    from pyjpllm.data.encode import encode_files

    if out.suffix in (".bin", ".idx"):
        raise UserError(f"--out {out}: name the prefix without {out.suffix}: {out.with_suffix('')}")
    folder_to_write("--out", out, out.parent)
    for suffix in (".bin", ".idx", ".json"):
        file_to_write("--out", out.with_name(out.name + suffix))
    started = time.monotonic()
    with _Display() as display:

        def progress(stats: EncodeStats) -> None:
            display.say(lambda: _progress_line(stats, time.monotonic() - started))

        stats = encode_files(files, tokenizer, out, workers=workers, progress=progress)
    seconds = time.monotonic() - started
    if as_json:
        ratio = round(stats.characters_per_token, 4)
        typer.echo(json.dumps({**asdict(stats), "characters_per_token": ratio, "seconds": round(seconds, 3)}))
        return
    typer.echo(
        f"{out}.bin, .idx: {stats.documents:,} documents, {stats.tokens:,} tokens from {stats.bytes / 1e6:,.1f} MB of "
        f"text, {stats.characters_per_token:.2f} characters a token, in {seconds:.1f} s"
    )


def _progress_line(stats: EncodeStats, seconds: float) -> str:
    speed = stats.bytes / 1e6 / max(seconds, 1e-9)
    return f"encoding: {stats.documents:,} documents, {stats.tokens:,} tokens, {speed:.1f} MB/s"


def _counted(texts: Iterable[str], display: _Display) -> Iterator[str]:
    """The texts, with what was read so far on the display."""
    documents, characters = 0, 0
    for text in texts:
        documents, characters = documents + 1, characters + len(text)
        display.say(lambda: f"reading: {documents:,} documents, {characters / 1e6:,.1f}M characters")  # noqa: B023
        yield text
    display.say(lambda: f"training on {documents:,} documents, {characters / 1e6:,.1f}M characters", now=True)


class _Display:
    """What is going on, on stderr: one line that changes on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._next = 0.0

    def __enter__(self) -> _Display:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("reading")
            self._status.start()
        self._next = time.monotonic() + self._interval
        return self

    @property
    def _interval(self) -> float:
        return _LINE_EVERY_S if self._status is None else 0.2

    def say(self, text: Callable[[], str], *, now: bool = False) -> None:
        """Show ``text()``, unless something was shown a moment ago."""
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        if self._status is not None:
            self._status.update(text())
        else:
            print(text(), file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
