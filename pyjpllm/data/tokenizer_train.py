"""Training of sentencepiece models with settings for Japanese text; the same input gives the same bytes.

A recipe is a set of values for the options (``RECIPES``); any of them can be given another value.

A corpus larger than the sample is thinned to lines whose hash is smallest, so that the sample depends only on the
text, the seed and the size.
"""

from __future__ import annotations

import io
import re
import string
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentencepiece

from pyjpllm.corpus.unicode import normalize
from pyjpllm.data.shuffle import key_of, mix
from pyjpllm.data.spm_proto import exact_scores, without_seed_file
from pyjpllm.data.tokenizer import FILE_NAME, SPACE, Tokenizer
from pyjpllm.data.tokenizer_merge import PreSplit, merged_seeds, reestimated
from pyjpllm.errors import UserError, did_you_mean
from pyjpllm.files import atomic_write

Kind = Literal["unigram", "bpe"]
Normalization = Literal["nfkc", "identity"]
UNK, EOS, PAD = "<|unk|>", "<|eos|>", "<|pad|>"
_LONGEST_LINE = 4000  # characters; a longer one is cut, since sentencepiece would leave it out
_RUNS = range(2, 25)
_HASH_BATCH = 65536
_MOST_IDS = 10_000_000
_MOST_THREADS = 1024  # of sentencepiece


@dataclass(frozen=True)
class TokenizerOptions:
    """How a tokenizer is trained. Part of the result: with other values, other bytes."""

    vocab_size: int = 32000
    kind: Kind = "unigram"
    normalization: Normalization = "nfkc"
    character_coverage: float = 0.9995
    """Part of the characters that get a piece of their own; the others are written in bytes."""
    max_piece_length: int = 16
    """Characters of the longest piece."""
    japanese_share: float | None = None
    """Unigram: learn pieces from Japanese lines (with kana or kanji) and from the others apart, merge this share of the
    first with the second, and estimate the scores of all anew. None: from all lines together."""
    japanese_piece_length: int = 8
    """Characters of the longest piece that is learned from Japanese lines, where these are apart."""
    pre_split: PreSplit = "none"
    """What cuts Japanese lines, where these are apart, into words that no learned piece may cross: SudachiPy, or
    nothing. In training only: text is encoded as it is."""
    sample_bytes: int = 256 << 20
    """Text to train on; of a larger corpus, this much is drawn line by line."""
    seed: int = 1234
    """Seed of that draw."""
    threads: int = 8
    """Threads of the training; the sums of unigram training depend on their number in the last digits."""

    def check(self) -> None:
        """Raise UserError for values that cannot be trained with."""
        if self.vocab_size < 384:
            raise UserError(f"vocab size {self.vocab_size}: 256 bytes, ASCII and special tokens need at least 384")
        if self.vocab_size > _MOST_IDS:
            raise UserError(f"vocab size {self.vocab_size}: at most {_MOST_IDS:,}")
        if not 0.98 <= self.character_coverage <= 1.0:
            raise UserError(f"character coverage {self.character_coverage}: allowed are 0.98 to 1.0")
        if not 1 <= self.max_piece_length <= 512:
            raise UserError(f"max piece length {self.max_piece_length}: allowed are 1 to 512")
        if self.japanese_share is not None:
            if not 1 <= self.japanese_piece_length <= self.max_piece_length:
                raise UserError(
                    f"Japanese piece length {self.japanese_piece_length}: allowed are 1 to the max piece length, "
                    f"{self.max_piece_length}"
                )
            if not 0.0 <= self.japanese_share <= 1.0:
                raise UserError(f"Japanese share {self.japanese_share}: allowed are 0 to 1")
            if self.kind != "unigram":
                raise UserError(
                    f"Japanese share {self.japanese_share}: only unigram models are merged, not {self.kind}"
                )
        elif self.pre_split != "none":
            raise UserError(f"pre-split {self.pre_split} is for Japanese lines that are apart; give a Japanese share")
        if self.sample_bytes < 1 or self.seed < 0:
            raise UserError("sample bytes must be at least 1, the seed at least 0")
        if not 1 <= self.threads <= _MOST_THREADS:
            raise UserError(f"threads {self.threads}: allowed are 1 to {_MOST_THREADS}")


RECIPES: dict[str, dict[str, Any]] = {
    # Our own: as by default.
    "jpllm": {},
    # llm-jp-tokenizer v2 (https://github.com/llm-jp/llm-jp-tokenizer): 10,000 ids of code, 20,000 of English and 30,000
    # of Japanese, cut by MeCab, merged to some 50,000.
    "llm-jp": {
        "vocab_size": 50_000,
        "normalization": "identity",
        "japanese_share": 0.5,
        "pre_split": "sudachi",
    },
    # Sarashina2 (https://huggingface.co/sbintuitions/sarashina2-7b): unigram, byte fallback, no pre-split.
    "sarashina": {"vocab_size": 102_400},
}


def recipe_options(recipe: str, **changes: Any) -> TokenizerOptions:
    """The options of a recipe of ``RECIPES``; ``changes`` that are not None come before the recipe's. Raises UserError
    for an unknown recipe."""
    if recipe not in RECIPES:
        raise UserError(f"recipe {recipe!r}: no such recipe{did_you_mean(recipe, RECIPES)}")
    given = {name: value for name, value in changes.items() if value is not None}
    if "kind" in given and given["kind"] != "unigram" and "japanese_share" in RECIPES[recipe]:
        raise UserError(f"recipe {recipe!r} is of a unigram model, not {given['kind']}")
    return TokenizerOptions(**{**RECIPES[recipe], **given})


