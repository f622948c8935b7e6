"""Recipes: what each promises of its pieces, and the merging of languages."""

from __future__ import annotations

import json
import math
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.cli.app import run
from pyjpllm.data.spm_proto import NORMAL
from pyjpllm.data.tokenizer import SPACE, Tokenizer
from pyjpllm.data.tokenizer_merge import is_japanese, merged_seeds, splitter
from pyjpllm.data.tokenizer_train import (
    RECIPES,
    TokenizerOptions,
    recipe_options,
    sentencepiece_settings,
    train_tokenizer,
)
from pyjpllm.errors import UserError
from tests.data.corpora import texts
from tests.data.test_tokenizer import ODD

JAPANESE = [
    "国会の審議は昨日から始まった。",
    "新しい研究によれば、文字の学習は早いほどよい。",
    "日本語の文章を単語に分けてから学ぶ。",
    "審議の内容を研究し、文章にまとめる。",
    "昨日の学習は日本語の文字から始まった。",
]
ENGLISH = [
    "the quick brown fox jumps over",
    "    return value + 1",
    "import numpy as np",
    "the value of an internationalization",
]


def lines() -> list[str]:
    chance = random.Random(4)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(150)]
    latin = [" ".join(chance.choices(words, k=6)) for _ in range(400)]
    return [line for text in texts(400) for line in text.split("\n")] + (JAPANESE + ENGLISH) * 40 + latin


def seeds(share: float, pre_split: Any, room: int = 300) -> dict[str, int]:
    options = TokenizerOptions(normalization="identity", threads=1)
    found = merged_seeds(
        lines(),
        vocab_size=room,
        japanese_share=share,
        piece_lengths=(8, 16),
        pre_split=pre_split,
        common=sentencepiece_settings(options),
    )
    return {piece: int(count) for piece, count in (line.split("\t") for line in found.splitlines())}


@pytest.fixture(scope="module", params=["none", "sudachi"])
def llm_jp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("llm-jp")
    return train_tokenizer(
        lines(), folder, recipe_options("llm-jp", vocab_size=490, pre_split=request.param, threads=1)
    )


def test_llm_jp(llm_jp: Tokenizer) -> None:
    assert llm_jp.vocab_size == 490
    for text in [*ODD, "ＡＢＣ①㌔", *JAPANESE, *ENGLISH]:  # identity: full width stays
        assert llm_jp.decode(llm_jp.encode(text)) == text.replace(SPACE, " ")
    for run_of in range(2, 25):
        assert [llm_jp.piece(i) for i in llm_jp.encode(" " * run_of)] == [SPACE * run_of]
    assert [llm_jp.piece(i) for i in llm_jp.encode("2024\n")] == ["2", "0", "2", "4", "\n"]
    pieces = [piece for piece in llm_jp.info.pieces if piece.type == NORMAL]
    assert max(len(p.text) for p in pieces if is_japanese(p.text)) <= 8
    assert all((piece.score * 16).is_integer() for piece in pieces)
    # Estimated together, from all lines: a frequent piece's score is how often it is used.
    used = Counter(token for line in lines() for token in llm_jp.encode(line))
    total = sum(count for token, count in used.items() if llm_jp.info.pieces[token].score < 0)
    frequent = [(token, count) for token, count in used.items() if count > 300 and llm_jp.info.pieces[token].score < 0]
    assert {is_japanese(llm_jp.piece(token)) for token, _ in frequent} == {True, False}
    for token, count in frequent:
        assert llm_jp.info.pieces[token].score == pytest.approx(math.log(count / total), abs=0.05), llm_jp.piece(token)


def test_no_learned_piece_crosses_a_word() -> None:
    cut = splitter()
    words = {word for line in lines() if is_japanese(line) for word in cut(line)}
    japanese = [piece for piece in seeds(0.5, "sudachi") if is_japanese(piece) and len(piece) > 1]
    assert len(japanese) > 5
    assert all(any(piece in word for word in words) for piece in japanese)
    crossing = [p for p in seeds(0.5, "none") if is_japanese(p) and not any(p in word for word in words)]
    assert len(crossing) > 5


