"""The ways to a page's text: which one is asked for, and what is said where its library is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pyjpllm.cli.app import run
from pyjpllm.corpus import Document
from pyjpllm.corpus.intake import Bounds, Span, read_span
from pyjpllm.corpus.intake.html import Extract

ARTICLE = "".join(
    f"<p>これは{n}番目の段落で、記事の本文として十分な長さを持つ文章です。続きもあります。</p>" for n in range(8)
)
PAGE = f"""<html lang="ja"><head><title>題</title></head><body>
<nav><ul><li><a href="/">ホーム</a></li><li><a href="/a">会社案内</a></li></ul></nav>
<main><article><h1>見出しの文</h1>{ARTICLE}</article></main>
<div class="comments" id="comments"><p>コメントの文です。</p></div>
<footer><p>著作権表示</p></footer></body></html>"""


def text_of(folder: Path, page: str, extract: Extract) -> Document:
    (folder / "a.html").write_text(page, encoding="utf-8")
    (document,) = read_span(Span(folder / "a.html"), Bounds(), extract)
    assert isinstance(document, Document), document
    return document


@pytest.mark.parametrize("extract", ["main", "all", "trafilatura"])
def test_what_is_taken(extract: Extract, tmp_path: Path) -> None:
    if extract == "trafilatura":
        pytest.importorskip("trafilatura")
    document = text_of(tmp_path, PAGE, extract)
    assert "これは7番目の段落" in document.text
    assert ("会社案内" in document.text) == (extract == "all")
    assert document.meta == {"encoding": "utf-8", "title": "題", "html_lang": "ja"}
    # The same page again, behind others: nothing is remembered.
    for _ in range(4):
        assert text_of(tmp_path, PAGE, extract) == document


def test_a_page_without_text(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    (tmp_path / "a.html").write_text("<html><body></body></html>")
    (fault,) = read_span(Span(tmp_path / "a.html"), Bounds(), "trafilatura")
    assert getattr(fault, "reason", None) == "empty-text"


def test_without_trafilatura(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "c.toml").write_text('[input]\npaths = ["a.html"]\nextract = "trafilatura"\n')
    for more in ([], ["--check"]):
        assert run(["corpus", "build", "c.toml", "--run", "r", *more]) == 2
        said = capsys.readouterr().err
        assert "pip install 'pyjpllm[trafilatura]', or take extract = \"main\"" in said
        assert len(said.splitlines()) == 1
