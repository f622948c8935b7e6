"""Encodings of made pages, right and wrong declarations; `python -m benchmarks.corpus.encodings` has 2,000 of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpus.encodings import believed, found
from benchmarks.corpus.pages import ENCODINGS, made_pages
from pyjpllm.corpus.encoding import declared_encodings, decode, detect, python_name

TEXT = "これは日本語の文章です。東京都は日本の首都であり、世界最大の都市圏のひとつ。カタカナの言葉も使う。"


def test_made_pages() -> None:
    pages = list(made_pages(300, seed=7))
    wrong = [(page.encoding, page.kind, page.declared) for page in pages if not found(page)]
    assert len(wrong) <= 0.005 * len(pages), wrong
    assert sum(map(believed, pages)) < 0.6 * len(pages)  # the declarations are wrong indeed


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("length", [3, 6, 10, 20, len(TEXT)])
@pytest.mark.parametrize("declared", [None, *ENCODINGS])
def test_a_few_characters_are_enough(encoding: str, length: int, declared: str | None) -> None:
    data = f"<p>{TEXT[:length]}</p>".encode(encoding)
    detected = detect(data, [declared] if declared else [])
    assert detected is not None
    assert detected.name == encoding


def test_marks() -> None:
    for name in ("utf-8", "utf-16-le", "utf-16-be"):
        data = ("\ufeff" + TEXT).encode(name)
        detected = detect(data, ["cp932"])
        assert detected is not None
        assert (detected.name, detected.by) == (name, "bom")
        assert decode(data, name) == TEXT


def test_other_languages_keep_their_declaration() -> None:
    chinese = "中华人民共和国成立于一九四九年。这个问题很重要，我们没有时间讨论。" * 3
    german = "Die Größe der Straße überrascht die Gäste häufig. " * 3
    korean = "대한민국의 수도는 서울이다. 우리는 학교에서 공부한다. " * 3
    for text, name in ((chinese, "gb18030"), (german, "cp1252"), (korean, "cp949"), (chinese, "utf-8")):
        detected = detect(text.encode(name), [name])
        assert detected is not None
        assert detected.name == name, text


def test_japanese_declared_as_chinese() -> None:
    for name in ("euc_jp", "cp932"):
        detected = detect(TEXT.encode(name), ["gb18030"])
        assert detected is not None
        assert detected.name == name


def test_characters_of_vendors() -> None:
    assert decode("①㈱".encode("cp932"), "cp932") == "①㈱"
    assert decode("①".encode("euc_jis_2004"), "euc_jp") == "①"
    assert decode("ｶﾅ".encode("iso2022_jp_ext"), "iso2022_jp") == "ｶﾅ"


def test_a_few_wrong_bytes_in_utf8() -> None:
    data = (TEXT * 5).encode()
    broken = data[:301] + b"\xff" + data[301:]
    detected = detect(broken, ["cp932"])
    assert detected is not None
    assert detected.name == "utf-8"


def test_declarations() -> None:
    html = b'<?xml version="1.0" encoding="EUC-JP"?><meta http-equiv=x content="text/html; charset=Shift_JIS">'
    assert declared_encodings(html, "text/html; charset=iso-2022-jp") == ["iso2022_jp", "euc_jp", "cp932"]
    assert declared_encodings(b"<meta charset='x-sjis'>") == ["cp932"]
    assert declared_encodings(b"<meta charset=nonsense>") == []
    assert python_name("zlib") is None  # a codec of Python's, but no encoding of text
    assert python_name("gb2312") == "gb18030"


def test_what_is_no_text() -> None:
    assert detect(bytes(range(128, 256)) * 20) is None


@given(st.binary(max_size=400), st.lists(st.sampled_from(ENCODINGS), max_size=2))
def test_any_bytes(data: bytes, declared: list[str]) -> None:
    detected = detect(data, declared)
    if detected is not None:
        decode(data, detected.name)