def test_shares() -> None:
    room = 200
    counts = {}
    for share in (0.1, 0.3, 0.5):
        found = seeds(share, "none", room)
        counts[share] = sum(map(is_japanese, found))
        assert len(found) <= math.ceil(1.1 * room)
        assert all(count > 0 for count in found.values())
        assert counts[share] <= round(1.1 * room * share)
    assert counts[0.1] < counts[0.3] <= counts[0.5]
    without = seeds(0.0, "none", 150)
    assert not any(map(is_japanese, without))
    assert 8 < max(map(len, without)) <= 16
    assert max(len(piece) for piece in seeds(0.5, "none") if is_japanese(piece)) <= 8


def test_text_in_one_language_only(tmp_path: Path) -> None:
    for japanese in (True, False):
        only = [line for line in lines() if is_japanese(line) == japanese]
        options = recipe_options("llm-jp", vocab_size=490, pre_split="none", threads=1)
        tokenizer = train_tokenizer(only, tmp_path / str(japanese), options)
        assert tokenizer.vocab_size == 490
        assert tokenizer.decode(tokenizer.encode(JAPANESE[0])) == JAPANESE[0]


@settings(max_examples=200, deadline=None)
@given(
    st.text(
        st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\n") | st.sampled_from("日本語 　がﾞ゙㍿"),
        max_size=60,
    )
)
def test_words_are_the_line(line: str) -> None:
    global _cut
    _cut = _cut or splitter()
    words = _cut(line)
    assert "".join(words) == line
    assert all(words)


_cut: Any = None


def test_the_same_bytes_again(tmp_path: Path) -> None:
    options = recipe_options("llm-jp", vocab_size=500, pre_split="none", threads=2)
    prints = [train_tokenizer(texts(400), tmp_path / name, options).fingerprint for name in "ab"]
    assert prints[0] == prints[1]


def test_recipes() -> None:
    assert recipe_options("jpllm") == TokenizerOptions()
    assert recipe_options("sarashina") == TokenizerOptions(vocab_size=102_400)
    assert recipe_options("llm-jp", vocab_size=None, pre_split="none").pre_split == "none"
    for recipe in RECIPES:
        recipe_options(recipe).check()


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("llmjp", {}, "recipe 'llmjp': no such recipe; did you mean 'llm-jp'?"),
        ("llm-jp", {"kind": "bpe"}, "recipe 'llm-jp' is of a unigram model, not bpe"),
        ("jpllm", {"japanese_share": 0.5, "kind": "bpe"}, "Japanese share 0.5: only unigram models are merged"),
        ("jpllm", {"japanese_share": 1.5}, r"Japanese share 1\.5: allowed are 0 to 1"),
        ("jpllm", {"pre_split": "sudachi"}, "pre-split sudachi is for Japanese lines that are apart"),
        ("llm-jp", {"max_piece_length": 6}, "Japanese piece length 8: allowed are 1 to the max piece length, 6"),
        ("llm-jp", {"pre_split": "none", "vocab_size": 30000}, r"vocab size 30000 is too large .* at most \d+"),
    ],
)
def test_mistakes(recipe: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train_tokenizer(texts(100), tmp_path, recipe_options(recipe, **changes))
    assert not list(tmp_path.iterdir())


def test_without_sudachi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sudachipy", None)
    with pytest.raises(UserError, match=r"pip install 'pyjpllm\[corpus\]', or take pre-split none"):
        train_tokenizer(texts(100), tmp_path, recipe_options("llm-jp", vocab_size=500))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(300)))
    words = ["tokenizer", "train", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "out"), "--vocab-size", "500"]
    assert run([*words, "--recipe", "llm-jp", "--pre-split", "none", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["recipe"], answer["normalization"], answer["japanese_share"]) == ("llm-jp", "identity", 0.5)
    assert run([*words, "--recipe", "zzz"]) == 2
    assert "no such recipe; allowed: jpllm, llm-jp, sarashina" in capsys.readouterr().err
