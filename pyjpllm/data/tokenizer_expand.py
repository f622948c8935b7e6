"""A tokenizer of others with more pieces for Japanese: all ids stay what they are, new ones follow.

The way of Swallow (arXiv 2404.17790): pieces are learned on Japanese text, those that the base lacks are put behind its
own. A model that was trained with the base goes on with its embeddings, and new rows for the new ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sentencepiece

from pyjpllm.data import spm_proto
from pyjpllm.data.spm_proto import Piece
from pyjpllm.data.tokenizer import FILE_NAME, SPACE, Tokenizer
from pyjpllm.data.tokenizer_train import TokenizerOptions, explained, lines_of, sample_lines, sentencepiece_settings
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write

# Kana, kanji, and the signs and full-width forms that go with them.
_JAPANESE = re.compile("[\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef]")
_STEP = 1 / 16  # of scores, see spm_proto.exact_scores
_SPARE = 1.5  # candidates for each piece that is wanted: the base has some, and some cannot be reached


@dataclass(frozen=True)
class Expansion:
    """An expanded tokenizer. ``added[i]`` is the text of id ``base.vocab_size + i`` (with U+2581 for spaces), and
    ``former_ids[i]`` what the base makes of it: the mean of their embeddings is where Swallow begins."""

    tokenizer: Tokenizer
    added: list[str]
    former_ids: list[list[int]]


def expand_tokenizer(
    base: Tokenizer,
    texts: Iterable[str],
    folder: str | Path,
    *,
    size: int,
    options: TokenizerOptions | None = None,
) -> Expansion:
    """Learn pieces on ``texts``, put those that ``base`` lacks behind its own until it has ``size``, and write
    ``FOLDER/tokenizer.model``.

    New pieces hold a Japanese character each, so text without any keeps its ids; every new piece, given alone, becomes
    its one id. Of ``options`` count the sample, the coverage, the longest piece, the seed and the threads. Raises
    UserError where the text does not give so many pieces, and for models that are neither BPE nor unigram.
    """
    if size <= base.vocab_size:
        raise UserError(f"size {size}: the base has {base.vocab_size} ids already; give more")
    return add_pieces(base, candidates_for(base, texts, size - base.vocab_size, options), folder, size=size)


def candidates_for(
    base: Tokenizer, texts: Iterable[str], wanted: int, options: TokenizerOptions | None = None
) -> list[Piece]:
    """Pieces for ``add_pieces``, the most useful first: a model of the base's kind learned on ``texts``, as the base
    normalises them. Single characters come first: each that is left out would be three bytes, and of a BPE model all
    other pieces are put together out of them."""
    kind = _kind_of(base)
    chosen = replace(options or TokenizerOptions(), kind=kind, normalization="identity")
    chosen.check()
    normal = (_normalized(base, line) for line in lines_of(texts, "identity"))
    lines = [line for line in sample_lines(normal, chosen.sample_bytes, chosen.seed) if line]
    if not lines:
        raise UserError("there is no text to learn new pieces on")
    buffer = io.BytesIO()
    settings: dict[str, Any] = {
        **sentencepiece_settings(chosen),
        "hard_vocab_limit": False,
        "max_sentencepiece_length": chosen.max_piece_length,
    }
    size = base.vocab_size + int(_SPARE * wanted) + 1000
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=buffer, model_type=kind, vocab_size=size, **settings
        )
    except RuntimeError as error:
        raise explained(error, size) from None
    pieces = [p for p in spm_proto.read_model(buffer.getvalue()).pieces if p.type == spm_proto.NORMAL]
    return sorted(pieces, key=lambda piece: (len(piece.text) > 1, -piece.score))


def add_pieces(base: Tokenizer, candidates: Sequence[Piece], folder: str | Path, *, size: int) -> Expansion:
    """Put those of ``candidates`` that ``base`` lacks behind its pieces, in their order, until it has ``size``; write
    ``FOLDER/tokenizer.model``.

    Left out are pieces without a Japanese character, and those that would never be used, since older pieces win. In a
    BPE model new merges come after all old ones, in the order of the candidates. In a unigram model the candidates'
    scores (log-probabilities) are taken, rounded to 1/16, and the old ones kept. Raises UserError where too few remain.
    """
    kind = _kind_of(base)
    data = base.model_path.read_bytes()
    known = {piece.text for piece in base.info.pieces}
    left = [p for p in candidates if p.text not in known and _JAPANESE.search(p.text)]
    left = list({piece.text: piece for piece in left}.values())
    wanted = size - base.vocab_size
    lowest = min((p.score for p in base.info.pieces if p.type == spm_proto.NORMAL), default=0.0)
    while True:
        added = [_scored(piece, n, kind, lowest) for n, piece in enumerate(left[:wanted])]
        if len(added) < wanted:
            raise UserError(
                f"size {size}: the text gives only {len(added)} pieces that the base lacks and can use; "
                f"at most {base.vocab_size + len(added)}, or more text"
            )
        model = spm_proto.with_pieces(data, added)
        useless = _never_used(Tokenizer(model, base.model_path), base.vocab_size)
        if not useless:
            break
        left = [piece for piece in left if piece.text not in useless]
    target = Path(folder) / FILE_NAME
    with atomic_write(target) as temporary:
        temporary.write_bytes(model)
    texts = [piece.text for piece in added]
    return Expansion(Tokenizer.load(target), texts, [_former(base, text) for text in texts])


def _kind_of(base: Tokenizer) -> Any:
    kinds = {spm_proto.BPE: "bpe", spm_proto.UNIGRAM: "unigram"}
    if base.info.model_type not in kinds:
        raise UserError(f"{base.model_path}: neither a BPE nor a unigram model; no other can be expanded")
    return kinds[base.info.model_type]


def _scored(piece: Piece, number: int, kind: str, lowest: float) -> Piece:
    """In BPE the score is the order of merging, in unigram a log-probability."""
    score = lowest - 1 - number if kind == "bpe" else min(-_STEP, round(piece.score / _STEP) * _STEP)
    return Piece(piece.text, score, spm_proto.NORMAL)


def _never_used(tokenizer: Tokenizer, first: int) -> set[str]:
    """The pieces from id ``first`` on that their own text does not become."""
    pieces = tokenizer.info.pieces
    return {
        pieces[token].text
        for token in range(first, tokenizer.vocab_size)
        if token not in tokenizer.encode(pieces[token].text.replace(SPACE, " "))
    }


def _normalized(base: Tokenizer, line: str) -> str:
    text = base.normalize(line)
    return text.removeprefix(" ") if base.info.add_dummy_prefix else text


def _former(base: Tokenizer, text: str) -> list[int]:
    """The base's ids of a piece, without the space that it may put before a text."""
    ids = base.encode(text.replace(SPACE, " "))
    prefix = base.info.add_dummy_prefix and not text.startswith(SPACE) and ids and base.piece(ids[0]) == SPACE
    return ids[1:] if prefix else ids