def train_tokenizer(texts: Iterable[str], folder: str | Path, options: TokenizerOptions | None = None) -> Tokenizer:
    """Train on ``texts`` and write ``FOLDER/tokenizer.model``, whole or not at all.

    Pieces beside the learned ones: all 256 bytes, printable ASCII, the line end, runs of 2 to 24 spaces. Digits stand
    alone, spaces are kept as they are, nothing is put before a text. Ids: 0 ``<|unk|>`` (never used), 1 ``<|eos|>``
    (ends a document), 2 ``<|pad|>``. Raises UserError when the text is too little for the vocabulary.
    """
    options = options or TokenizerOptions()
    options.check()
    lines = sample_lines(lines_of(texts, options.normalization), options.sample_bytes, options.seed)
    model = _train(lines, options)
    if options.kind == "unigram":
        model = exact_scores(model)
    target = Path(folder) / FILE_NAME
    with atomic_write(target) as temporary:
        temporary.write_bytes(model)
    return Tokenizer.load(target)


def lines_of(texts: Iterable[str], normalization: Normalization) -> Iterator[str]:
    """The lines of the texts, normalised, without empty ones, cut to a bearable length."""
    for text in texts:
        if normalization == "nfkc":
            text = normalize("NFKC", text)
        for line in text.split("\n"):
            for start in range(0, len(line), _LONGEST_LINE):
                yield line[start : start + _LONGEST_LINE]


def sample_lines(lines: Iterable[str], limit: int, seed: int) -> list[str]:
    """All lines when they have at most ``limit`` bytes of UTF-8, else those of smallest hash that fit, in order."""
    kept: list[tuple[int, int, int, str]] = []  # hash, number, bytes, line
    bound, total = 1 << 64, 0
    for number, hashed, line in _hashed(lines, key_of(seed)):
        if hashed >= bound:
            continue
        size = len(line.encode())
        kept.append((hashed, number, size, line))
        total += size
        if total > 2 * limit:
            kept, total = _smallest(kept, limit)
            bound = kept[-1][0] if kept else bound
    if total > limit:
        kept, total = _smallest(kept, limit)
    return [line for _, line in sorted((number, line) for _, number, _, line in kept)]


def _hashed(lines: Iterable[str], key: int) -> Iterator[tuple[int, int, str]]:
    """(number, 64-bit hash of key and number, line)."""
    hashes: list[int] = []
    for number, line in enumerate(lines):
        if number % _HASH_BATCH == 0:
            numbers = np.arange(number, number + _HASH_BATCH, dtype=np.uint64)
            hashes = mix(numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)).tolist()
        yield number, hashes[number % _HASH_BATCH], line


def _smallest(kept: list[tuple[int, int, int, str]], limit: int) -> tuple[list[tuple[int, int, int, str]], int]:
    """The lines of smallest hash, as many as fit ``limit`` bytes (at least one), and their bytes."""
    kept.sort()
    total = 0
    for place, (_, _, size, _) in enumerate(kept):
        if total + size > limit and place:
            return kept[:place], total
        total += size
    return kept, total


def _train(lines: list[str], options: TokenizerOptions) -> bytes:
    if not lines:
        raise UserError("there is no text to train a tokenizer on")
    ascii_printable = string.ascii_letters + string.digits + string.punctuation
    # sentencepiece 0.2.0 ends the process when a required character occurs nowhere in the text of a BPE model.
    lines = [*lines, ascii_printable]
    buffer = io.BytesIO()
    held = ExitStack()
    more: dict[str, Any] = {}
    try:
        if options.japanese_share is not None:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="jpllm-tokenizer-")))
            more["seed_sentencepieces_file"] = str(folder / "seeds.tsv")
            seeds = merged_seeds(
                lines,
                vocab_size=options.vocab_size,
                japanese_share=options.japanese_share,
                piece_lengths=(options.japanese_piece_length, options.max_piece_length),
                pre_split=options.pre_split,
                common=sentencepiece_settings(options),
            )
            (folder / "seeds.tsv").write_text(seeds, encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=buffer,
            model_type=options.kind,
            vocab_size=options.vocab_size,
            max_sentencepiece_length=options.max_piece_length,
            byte_fallback=True,
            required_chars=ascii_printable,
            unk_id=0,
            bos_id=-1,
            eos_id=1,
            pad_id=2,
            unk_piece=UNK,
            eos_piece=EOS,
            pad_piece=PAD,
            **sentencepiece_settings(options),
            **more,
        )
    except RuntimeError as error:
        raise explained(error, options.vocab_size) from None
    finally:
        held.close()
    if options.japanese_share is not None:
        return reestimated(without_seed_file(buffer.getvalue()), lines, options.threads)
    return buffer.getvalue()


def sentencepiece_settings(options: TokenizerOptions) -> dict[str, Any]:
    """What a model, and those that it is merged of, are all trained with."""
    return {
        "character_coverage": options.character_coverage,
        "max_sentence_length": 8 * _LONGEST_LINE,
        "normalization_rule_name": options.normalization,
        "split_digits": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "user_defined_symbols": ["\n", *(SPACE * count for count in _RUNS)],
        "num_threads": options.threads,
        "minloglevel": 2,
    }


def explained(error: RuntimeError, vocab_size: int) -> Exception:
    """sentencepiece's complaint in a user's words."""
    message = str(error)
    if most := re.search(r"too high .*<= (\d+)", message):
        return UserError(f"vocab size {vocab_size} is too large for this little text; at most {most[1]}, or more text")
    if least := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return UserError(
            f"vocab size {vocab_size} is too small: characters and bytes alone need {least[1]}; "
            "raise it, or lower the character coverage"
        )
    if "sentences_.empty()" in message:
        return UserError("there is no text to train a tokenizer on")
    return error
