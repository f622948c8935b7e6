"""The ways to a page's text: which one is asked for, and what is said where its library is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pyjpllm.cli.app import run
from pyjpllm.corpus import Document, read_documents
from pyjpllm.corpus.intake import Bounds, Extraction, Span, read_span
from pyjpllm.corpus.intake.html import Extract

ARTICLE = "".join(
    f"<p>これは{n}番目の段落で、記事の本文として十分な長さを持つ文章です。続きもあります。</p>" for n in range(8)
)
PAGE = f"""<html lang="ja"><head><title>題</title></head><body>
<nav><ul><li><a href="/">ホーム</a></li><li><a href="/a">会社案内</a></li></ul></nav>
<main><article><h1>見出しの文</h1>{ARTICLE}</article></main>
<div class="comments" id="comments"><p>コメントの文です。</p></div>
<footer><p>著作権表示</p></footer></body></html>"""


def text_of(folder: Path, page: str, extract: Extract, links: bool = False) -> Document:
    (folder / "a.html").write_text(page, encoding="utf-8")
    (document,) = read_span(Span(folder / "a.html"), Bounds(), Extraction(extract, links))
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


def test_lone_characters_between_tags_stay(tmp_path: Path) -> None:
    # Resiliparse 2.0.1 leaves these out of the main content.
    alone = [
        *map(chr, range(0x3041, 0x3097)),
        *map(chr, range(0x30A1, 0x30FB)),
        *"、。「」々〆ー※…○▲①一日鬱龥㐂豈Ａ１ｱ€ก",
    ]
    inside = "".join(f"<a href='/'>東京</a>{c}<b>{c}</b>\n{c} <i>a</i>" for c in alone)
    whole = (
        f"<html><head><title>の</title></head><body><main><p>{inside}</p><p><b>&#12354;</b>る</p></main></body></html>"
    )
    document = text_of(tmp_path, whole, "main")
    assert "".join(document.text.split()) == "".join(f"東京{c}{c}{c}a" for c in alone) + "ある"
    assert document.text == text_of(tmp_path, whole, "all").text
    assert document.meta["title"] == "の"
    # What icons are stays out.
    icon = "<main><p>文章の<b>\ue001</b><b>&#xE002;</b><i>→</i><i>❱</i><i>★</i>中</p></main>"
    assert text_of(tmp_path, icon, "main").text == "文章の中"
    # A reference is what it refers to, however it is written.
    for character in "あ→✓\ue000Ａ…ｱ日":
        written = [character, f"&#{ord(character)};", f"&#x{ord(character):x};", f"&#X{ord(character):04X};"]
        found = {text_of(tmp_path, f"<main><p>文章<b>{each}</b>中</p></main>", "main").text for each in written}
        assert found == {f"文章{character}中" if character in "あＡ…ｱ日" else "文章中"}
    assert text_of(tmp_path, "<main><p>文章<b>&hellip;</b>中<b>&rarr;</b></p></main>", "main").text == "文章…中"


# Of 21 characters 8 stand in links; white space, scripts and anchors without a target count for nothing.
LINKED = """<html lang="ja"><body><main><p>文章の <a href="/a">中の<b>リンク</b>
</a>です。</p>
<p><a href='x'><img src="i"> 三文字</a></p><p><a name="b">錨は違う</a>から。</p>
<script>"<a href='c'>書かれていない</a>"</script></main></body></html>"""


@pytest.mark.parametrize(
    ("page", "share"),
    [
        (LINKED, 8 / 21),
        ("<main><p>文章だけ。</p></main>", 0.0),
        ("<main><p><a href='/'>全部がリンク</a></p></main>", 1.0),
        ("<main><p>閉じない<a href='/'>リンク</p></main>", 3 / 7),
    ],
)
@pytest.mark.parametrize("extract", ["main", "all"])
def test_characters_in_links(extract: Extract, page: str, share: float, tmp_path: Path) -> None:
    document = text_of(tmp_path, page, extract, links=True)
    assert document.meta["link_fraction"] == round(share, 6)
    plain = text_of(tmp_path, page, extract)
    assert plain.text == document.text
    assert "link_fraction" not in plain.meta


def test_only_links_of_the_text_that_is_taken_count(tmp_path: Path) -> None:
    assert text_of(tmp_path, PAGE, "main", links=True).meta["link_fraction"] == 0
    whole = text_of(tmp_path, PAGE, "all", links=True)
    written = "".join(whole.text.split())
    assert whole.meta["link_fraction"] == round(len("ホーム会社案内") / len(written), 6)


def test_links_by_trafilatura(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    page = PAGE.replace("記事の本文", "<a href='/x'>記事の本文</a>").replace("続き", "<a name='y'>続き</a>")
    document = text_of(tmp_path, page, "trafilatura", links=True)
    written = "".join(document.text.split())
    assert document.meta["link_fraction"] == round(5 * written.count("記事の本文") / len(written), 6) > 0.1
    assert document.text == text_of(tmp_path, page, "trafilatura").text


def test_links_are_measured_for_a_pipeline_that_judges_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.html").write_text(LINKED, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "ひらがなの文です。"}\n', encoding="utf-8")
    rules = (
        '[[stage]]\nkind = "rules"\npreset = "uzushio-strict"\nwithout = ["compression"]\n'
        "override.links = { at_most = 0.3 }\n"
    )
    pages, lines = '[input]\npaths = ["a.html"]\n', '[input]\npaths = ["b.jsonl"]\n'
    for number, (text, dropped, said) in enumerate(
        [
            (pages + rules, {"links"}, "rules: link_fraction (1 document)"),
            (lines + rules, set(), "rules: of no document: link_fraction"),
            (pages, set(), None),
        ]
    ):
        (tmp_path / "c.toml").write_text(text, encoding="utf-8")
        assert run(["corpus", "build", "c.toml", "--run", f"r{number}", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert {reason for stage in report["stages"] for reason in stage["dropped"]} == dropped
        assert run(["corpus", "stats", f"r{number}"]) == 0
        assert said is None or said in capsys.readouterr().out
    written = list(read_documents(tmp_path / "r2" / "documents"))
    assert "link_fraction" not in written[0].meta


def test_a_page_without_text(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    (tmp_path / "a.html").write_text("<html><body></body></html>")
    (fault,) = read_span(Span(tmp_path / "a.html"), Bounds(), Extraction("trafilatura", True))
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
