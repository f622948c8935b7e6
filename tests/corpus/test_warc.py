"""WARC, WET, HTTP: what is good is read as FastWARC reads it; bodies are unpacked; offsets are those of the disk."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from benchmarks.corpus.crawl import crawl_records, record, response, write_crawl
from pyjpllm.corpus import Document
from pyjpllm.corpus.faults import Fault, Skip
from pyjpllm.corpus.intake import Bounds, Extraction, Item, Span, read_span
from tests.corpus.broken import PAGE, URL, page

TEXT = "これは日本語の文章です。"


def items(path: Path, data: bytes) -> list[Item]:
    path.write_bytes(data)
    return list(read_span(Span(path), Bounds()))


def crawl(seed: int, count: int) -> list[bytes]:
    source = crawl_records(random.Random(seed))
    return [next(source) for _ in range(count)]


@pytest.mark.parametrize("packed", [False, True])
def test_the_same_records_as_fastwarc(packed: bool, tmp_path: Path) -> None:
    data = crawl(3, 120)
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(b"".join(gzip.compress(one) if packed else one for one in data))
    ours = [item for item in read_span(Span(path), Bounds()) if isinstance(item, Document)]
    theirs = {}
    with open(path, "rb") as stream:
        for found in ArchiveIterator(stream, record_types=WarcRecordType.response):
            http = found.http_headers
            if http.status_code == 200 and "html" in (found.http_content_type or ""):
                theirs[found.headers["WARC-Target-URI"]] = found.reader.read()
    assert [document.meta["url"] for document in ours] == list(theirs)
    assert len(ours) > 20


def test_pieces_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(gzip.compress(one) for one in crawl(4, 40))
    whole = items(tmp_path / "a.warc.gz", data)
    plain = items(tmp_path / "b.warc", gzip.decompress(data))
    monkeypatch.setattr("pyjpllm.corpus.intake.members._PIECE", 7)
    monkeypatch.setattr("pyjpllm.corpus.intake.members.CHUNK", 5)
    assert items(tmp_path / "a.warc.gz", data) == whole
    assert items(tmp_path / "b.warc", gzip.decompress(data)) == plain == whole


@pytest.mark.parametrize(
    "head",
    [
        lambda head: head.replace(b"\r\n", b"\n") + b"\n\n",
        lambda head: head.replace(b"\r\n", b"\n", 3) + b"\r\n\r\n",
        lambda head: head + b"\r\n\n",
        lambda head: head + b"\n\r\n",
        lambda head: head.replace(b"\r\nWARC-Date", b"\r\n folded: on\r\nWARC-Date") + b"\r\n\r\n",
    ],
)
def test_heads_with_other_line_ends(head: Callable[[bytes], bytes], tmp_path: Path) -> None:
    def changed(one: bytes) -> bytes:
        first, blank, rest = one.partition(b"\r\n\r\n")
        assert blank
        return head(first) + rest

    data = crawl(5, 30)
    usual = items(tmp_path / "a.warc.gz", b"".join(map(gzip.compress, data)))
    other = items(tmp_path / "b.warc.gz", b"".join(gzip.compress(changed(one)) for one in data))
    assert [item for item in other if isinstance(item, Document)] == [i for i in usual if isinstance(i, Document)]
    assert sum(isinstance(item, Skip) for item in other) == sum(isinstance(item, Skip) for item in usual)


def test_a_file_packed_as_one(tmp_path: Path) -> None:
    data = crawl(5, 40)
    one = items(tmp_path / "a.warc.gz", gzip.compress(b"".join(data)))
    each = items(tmp_path / "a.warc.gz", b"".join(map(gzip.compress, data)))
    assert one == each


def test_the_next_member_after_damage(tmp_path: Path) -> None:
    members = [gzip.compress(page()) for _ in range(4)]
    members[1] = members[1][:40] + bytes([members[1][40] ^ 1]) + members[1][41:]
    found = items(tmp_path / "a.warc.gz", b"".join(members))
    assert [item.reason for item in found if isinstance(item, Fault)] == ["bad-gzip"]
    assert next(item.at for item in found if isinstance(item, Fault)) == len(members[0])
    assert sum(isinstance(item, Document) for item in found) == 3


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("gzip", bytes), ("br", bytes)],
    ids=["gzip", "deflate", "gzip, unpacked by the crawler", "br, unpacked by the crawler"],
)
def test_packed_bodies(coding: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    found = items(tmp_path / "a.warc", page(pack(PAGE), Content_Encoding=coding))
    assert [item.text for item in found if isinstance(item, Document)] == [TEXT]


def test_chunks(tmp_path: Path) -> None:
    half = len(PAGE) // 2
    chunks = b"".join(f"{len(part):x};name=1\r\n".encode() + part + b"\r\n" for part in (PAGE[:half], PAGE[half:]))
    found = items(tmp_path / "a.warc", page(chunks + b"0\r\n\r\n", Transfer_Encoding="chunked"))
    assert [item.text for item in found if isinstance(item, Document)] == [TEXT]
    found = items(tmp_path / "a.warc", page(PAGE, Transfer_Encoding="chunked"))  # joined by the crawler
    assert [item.text for item in found if isinstance(item, Document)] == [TEXT]


def test_what_is_no_page_is_skipped(tmp_path: Path) -> None:
    data = (
        record("warcinfo", "", b"software: a", "application/warc-fields")
        + response(URL, PAGE, "text/html", "404 Not Found")
        + response(URL, b"\x89PNG", "image/png")
        + record("resource", URL, b"a{}", "text/css")
        + response(URL, PAGE, "")
        + record("resource", URL, PAGE, "text/html")
        + response(URL, TEXT.encode(), "text/plain")
        + record("conversion", URL, TEXT.encode(), "text/plain")
    )
    found = items(tmp_path / "a.warc", data)
    skipped = [item.reason for item in found if isinstance(item, Skip)]
    assert skipped == ["record-kind", "http-status", "media-type", "media-type"]
    assert [item.text for item in found if isinstance(item, Document)] == [TEXT] * 4


def test_what_is_known_of_a_page(tmp_path: Path) -> None:
    html = (
        "<html lang='ja'><head><title>題&#xD800;</title></head><body><nav>メニュー</nav><p>本文です。</p></body></html>"
    )
    data = response(URL, html.encode("euc_jp"), "text/html; charset=utf-8")
    (document,) = items(tmp_path / "a.warc", data)
    assert isinstance(document, Document)
    assert document.text == "本文です。"
    assert document.meta["url"] == URL
    assert document.meta["encoding"] == "euc_jp"
    assert document.meta["html_lang"] == "ja"
    assert document.meta["title"].startswith("題")
    (everything,) = list(read_span(Span(tmp_path / "a.warc"), Bounds(), Extraction("all")))
    assert isinstance(everything, Document)
    assert "メニュー" in everything.text


def test_a_crawl_is_the_same_each_time(tmp_path: Path) -> None:
    one = write_crawl(tmp_path / "one", 0.2, seed=9, files=2)
    two = write_crawl(tmp_path / "two", 0.2, seed=9, files=2)
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert len(gzip.decompress(one[0].read_bytes())) >= 100_000
