"""Expansion: old ids stay, new ones follow and are used, nothing is lost."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.data import spm_proto
from pyjpllm.data.spm_proto import Piece, read_model, with_pieces
from pyjpllm.data.tokenizer import SPACE, Tokenizer
from pyjpllm.data.tokenizer_expand import _JAPANESE, Expansion, add_pieces, expand_tokenizer
from pyjpllm.data.tokenizer_train import TokenizerOptions
from pyjpllm.errors import UserError
from tests.data.corpora import make_tokenizer, texts

ENGLISH = [
    "The quick brown fox jumps over the lazy dog.",
    "A tokenizer cuts text into pieces, and each piece has an id.",
    "    return value + 1  # an example",
    "Numbers like 2024 are cut into digits.",
]


def english_model(folder: Path, kind: str, **settings: Any) -> Tokenizer:
    """One as Llama's: English, a space before each text."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH * 20), model_writer=buffer, model_type=kind, vocab_size=420, byte_fallback=True,
        hard_vocab_limit=False, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        minloglevel=2, num_threads=1, **settings,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(buffer.getvalue())
    return Tokenizer.load(folder)


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def expansion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Expansion]:
    folder = tmp_path_factory.mktemp("expand")
    base = english_model(folder / "base", request.param)
    options = TokenizerOptions(threads=1)
    return base, expand_tokenizer(base, texts(600), folder / "more", size=base.vocab_size + 120, options=options)


def test_old_ids_stay(expansion: tuple[Tokenizer, Expansion]) -> None:
    base, more = expansion
    new = more.tokenizer
    assert new.vocab_size == base.vocab_size + 120
    assert new.info.pieces[: base.vocab_size] == base.info.pieces
    assert (new.unk_id, new.bos_id, new.eos_id, new.pad_id) == (base.unk_id, base.bos_id, base.eos_id, base.pad_id)
    assert [new.piece(base.vocab_size + n) for n in range(120)] == more.added
    assert len({piece.text for piece in new.info.pieces}) == new.vocab_size
    assert all(_JAPANESE.search(text) for text in more.added)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(new.model_path))
    assert theirs.vocab_size() == new.vocab_size


def test_every_new_piece_is_used(expansion: tuple[Tokenizer, Expansion]) -> None:
    base, more = expansion
    for n, text in enumerate(more.added):
        assert base.vocab_size + n in more.tokenizer.encode(text.replace(SPACE, " "))
        assert base.decode(more.former_ids[n]).strip() == text.replace(SPACE, " ").strip()
    lines = texts(50, seed=8)
    before = sum(len(base.encode(line)) for line in lines)
    after = sum(len(more.tokenizer.encode(line)) for line in lines)
    assert after < 0.6 * before


@settings(max_examples=200, deadline=None)
@given(
    st.text(
        st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs", "Cn"]) | st.sampled_from(" \n\tabc"), max_size=60
    )
)
def test_text_without_japanese_keeps_its_ids(expansion: tuple[Tokenizer, Expansion], text: str) -> None:
    base, more = expansion
    assert more.tokenizer.encode(text) == base.encode(text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cn"]) | st.sampled_from(" \n日本語文字かき。a"), max_size=60))
def test_nothing_is_lost(expansion: tuple[Tokenizer, Expansion], text: str) -> None:
    base, more = expansion
    assert more.tokenizer.decode(more.tokenizer.encode(text)) == base.decode(base.encode(text))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_one_of_our_own_still_loads_in_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    base = make_tokenizer(tmp_path / "base", kind)
    more = [Piece(text, -9.0, spm_proto.NORMAL) for text in ("無猫", "学校研", "猫無", "2024", "。猫", "で。")]
    out = add_pieces(base, more, tmp_path / "out", size=base.vocab_size + 1)
    out.tokenizer.save_hf(tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf", local_files_only=True)
    for text in [*texts(100, seed=2), "猫である", "学校研究"]:
        assert theirs(text)["input_ids"] == out.tokenizer.encode(text)


def test_a_model_with_more_pieces() -> None:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH * 20), model_writer=buffer, vocab_size=50, minloglevel=2, num_threads=1
    )
    data = buffer.getvalue()
    assert with_pieces(data, []) == data
    pieces = [
        Piece("日本", -3.0, spm_proto.NORMAL),
        Piece("<x>", 0.0, spm_proto.USER_DEFINED),
        Piece("語" * 99, -4.5, 1),
    ]
    more = with_pieces(data, pieces)
    assert read_model(more).pieces == [*read_model(data).pieces, *pieces]
    processor = sentencepiece.SentencePieceProcessor(model_proto=more)
    assert processor.vocab_size() == 53
    assert processor.EncodeAsPieces("日本<x>")[-2:] == ["日本", "<x>"]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    base = english_model(tmp_path / "base", "bpe")
    options = TokenizerOptions(threads=2)
    made = [
        expand_tokenizer(base, texts(200), tmp_path / name, size=base.vocab_size + 30, options=options) for name in "ab"
    ]
    assert made[0].tokenizer.fingerprint == made[1].tokenizer.fingerprint


def test_mistakes(tmp_path: Path) -> None:
    base = english_model(tmp_path / "base", "bpe")
    with pytest.raises(UserError, match=r"the base has .* ids already"):
        expand_tokenizer(base, texts(10), tmp_path / "x", size=base.vocab_size)
    with pytest.raises(UserError, match=r"gives only \d+ pieces that the base lacks and can use; at most \d+"):
        expand_tokenizer(base, texts(20), tmp_path / "x", size=base.vocab_size + 5000)
    with pytest.raises(UserError, match="no text to learn new pieces on"):
        expand_tokenizer(base, [""], tmp_path / "x", size=base.vocab_size + 10)
    assert not (tmp_path / "x").exists()
    with pytest.raises(UserError, match="neither a BPE nor a unigram model"):
        expand_tokenizer(english_model(tmp_path / "char", "char"), texts(10), tmp_path / "x", size=5000)
