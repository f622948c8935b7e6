"""A unigram vocabulary out of one for Japanese and one for the other lines, in the way of llm-jp.

Each language's pieces are learned from its own lines, so that the size of one does not depend on how much text of the
other there is. Japanese lines can be cut into words first, which keeps pieces from crossing them; that holds for the
learning alone. The merged pieces are the seeds of one more training over all lines, as they are, which chooses among
them by EM; then the scores of those that are left are estimated from those lines together. Way: llm-jp-tokenizer (https://github.com/llm-jp/llm-jp-tokenizer).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import sentencepiece

from pyjpllm.data import spm_proto
from pyjpllm.errors import UserError

PreSplit = Literal["none", "sudachi"]
# Between words: a separator by its meaning (US), which text hardly holds; taken out of the lines before.
_BETWEEN = "\x1f"
_JAPANESE = re.compile(
    "[\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f]"
)
# What a line of the file of seeds cannot hold. Such characters are pieces by themselves.
_UNWRITABLE = re.compile("[\t\r\n\0\x1f]")
# sentencepiece's EM drops pieces that it hardly ever uses, and wants some more than it ends with.
_SPARE = 1.1
_OTHERS = 3  # ids of a model that are no pieces: unk and the ends of a sentence
_ROUNDS = 3
_BATCH = 4096
_PARTS = 10**9  # to write probabilities as whole numbers


def is_japanese(line: str) -> bool:
    """Does a line hold kana or kanji?"""
    return _JAPANESE.search(line) is not None


def merged_seeds(
    lines: Sequence[str],
    *,
    vocab_size: int,
    japanese_share: float,
    piece_lengths: tuple[int, int],
    pre_split: PreSplit,
    common: Mapping[str, Any],
) -> str:
    """Lines of `piece TAB frequency` for sentencepiece's ``seed_sentencepieces_file``.

    ``japanese_share`` of some ``vocab_size`` pieces come from Japanese lines, the rest from the others; what one has
    too few of the other makes up for. ``piece_lengths``: of the longest piece of each, in characters. ``common``: what
    sentencepiece is called with. Raises UserError where SudachiPy is asked for and missing.
    """
    room = math.ceil(_SPARE * vocab_size)
    japanese = [line for line in lines if is_japanese(line)]
    others = [line for line in lines if not is_japanese(line)]
    split = {**common, "pretokenization_delimiter": _BETWEEN} if pre_split == "sudachi" else common
    cut = splitter() if pre_split == "sudachi" and japanese else None
    learned = [
        _learn(_cut(japanese, cut), room, piece_lengths[0], split),
        _learn(others, room, piece_lengths[1], common),
    ]
    sizes = [sum(map(len, japanese)), sum(map(len, others))]
    seeds: dict[str, int] = {}
    shares = _shares(room, japanese_share, [len(pieces) for pieces in learned])
    for pieces, size, share in zip(learned, sizes, shares, strict=True):
        part = _PARTS * size / max(1, sum(sizes))
        for piece, score in pieces[:share]:
            seeds[piece] = seeds.get(piece, 0) + math.ceil(part * math.exp(score))
    return "".join(f"{piece}\t{count}\n" for piece, count in seeds.items())


def reestimated(model: bytes, lines: Sequence[str], threads: int) -> bytes:
    """The model with each piece's score from how often the best segmentations of ``lines`` use it (Viterbi training).

    sentencepiece ends its EM with a tenth more pieces than it keeps, so that the scores of those that take over from
    the others are far off. A piece that is not used counts as half a time.
    """
    for _ in range(_ROUNDS):
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        counts = np.zeros(processor.vocab_size())
        for start in range(0, len(lines), _BATCH):
            encoded = processor.Encode(list(lines[start : start + _BATCH]), num_threads=threads)
            counts += np.bincount([token for ids in encoded for token in ids], minlength=len(counts))
        ordinary = np.array([piece.type == spm_proto.NORMAL for piece in spm_proto.read_model(model).pieces])
        total = float(counts[ordinary].sum())
        model = spm_proto.with_scores(model, np.log(np.maximum(counts, 0.5) / max(1.0, total)).tolist())
    return model


def _shares(room: int, japanese_share: float, there: Sequence[int]) -> tuple[int, int]:
    """How many pieces of each language, where there are not more than ``there``."""
    japanese = min(round(room * japanese_share), there[0])
    others = min(room - japanese, there[1])
    return min(room - others, there[0]), others


def _learn(lines: list[str], room: int, longest: int, settings: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Up to ``room`` pieces with their log-probabilities, the likeliest first."""
    if not lines:
        return []
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=buffer,
        model_type="unigram",
        vocab_size=room + _OTHERS + len(settings["user_defined_symbols"]),
        hard_vocab_limit=False,
        max_sentencepiece_length=longest,
        **settings,
    )
    pieces = spm_proto.read_model(buffer.getvalue()).pieces
    kept = [(p.text, p.score) for p in pieces if p.type == spm_proto.NORMAL and not _UNWRITABLE.search(p.text)]
    return sorted(kept, key=lambda entry: (-entry[1], entry[0]))


def _cut(lines: Iterable[str], cut: Callable[[str], list[str]] | None) -> list[str]:
    if cut is None:
        return list(lines)
    return [_BETWEEN.join(cut(line.replace(_BETWEEN, ""))) for line in lines]


def splitter() -> Callable[[str], list[str]]:
    """Cuts a line of at most 12,000 characters into SudachiPy's longest words (mode C); together they are the line.

    Raises UserError where SudachiPy or its dictionary is not installed.
    """
    try:
        from sudachipy import Dictionary, SplitMode

        tagger = Dictionary().tokenizer(mode=SplitMode.C)
    except Exception as error:  # it has no class of its own for a dictionary that is not there
        why, *_ = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"pre-split sudachi: SudachiPy or its dictionary cannot be loaded ({why}); "
            "pip install 'pyjpllm[corpus]', or take pre-split none"
        ) from None

    def cut(line: str) -> list[str]:
        words = (line[word.begin() : word.end()] for word in tagger.tokenize(line))
        return [word for word in words if word]

    return cut
