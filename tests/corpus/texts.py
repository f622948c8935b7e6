"""Odd texts for tests of what looks at characters; surrogates are left out, as the readers refuse them."""

from __future__ import annotations

from hypothesis import strategies as st

# Few characters, so that pieces come twice: kana of all kinds, marks, digits, spaces, newlines, emoji, NUL.
_COMMON = "あいのにをアンーｱﾞ゛日本年月話語。、．，！？!?…・...-#•(月)2024"
_COMMON += " \u3000\n\n\t\r\x85\u2028\0aBé😀𠮷がか\u3099々〇ゝ「」"
_PIECES = [
    "https://example.jp/a-b?c=d", "http://", "コメント", "SOLD OUT", "2024年1月2日", "2024-01-02", "12話", "投稿",
    "(土)", "日本語の文章です。", "同じ行\n", "同じ行\n", "\n\n", "続きを読む…\n", "...", "ああああああああ", "12345",
]  # fmt: skip

repetitive = st.text(alphabet=st.sampled_from(sorted(set(_COMMON))), max_size=80)
anything = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cn"]), max_size=40)
pieces = st.lists(st.one_of(st.sampled_from(_PIECES), repetitive, anything), max_size=12).map("".join)
texts = st.one_of(repetitive, anything, pieces)
