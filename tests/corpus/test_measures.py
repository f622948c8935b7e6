"""Measures: the native pass equals the plain definition of each, on all kinds of text."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyjpllm import _text
from pyjpllm.corpus.rules.measures import PARTS_OF_SPEECH
from tests.corpus import measures_reference as reference
from tests.corpus.texts import pieces, texts

NAMES = _text.measure_names()
OF_SCRIPTS = [name for name in NAMES if name not in PARTS_OF_SPEECH]
STOP_WORDS = ["の", "に", "を", "日", "と", ""]
ALL = _text.Measures(NAMES, STOP_WORDS)
ALL_OF_SCRIPTS = _text.Measures(OF_SCRIPTS, STOP_WORDS)


def assert_equal(text: str, words: list[tuple[int, int, int]] | None = None) -> None:
    if words is None:
        found = dict(zip(OF_SCRIPTS, ALL_OF_SCRIPTS.measure(text), strict=True))
    else:
        found = dict(zip(NAMES, ALL.measure(text, np.array(words, dtype=np.int32).reshape(-1, 3)), strict=True))
    assert found == reference.measure(text, words, STOP_WORDS)


@settings(max_examples=250, deadline=None)
@given(texts)
@example("")
@example("\n")
@example("\n\n\n")
@example("\0")
@example("…")
@example("...")
@example("....\n")
@example("あ！！い？")
@example("a\r\n\rb\x85")
@example("  \n\n \n\nあ\n\n\n")
@example("12020年1月2日")
@example("2020年 1月 2日日日")
@example("20201話2020-1-")
@example("hhttp://httphttps://a<b")
def test_native_equals_the_definitions(text: str) -> None:
    assert_equal(text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_words_that_are_given(data: st.DataObject) -> None:
    text = data.draw(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=30)))
    kinds = st.integers(0, 4)
    assert_equal(text, [(a, b, data.draw(kinds)) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < b])


@pytest.mark.parametrize(
    ("mark", "counts"), [(mark, True) for mark in "\"',-;[\\]^_`"] + [(mark, False) for mark in "!.、，(~\u022d"]
)
def test_marks_that_are_symbols_for_unidic(mark: str, counts: bool) -> None:
    """Of Sudachi's 補助記号 (3), eleven are words beside a noun (1); of other kinds, none changes."""
    nouns = _text.Measures(["noun_fraction"])
    text = f"犬{mark}{mark}。"
    assert nouns.measure(text, np.array([(0, 1, 1), (1, 3, 3), (3, 4, 3)]))[0] == (0.5 if counts else 1.0)
    assert nouns.measure(text, np.array([(0, 1, 1), (1, 3, 4)]))[0] == 1.0
    assert nouns.measure(text, np.array([(0, 1, 1), (2, 4, 3)]))[0] == 1.0  # beside another mark


def test_nouns_among_words_that_are_no_marks() -> None:
    nouns = _text.Measures(["noun_fraction"])

    def share(*kinds: int) -> float:
        words = np.array([(i, i + 1, kind) for i, kind in enumerate(kinds)], dtype=np.int32).reshape(-1, 3)
        return nouns.measure("あ" * len(kinds), words)[0]

    assert share(1, 0, 0, 1) == share(2, 0, 1, 0) == share(1, 0, 3, 4, 3) == 0.5
    assert share() == share(3, 4) == 0.0
    for words in (None, np.zeros((0, 2), dtype=np.int32)):
        with pytest.raises(ValueError, match=r"noun_fraction needs words of the shape \(words, 3\)"):
            nouns.measure("あ", words)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_words_by_script(text: str) -> None:
    assert list(map(tuple, _text.words_by_script(text).tolist())) == reference.words_by_script(text)


def test_a_very_long_text() -> None:
    line = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
    text = line * 300 + "".join(chr(0x4E00 + i % 5000) for i in range(20_000)) + "\n" + line
    fast = dict(zip(OF_SCRIPTS, ALL_OF_SCRIPTS.measure(text), strict=True))
    slow = {**reference.characters(text), **reference.ngrams(text), **reference.sentences(text)}
    assert {name: fast[name] for name in slow} == slow
    assert fast["duplicate_line_fraction"] == 300 / 303  # the last newline leaves an empty piece
    assert fast["longest_run"] == 1


def test_every_code_point_has_its_classes() -> None:
    checks = [
        (1 << 0, reference.is_hiragana),
        (1 << 1, reference.is_katakana),
        (1 << 2, reference.is_kanji),
        (1 << 3, str.isalpha),
        (1 << 4, str.isdecimal),
        (1 << 5, reference.kinds("P")),
        (1 << 6, reference.kinds("S")),
        (1 << 7, str.isspace),
        (1 << 8, str.isalnum),
        (1 << 12, reference.KUTEN_LIKE.__contains__),
        (1 << 13, reference.TERMINALS.__contains__),
        (1 << 14, lambda c: len(f"a{c}b".splitlines()) == 2),
    ]
    # The tables are of Unicode 14.0. A later Python knows more characters; those of the tables have not changed since.
    known = unicodedata.unidata_version == "14.0.0"
    for code in [
        *range(0x3400),
        *range(0x9F00, 0xD800),
        *range(0xE000, 0x20000, 1),
        0x2FFFF,
        0x30000,
        0xE0001,
        0x10FFFF,
    ]:
        c, classes = chr(code), _text.character_class(code)
        for bit, belongs in checks:
            if known or classes & bit or code < 0x3400:
                assert bool(classes & bit) == belongs(c), (hex(code), bit)


def test_only_what_is_asked_for_comes_back() -> None:
    text = "日本語の文章です。" * 40
    whole = reference.measure(text)
    for name in OF_SCRIPTS:
        assert _text.Measures([name]).measure(text) == [whole[name]], name
    some = ["kanji", "top_4gram_fraction", "characters"]
    assert _text.Measures(some).measure(text) == [whole[name] for name in some]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([[0, 4]], "word 0"),
        ([[0, 1], [0, 2]], "word 1"),
        ([[1, 1]], "word 0"),
        ([[-1, 1]], "word 0"),
        ([[0, 1, 2, 3]], "shape"),
        ([[0]], "shape"),
        ([[0, 1, 5]], "word 0 has no kind"),
        ([[0, 1, 0], [1, 2, -1]], "word 1 has no kind"),
    ],
)
def test_words_that_cannot_be(words: list[list[int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ALL_OF_SCRIPTS.measure("abc", np.array(words, dtype=np.int32))


def test_a_name_that_is_none() -> None:
    with pytest.raises(ValueError, match="no measure 'kana'"):
        _text.Measures(["kana"])
