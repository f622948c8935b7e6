"""Steps of normalisation, each by itself and all together."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.corpus import Document
from pyjpllm.corpus.normalize import (
    NormalizeConfig,
    compose_kana,
    japanese_punctuation,
    join_lines,
    nfkc,
    no_blank_lines,
    single_space,
    strip_invisible,
    trim_space,
    unify_line_ends,
    unify_long_vowel,
    unify_wave_dash,
    widen_kana,
)
from pyjpllm.corpus.unicode import normalize

MARKS = re.compile("[ﾞﾟ\u0301\u0316\u3099\u0323]*")
KEEP = NormalizeConfig(kind="normalize").nfkc_keep


def test_steps() -> None:
    assert strip_invisible("a\0b\u200bc\xadd\ufeffe\tf\ng") == "abcde\tf\ng"
    assert strip_invisible("👨\u200d👩 葛\U000e0100") == "👨\u200d👩 葛\U000e0100"
    assert unify_line_ends("a\r\nb\rc\u2028d\x85e") == "a\nb\nc\nd\ne"
    assert compose_kana("か\u3099ハ\u309ae\u0301") == "がパe\u0301"
    assert widen_kana("ｶﾞｷﾞ｡ Ａ") == "ガギ。 Ａ"
    assert nfkc("Ａ①㌔～…ｶﾞ゛", KEEP) == "A1キロ～…ガ゛"
    assert nfkc("～", "") == "~"
    assert unify_wave_dash("1～2") == "1〜2"
    assert single_space(" a\u3000 b\t\n\n  c d \n") == "a b\n\nc d\n"
    assert no_blank_lines("\na\n\n \n\u3000b\n c\n\n") == "a\n\u3000b\n c"
    assert trim_space("a \n\n\n\nb\u3000\n") == "a\n\nb"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("サ−バ", "サーバ"),
        ("デ―タベ‐ス", "データベース"),
        ("サーバ−を使う", "サーバーを使う"),
        ("１０−２０", "１０−２０"),
        ("A-B", "A-B"),
        ("メニュー − 東京", "メニュー − 東京"),
    ],
)
def test_long_vowels(text: str, after: str) -> None:
    assert unify_long_vowel(text) == after


def test_punctuation() -> None:
    assert japanese_punctuation("これは，本です．次も．") == "これは、本です。次も。"
    assert japanese_punctuation("3.14，example.jp，A, B．C") == "3.14，example.jp，A, B．C"


def test_lines() -> None:
    text = "短い題\nこの行はとても長いので途中で折り返され\nています。次の文です。\n・項目"
    assert join_lines(text, 12) == "短い題\nこの行はとても長いので途中で折り返されています。次の文です。\n・項目"
    assert join_lines(text, 60) == text


def run(text: str, **fields: bool) -> str:
    (verdict,) = NormalizeConfig(kind="normalize", **fields).build()([Document(text, {"a": 1})])  # type: ignore[arg-type]
    assert verdict.document.meta == {"a": 1}
    if verdict.reason is not None:  # what is dropped is the document as it came
        assert (verdict.reason, verdict.document.text) == ("emptied", text)
        return ""
    return verdict.document.text


def test_nothing_is_left() -> None:
    stage = NormalizeConfig(kind="normalize").build()
    reasons = [verdict.reason for verdict in stage([Document("\u200b"), Document("\ufeff\n"), Document("あ\u200b")])]
    assert reasons == ["emptied", "emptied", None]


def test_blank_lines_at_the_ends() -> None:
    assert no_blank_lines("\u3000\nあ\n\n \n  い\n\u3000") == "あ\n  い"
    assert trim_space("\u3000\nあ \u3000\n\t\n\n\n  い\n\u3000") == "あ\n\n  い"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("x" + " " * 200_000 + "x", ("x" + " " * 200_000 + "x", "x" + " " * 200_000 + "x", "x x")),
        ("\n" * 200_000 + "x", ("x", "x", "\n" * 200_000 + "x")),
        ("x" + " \n" * 100_000, ("x", "x ", "x" + "\n" * 100_000)),
    ],
)
def test_white_space_takes_no_quadratic_time(text: str, left: tuple[str, ...]) -> None:
    """Two hundred thousand took minutes."""
    assert tuple(step(text) for step in (trim_space, no_blank_lines, single_space)) == left


@given(st.text(st.sampled_from("aがﾊﾞﾟ\u0301\u0316\u3099\u0323日"), max_size=60))
def test_normal_forms_are_unicodes(text: str) -> None:
    for form in ("NFC", "NFKC"):
        assert normalize(form, text) == unicodedata.normalize(form, text) or len(max(MARKS.findall(text), key=len)) > 30


def test_marks_in_a_row_take_no_quadratic_time() -> None:
    """A hundred thousand took minutes; the parts of 30 are in order each."""
    for marks in ("\u0301" * 50_000 + "\u0316" * 50_000, "ﾞ\u0316" * 50_000):
        found = normalize("NFKC", f"a{marks}日")
        assert found.endswith("日")
        assert len(found) > 99_000
    assert normalize("NFC", "e" + "\u0301" * 31) == "é" + "\u0301" * 30

    text = "Ａ①ｶﾞ～，．サ−バ \n\n\n次"
    assert run(text) == text


SWITCHES = [name for name, field in NormalizeConfig.model_fields.items() if field.annotation is bool]


@given(st.text(max_size=80), st.sets(st.sampled_from(SWITCHES)))
def test_twice_is_once(text: str, on: set[str]) -> None:
    fields = {name: name in on for name in SWITCHES}
    if fields["nfkc"] or fields["half_width_kana"]:
        fields["compose_kana"] = True  # ｶ with U+3099 is カ with U+3099 first
    once = run(text, **fields)
    if not fields["join_lines"]:  # two short lines make a long one
        assert run(once, **fields) == run(run(once, **fields), **fields)
    for character in "\0\u200b\ufeff":
        assert character not in once or not fields["strip_invisible"]
    once.encode()
