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
from tests.corpus.texts import texts

pytest.importorskip("sudachidict_core")
pytest.importorskip("sudachipy")

NATIVE = sudachi.native_words()
SUDACHIPY = words.by_sudachipy()

# What is rewritten, joined and cut: half-width kana, several characters of one, readings, long vowels, numbers, units.
_PIECES = [
    "ｶﾞｷﾞｸﾞ", "㍿", "①", "…", "ＡＢＣ", "Ａbc", "漢字(かんじ)", "東京（とうきょうと）", "らーーめん", "ー-", "〜〜", "が",
    "12,345", "1,23", "3.14", "1.2.3", "二十三", "三億二千万", "千", "〇一", ",", ".", "1.", "百", "1,000円", "第2回",
    "スーパーコンピューター", "ンゴォッッ", "ァア", "コンピュータ", "外国人参政権", "吾輩は猫である。",
    "医薬品安全管理責任者", "東京都", "国際連合", "食べられない", "すもももももももものうち",
    "選挙管理委員会", "ǅ", "İ", "Ω", "α", "Ж", "é", "e\u0301", "\u200d", "👩\u200d👩", "👍🏽", "㌔", "ﷺ", "ゟ",
    "\n", " ", "\u3000", "一", "十一月", "六百万",
    "千三百.5",
]  # fmt: skip
japanese = st.lists(st.one_of(st.sampled_from(_PIECES), texts), max_size=12).map("".join)


def cut(by: Callable[[str], np.ndarray], text: str) -> list[str]:
    spans = [(a, b) for a, b in by(text).tolist()]
    assert all(a < b for a, b in spans)
    assert all(a <= b for (_, a), (b, _) in itertools.pairwise(spans))
    return [f"{a} {text[a:b]}" for a, b in spans]


@settings(max_examples=400, deadline=None)
@given(japanese)
@example("")
@example("12,345.6円と1,23と二十三億")
@example("1.5百万1.5千20")
@example("漢字(かんじかな)漢字(かんじかなだ)")
@example("…\u200dあ漢\u200d字アイ\u200dウ")
def test_cuts_as_sudachipy(text: str) -> None:
    assert cut(NATIVE.cut, text) == cut(SUDACHIPY, text)


def test_long_text_is_analysed_in_pieces() -> None:
    text = "医薬品の安全管理責任者は、1,234人のスーパーコンピューターである。\n" * 700
    assert cut(NATIVE.cut, text) == cut(SUDACHIPY, text)


def test_a_dictionary_that_is_none(tmp_path: Path) -> None:
    def words_of(data: bytes) -> _text.SudachiWords:
        kind = (0, 0, 0, False)
        return _text.SudachiWords(
            np.frombuffer(data, dtype=np.uint8), np.ones(0x110000, np.uint32), [], "", "", "", 0, [], kind, 0
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
