"""Sudachi's words: the native lattice cuts as SudachiPy does, and says what it cannot read."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyjpllm import _text
from pyjpllm.corpus.rules import sudachi, words
from tests.corpus import measures_reference
from tests.corpus.texts import texts

pytest.importorskip("sudachidict_core")
pytest.importorskip("sudachipy")

from sudachipy import Dictionary, SplitMode

NATIVE = sudachi.native_words()
SUDACHIPY = words.by_sudachipy()
TOKENIZER = Dictionary().tokenizer(mode=SplitMode.A)

# What is rewritten, joined and cut: half-width kana, several characters of one, readings, long vowels, numbers, units.
_PIECES = [
    "ｶﾞｷﾞｸﾞ", "㍿", "①", "…", "ＡＢＣ", "Ａbc", "漢字(かんじ)", "東京（とうきょうと）", "らーーめん", "ー-", "〜〜", "が",
    "12,345", "1,23", "3.14", "1.2.3", "二十三", "三億二千万", "千", "〇一", ",", ".", "1.", "百", "1,000円", "第2回",
    "スーパーコンピューター", "ンゴォッッ", "ァア", "コンピュータ", "外国人参政権", "吾輩は猫である。",
    "医薬品安全管理責任者", "東京都", "国際連合", "食べられない", "すもももももももものうち",
    "選挙管理委員会", "ǅ", "İ", "Ω", "α", "Ж", "é", "e\u0301", "\u200d", "👩\u200d👩", "👍🏽", "㌔", "ﷺ", "ゟ",
    "\n", " ", "\u3000", "一", "十一月", "六百万",
    "千三百.5", "アリロソ連", "˘",
]  # fmt: skip
japanese = st.lists(st.one_of(st.sampled_from(_PIECES), texts), max_size=12).map("".join)


def cut(by: Callable[[str], np.ndarray], text: str) -> list[str]:
    """Where each word is, what it is, and its kind."""
    words = [(a, b, kind) for a, b, kind in by(text).tolist()]
    assert all(a < b for a, b, _ in words)
    assert all(a <= b for (_, a, _), (b, _, _) in itertools.pairwise(words))
    return [f"{a} {text[a:b]} {kind}" for a, b, kind in words]


@settings(max_examples=400, deadline=None)
@given(japanese)
@example("")
@example("12,345.6円と1,23と二十三億")
@example("1.5百万1.5千20")
@example("漢字(かんじかな)漢字(かんじかなだ)")
@example("…\u200dあ漢\u200d字アイ\u200dウ")
def test_cuts_as_sudachipy(text: str) -> None:
    assert cut(NATIVE.cut, text) == cut(SUDACHIPY, text)


# Of the dictionary, of unk.def, of the settings of the plugins that join; and the units of a word, each its own.
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("東京都に行った。", ["名詞", "名詞", "助詞", "動詞", "助動詞", "補助記号"]),
        ("12,345円と二十三億", ["名詞,数詞", "名詞", "助詞", "名詞,数詞"]),
        ("ンゴォッッ", ["名詞"]),
        ("アリロソ連", ["名詞", "名詞"]),  # アリロ is joined, and the lattice has no such word
        ("犬˘", ["名詞", "空白"]),
        ("qwxyzzy ☃ \U00013000", ["名詞", "補助記号", "補助記号"]),
        ("食べられない", ["動詞", "助動詞", "助動詞"]),
        ("医薬品安全管理責任者", ["名詞", "接尾辞", "名詞", "名詞", "名詞", "接尾辞"]),
    ],
)
def test_kinds_of_words_are_their_parts_of_speech(text: str, parts: list[str]) -> None:
    found = [
        "名詞,数詞" if word.part_of_speech()[:2] == ("名詞", "数詞") else word.part_of_speech()[0]
        for word in TOKENIZER.tokenize(text)
        if word.surface().strip()
    ]
    assert found == parts
    kinds = {"名詞": 1, "名詞,数詞": 2, "補助記号": 3, "空白": 4}
    assert [kind for _, _, kind in NATIVE.cut(text).tolist()] == [kinds.get(part, 0) for part in parts]


def is_unidic_symbol(word: str, part: str) -> bool:
    return part == "補助記号" and set(word) <= measures_reference.SYMBOLS


@settings(max_examples=50, deadline=None)
@given(japanese)
def test_nouns_of_sudachipy(text: str) -> None:
    """The measure beside SudachiPy's own parts of speech, with none of our kinds between."""
    words = [(word.surface().strip(), word.part_of_speech()[0]) for word in TOKENIZER.tokenize(text)]
    counted = [
        part for word, part in words if word and (part not in ("補助記号", "空白") or is_unidic_symbol(word, part))
    ]
    (found,) = _text.Measures(["noun_fraction"]).measure(text, NATIVE.cut(text))
    assert found == (counted.count("名詞") / len(counted) if counted else 0.0)


def test_long_text_is_analysed_in_pieces() -> None:
    text = "医薬品の安全管理責任者は、1,234人のスーパーコンピューターである。\n" * 700
    assert cut(NATIVE.cut, text) == cut(SUDACHIPY, text)


def test_a_dictionary_that_is_none(tmp_path: Path) -> None:
    def words_of(data: bytes) -> _text.SudachiWords:
        kind = (0, 0, 0, 0)
        return _text.SudachiWords(
            np.frombuffer(data, dtype=np.uint8), np.ones(0x110000, np.uint32), [], "", "", "", 0, [], kind, 0, 0
        )

    for data, said in [
        (b"", "another format"),
        (b"x" * 400, "another format"),
        (b"SudachiBinaryDic" + b"\2" + b"\0" * 400, "version 2, not 1"),
        (b"SudachiBinaryDic" + b"\1" + b"\0" * 30, "a part of it is missing"),
        (b"SudachiBinaryDic" + b"\1" + b"\0" * 9, "ends too soon"),
    ]:
        with pytest.raises(RuntimeError, match=said):
            words_of(data)


def test_settings_that_the_native_lattice_does_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = find_spec("sudachipy")
    assert spec is not None
    assert spec.submodule_search_locations
    shutil.copytree(Path(spec.submodule_search_locations[0]) / "resources", tmp_path / "resources")
    file = tmp_path / "resources" / "sudachi.json"
    settings_ = json.loads(file.read_text(encoding="utf-8"))
    settings_["pathRewritePlugin"].reverse()
    file.write_text(json.dumps(settings_), encoding="utf-8")
    dictionary = sudachi._folder("sudachidict_core")
    monkeypatch.setattr(sudachi, "_folder", lambda name: tmp_path / "resources" if name == "sudachipy" else dictionary)
    with pytest.raises(sudachi.UnlikeSudachiError, match="pathRewritePlugin"):
        sudachi.native_words()
    with caplog.at_level(logging.WARNING):
        slow = words.segmenter("sudachi")
    assert slow is not None
    assert "cut by SudachiPy, which is slower" in caplog.text
    assert cut(slow, "東京都に行く") == cut(NATIVE.cut, "東京都に行く")
