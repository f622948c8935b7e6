"""Parallel text out of pairs of pages, joined on ids or by order; what does not fit is set aside under its reason."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.cli.app import run
from pyjpllm.config import ConfigError
from pyjpllm.corpus import Document, read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import CorpusConfig, InputConfig, OutputConfig, PairsConfig, load_corpus_config
from pyjpllm.corpus.faults import FAULTS, SKIPS, Fault, Skip
from pyjpllm.corpus.intake import Bounds, read_span
from pyjpllm.corpus.intake.pairs import Segment, pair_spans, segments
from pyjpllm.corpus.plan import plan_shards, shard_from_json
from pyjpllm.errors import UserError

HELP = """<html lang="{0}"><head><title>x</title><script>a = "<p>no</p>"</script></head><body><div id="DisplayArea">
<h1 id="hd_id1"><a name="top" href="#">{1}</a></h1>
<p id="par_id2" class="paragraph">{2} <span class="emph">{3}</span>。</p>
<p id="par_id9" class="code">Sub Main</p>
<p>{4}</p></div></body></html>"""


def pair(folder: Path, name: str, translated: str, original: str | None) -> None:
    for language, html in (("ja", translated), ("en", original)):
        (folder / language / name).parent.mkdir(parents=True, exist_ok=True)
        if html is not None:
            (folder / language / name).write_text(html, encoding="utf-8")


def read(folder: Path, by: Any) -> list[Any]:
    spans = pair_spans(str(folder / "ja"), str(folder / "en"), by)
    return [item for span in spans for item in read_span(span, Bounds())]


def test_by_id(tmp_path: Path) -> None:
    more = '<p id="par_id5">日本語だけ</p>'
    pair(tmp_path, "a/x.html", HELP.format("ja", "見出し", "本文の", "強調", "無名") + more,
         HELP.format("en", "Heading", "Text of", "emphasis", "no id"))  # fmt: skip
    page = str(tmp_path / "ja" / "a" / "x.html")
    assert read(tmp_path, "id") == [
        Document("見出し", {"source": "Heading", "page": page, "id": "hd_id1"}),
        Document("本文の 強調。", {"source": "Text of emphasis。", "page": page, "id": "par_id2"}),
        Skip("untranslated"),
        Skip("unpaired"),
    ]


def test_ids_that_come_twice(tmp_path: Path) -> None:
    pair(
        tmp_path,
        "x.html",
        '<p id="a">一</p><p id="a">二</p><p id="b">三</p>',
        '<p id="b">c</p><p id="a">a</p><p id="a">b</p>',
    )
    assert [(d.text, d.meta["source"]) for d in read(tmp_path, "id")] == [("一", "a"), ("二", "b"), ("三", "c")]
    pair(tmp_path, "x.html", '<p id="a">一</p><p id="b">三</p>', '<p id="b">c</p><p id="a">a</p><p id="a">b</p>')
    assert [type(item) for item in read(tmp_path, "id")] == [Skip, Document]


def test_by_order(tmp_path: Path) -> None:
    page = "<body><h1>{}</h1><p>{}\n  {}<br>{}</p><ul><li>{}<li>{}</ul><pre>ls</pre></body>"
    pair(tmp_path, "x.html", page.format("題", "日本", "語の文", "次の\n行 b", "一", "二"),
         page.format("Title", "An English", "text", "next\nline b", "one", "two"))  # fmt: skip
    found = [(item.text, item.meta["source"]) for item in read(tmp_path, "order") if isinstance(item, Document)]
    assert found == [
        ("題", "Title"),
        ("日本語の文", "An English text"),  # lines of Japanese join without a space
        ("次の行 b", "next line b"),
        ("一", "one"),
        ("二", "two"),
    ]


@pytest.mark.parametrize(
    ("by", "translated", "original", "reason", "detail"),
    [
        ("id", '<p id="a">一</p>', None, "no-original", "there is no "),
        ("id", '<p id="a">一</p><p id="c">二</p>', '<p id="b">one</p>', "pages-differ", "of 2 ids none is one of"),
        ("id", "<p>一</p>", '<p id="b">one</p>', "pages-differ", "no element has an id"),
        ("order", "<p>一</p><p>二</p>", "<p>one</p>", "pages-differ", "2 segments, 1 in the original"),
        ("order", "<p>一</p><h2>二</h2>", "<p>one</p><p>two</p>", "pages-differ",
         "segment 1 is a <h2>, in the original a <p>"),
        ("order", "<p></p>", "<p></p>", "pages-differ", "no text in the page"),
        ("order", "<p>一</p>", "<b a=1 " * 6000 + ">", "bad-html", "a tag of"),
        ("order", "", "<p>one</p>", "empty-file", "no byte"),
    ],
)  # fmt: skip
def test_pages_that_differ(
    by: Any, translated: str, original: str | None, reason: str, detail: str, tmp_path: Path
) -> None:
    pair(tmp_path, "x.html", translated, original)
    (fault,) = read(tmp_path, by)
    assert fault.reason == reason in FAULTS
    assert detail in fault.detail


# Pages as a plain generator makes them, and the segments that it knows.
WORDS = st.sampled_from(["猫", "the cat", "語。", "a < b", "&"])


@st.composite
def pages(draw: st.DrawFn) -> tuple[str, list[Segment]]:
    html: list[str] = []
    known: list[Segment] = []
    for number in range(draw(st.integers(0, 6))):
        element = draw(st.sampled_from(["p", "h2", "dt", "td", "blockquote", "pre"]))
        identifier = draw(st.sampled_from(["", f"i{number}"]))
        words = draw(st.lists(WORDS, min_size=1, max_size=3))
        text = " ".join(words).replace("&", "&amp;").replace("<", "&lt;")
        inline = draw(st.sampled_from(["{}", "<b>{}</b>", "<span><i>{}</i></span>", "<!-- c -->{}<script>x</script>"]))
        attribute = f' id="{identifier}"' if identifier else ""
        block = f"<{element}{attribute}>{inline.format(text)}</{element}>"
        html.append(f"<table><tr>{block}</tr></table>" if element == "td" else f"<div>{block}</div>")
        known.append(Segment(element, identifier, " ".join(words)))
    return "<html><body>" + "\n".join(html) + "</body></html>", known


@settings(max_examples=150, deadline=None)
@given(pages())
def test_segments(page: tuple[str, list[Segment]]) -> None:
    html, known = page
    assert segments(html) == known


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from('<>/="pdivb id語 \n&;!-')) | st.text(max_size=60))
def test_no_page_stops_it(html: str) -> None:
    for segment in segments(html):
        assert segment.text.strip()
        segment.text.encode()


def test_deep_pages() -> None:
    assert [s.text for s in segments("<div>" * 1500 + "深い" + "</div>" * 1500 + "<p>次</p>")] == ["深い", "次"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    dice = random.Random(2)
    for number in range(30):
        lines = [f"段落{number}の{n}。" for n in range(dice.randint(1, 5))]
        sources = [f"Paragraph {n} of {number}." for n in range(len(lines))]
        page = "".join(f"<p>{line}</p>" for line in lines)
        source = "".join(f"<p>{line}</p>" for line in sources) if number % 7 else "<h1>other</h1>"
        pair(tmp_path, f"{number}.html", page, source if number % 11 else None)
    (tmp_path / "t.txt").write_text("地の文。")
    return tmp_path


def config(processes: int = 1) -> CorpusConfig:
    pairs = [PairsConfig(translation="ja", original="en", by="order")]
    return CorpusConfig(
        input=InputConfig(paths=["t.txt"], pairs=pairs), output=OutputConfig(), run={"processes": processes}
    )  # type: ignore[arg-type]


def test_a_pipeline(project: Path) -> None:
    report = build_corpus(config(), "run")
    assert report["set_aside"] == {"no-original": 3, "pages-differ": 4}
    assert report["files"] == 61
    first, *others = read_documents("run/documents")
    assert first == Document("地の文。", {})
    assert len(others) == report["written"]["documents"] - 1 > 20
    for document in others:
        number, n = (int(word) for word in document.text.strip("段落。").split("の"))
        assert document.meta == {"source": f"Paragraph {n} of {number}.", "page": f"ja/{number}.html"}
    (project / "en" / "1.html").write_text("<p>changed</p>")
    (project / "run" / "report.json").unlink()
    with pytest.raises(UserError, match=r"en/1\.html has changed"):
        build_corpus(config(), "run")


def test_shards_of_pairs(project: Path) -> None:
    spans = pair_spans("ja", "en", "order")
    shards = plan_shards([Path("t.txt")], 100, spans)
    assert len(shards) > 5
    assert [span for shard in shards for span in shard.spans][1:] == spans
    assert [shard_from_json(json.loads(json.dumps(shard.as_json()))) for shard in shards] == shards


def test_reasons_are_in_the_tables() -> None:
    assert {"no-original", "pages-differ"} <= set(FAULTS)
    assert {"unpaired", "untranslated"} <= set(SKIPS)


def test_the_config(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '[[input.pairs]]\ntranslation = "ja"\noriginal = "en"\nby = "order"\n'
    (project / "c.toml").write_text(text)
    assert load_corpus_config("c.toml").input.pairs[0].by == "order"
    assert run(["corpus", "build", "c.toml", "--run", "r", "--check"]) == 0
    assert "ready; 30 files; no stage" in capsys.readouterr().out
    (project / "c.toml").write_text(text.replace('"en"', '"english"'))
    assert run(["corpus", "build", "c.toml", "--run", "r"]) == 2
    assert "english: no such folder of pages" in capsys.readouterr().err
    for wrong, message in (
        (text.replace('"order"', '"ids"'), 'input.pairs.0.by = "ids": did you mean "id"?'),
        (text.replace("original", "orignal"), 'input.pairs.0.orignal = "en": no such field; did you mean'),
        ("[input]\npaths = []\n", "c.toml:1: input: there is nothing to read; write paths"),
    ):
        (project / "c.toml").write_text(wrong)
        with pytest.raises(ConfigError, match=r".") as caught:
            load_corpus_config("c.toml")
        assert message in caught.value.lines[0], caught.value.lines


def test_a_fault_of_the_original_is_named(tmp_path: Path) -> None:
    pair(tmp_path, "x.html.gz", "", "")
    import gzip

    (tmp_path / "ja" / "x.html.gz").write_bytes(gzip.compress("<p>一</p>".encode()))
    (tmp_path / "en" / "x.html.gz").write_bytes(gzip.compress(b"<p>one</p>")[:-6])
    (fault,) = read(tmp_path, "order")
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.path) == ("cut-gzip", str(tmp_path / "en" / "x.html.gz"))
