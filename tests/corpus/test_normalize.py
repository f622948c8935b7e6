"""Steps of normalisation, each by itself and all together."""

from __future__ import annotations

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
    assert verdict.reason is None
    assert verdict.document.meta == {"a": 1}
    return verdict.document.text


def test_what_loses_something_is_off() -> None:
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
