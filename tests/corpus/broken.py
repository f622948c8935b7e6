"""Broken input, a case each: the file's name and bytes, what must be set aside, and how many documents still come."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Callable
from typing import NamedTuple

import pyarrow
import pyarrow.parquet
import zstandard

from benchmarks.corpus.crawl import record, response

GOOD = '{"text": "これは文章です。"}\n'.encode()
PAGE = "<html><body><p>これは日本語の文章です。</p></body></html>".encode()
URL = "http://example.jp/"


class Case(NamedTuple):
    name: str
    file: str
    data: bytes
    faults: list[str]
    documents: int


def page(body: bytes = PAGE, **head: str) -> bytes:
    """A WARC record of a page; ``head``: lines of its HTTP head."""
    lines = {"Content-Type": "text/html; charset=utf-8"} | {
        name.replace("_", "-"): value for name, value in head.items()
    }
    http = "HTTP/1.1 200 OK\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    return record("response", URL, http.encode() + body, "application/http; msgtype=response")


def edited(data: bytes, old: bytes, new: bytes) -> bytes:
    """``data`` with one thing changed."""
    assert old in data
    return data.replace(old, new, 1)


def length(change: Callable[[int], object]) -> bytes:
    """A record whose Content-Length is another."""
    good = page()
    written = good.split(b"WARC/1.0\r\n")[1].split(b"Content-Length: ")[1].split(b"\r\n")[0]
    return edited(good, b"Content-Length: " + written, b"Content-Length: " + str(change(int(written))).encode())


def parquet(**columns: list[object]) -> bytes:
    """A Parquet file."""
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def mo(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A .mo file."""
    head = 28
    strings = b""
    tables: list[list[int]] = [[], []]
    start = head + 16 * len(pairs)
    for which in (0, 1):
        for pair in pairs:
            tables[which] += [len(pair[which]), start + len(strings)]
            strings += pair[which] + b"\0"
    first = struct.pack("<7I", 0x950412DE, 0, len(pairs), head, head + 8 * len(pairs), 0, 0)
    return first + struct.pack(f"<{4 * len(pairs)}I", *tables[0], *tables[1]) + strings


MO = mo([(b"", b"Content-Type: text/plain; charset=UTF-8\n"), (b"File", "ファイル".encode())])
PACKED = gzip.compress(GOOD * 200, mtime=0)
ZSTD = zstandard.compress(GOOD * 200)
LONG = b'{"text": "' + b"a" * (3 << 20) + b'"}\n'
BOMB = b"[" + b"0" * (70 << 20)
TWO = page() + page()


def damaged(data: bytes, at: int) -> bytes:
    """One byte flipped."""
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


CASES = (
    Case("empty file", "a.jsonl", b"", ["empty-file"], 0),
    Case("empty WARC", "a.warc.gz", b"", ["empty-file"], 0),
    Case("not gzip", "a.jsonl.gz", GOOD, ["bad-gzip"], 0),
    Case("cut gzip", "a.jsonl.gz", gzip.compress(GOOD) + gzip.compress(GOOD)[:-12], ["cut-gzip"], 1),
    Case("gzip with a wrong checksum", "a.jsonl.gz", damaged(PACKED, len(PACKED) - 6), ["bad-gzip"], 0),
    Case("gzip with a wrong length", "a.jsonl.gz", damaged(PACKED, len(PACKED) - 2), ["bad-gzip"], 0),
    Case("gzip with a wrong code", "a.jsonl.gz", PACKED[:12] + b"\xff" * 8 + PACKED[20:], ["bad-gzip"], 0),
    Case("something behind gzip", "a.jsonl.gz", gzip.compress(GOOD) + b"end", ["trailing-bytes"], 1),
    Case("zeros behind gzip", "a.jsonl.gz", gzip.compress(GOOD) + bytes(512), [], 1),
    Case("not zstd", "a.jsonl.zst", GOOD, ["bad-zstd"], 0),
    Case("cut zstd", "a.jsonl.zst", ZSTD[:-8], ["cut-zstd"], 0),
    Case("damaged zstd", "a.jsonl.zst", damaged(ZSTD, 4), ["bad-zstd"], 0),
    Case("gzip bomb", "a.jsonl.gz", gzip.compress(BOMB, 9), ["zip-bomb"], 0),
    Case("zstd bomb", "a.jsonl.zst", zstandard.compress(BOMB), ["zip-bomb"], 0),
    Case("text in a gzip bomb", "a.txt.gz", gzip.compress(BOMB, 9), ["too-long"], 0),
    Case("long line", "a.jsonl", GOOD + LONG + GOOD, ["too-long"], 2),
    Case("long line without an end", "a.jsonl", GOOD + LONG.rstrip(), ["too-long"], 1),
    Case("line of UTF-8 with a wrong byte", "a.jsonl", GOOD + edited(GOOD, b"\xe3", b"\xff") + GOOD, ["not-utf8"], 2),
    Case("line with half a pair in UTF-8", "a.jsonl", b'{"text": "\xed\xa0\x80"}\n', ["not-utf8"], 0),
    Case("line in Shift_JIS", "a.jsonl", GOOD + '{"text": "日本"}\n'.encode("cp932"), ["not-utf8"], 1),
    Case("UTF-16", "a.jsonl", b"\xff\xfe" + GOOD.decode().encode("utf-16-le"), ["utf-16"], 0),
    Case("a hole of NUL bytes", "a.jsonl", GOOD + bytes(4096) + b"\n" + GOOD, ["nul-bytes"], 2),
    Case("half a pair in the text", "a.jsonl", GOOD + b'{"text": "\\ud800"}\n', ["half-a-pair"], 1),
    Case("half a pair in the meta", "a.jsonl", b'{"text": "a", "meta": {"b": "\\uDC00"}}\n' + GOOD, ["half-a-pair"], 1),
    Case("half a pair in a key", "a.jsonl", b'{"text": "a", "\\ud801": 1}\n' + GOOD, ["half-a-pair"], 1),
    Case("no JSON", "a.jsonl", GOOD + b"{text: 1}\n" + GOOD, ["not-json"], 2),
    Case("cut line", "a.jsonl", GOOD + GOOD[:13], ["not-json"], 1),
    Case("NaN", "a.jsonl", b'{"text": "a", "n": NaN}\n', ["not-json"], 0),
    Case("a number of 10,000 digits", "a.jsonl", b'{"text": "a", "n": ' + b"9" * 10_000 + b"}\n", ["not-json"], 0),
    Case("a number beyond all", "a.jsonl", b'{"text": "a", "n": 1e999}\n' + GOOD, ["not-json"], 1),
    Case("meta of 985 brackets", "a.jsonl", b'{"text": "a", "n": ' + b"[" * 985 + b"]" * 985 + b"}\n", ["too-deep"], 0),
    Case("100,000 brackets", "a.jsonl", b"[" * 100_000 + b"\n" + GOOD, ["too-deep"], 1),
    Case("an array", "a.jsonl", b"[]\n" + GOOD, ["not-an-object"], 1),
    Case("a string", "a.jsonl", b'"text"\n' + GOOD, ["not-an-object"], 1),
    Case("null", "a.jsonl", b"null\n" + GOOD, ["not-an-object"], 1),
    Case("no text", "a.jsonl", b'{"content": "a"}\n' + GOOD, ["no-text"], 1),
    Case("text is null", "a.jsonl", b'{"text": null}\n' + GOOD, ["text-no-string"], 1),
    Case("text is a list", "a.jsonl", b'{"text": ["a"]}\n' + GOOD, ["text-no-string"], 1),
    Case("meta is a string", "a.jsonl", b'{"text": "a", "meta": "b"}\n' + GOOD, ["meta-no-object"], 1),
    Case("empty text", "a.jsonl", b'{"text": " \\n"}\n' + GOOD, ["empty-text"], 1),
    Case("plain text that is not UTF-8", "a.txt", "日本".encode("euc_jp"), ["not-utf8"], 0),
    Case("plain text with NUL", "a.txt", b"a\0b", ["nul-bytes"], 0),
    Case("plain text in UTF-16", "a.txt", "日本".encode("utf-16"), ["utf-16"], 0),
    Case("plain text that is too long", "a.txt", b"a" * (3 << 20), ["too-long"], 0),
    Case("white space", "a.txt", b" \n\n", ["empty-text"], 0),
    Case("not Parquet", "a.parquet", GOOD, ["bad-parquet"], 0),
    Case("cut Parquet", "a.parquet", parquet(text=["a", "b"])[:-4], ["bad-parquet"], 0),
    Case("Parquet without text", "a.parquet", parquet(body=["a"]), ["no-text"], 0),
    Case("Parquet with null", "a.parquet", parquet(text=["a", None, "b"]), ["text-no-string"], 2),
    Case("Parquet with numbers", "a.parquet", parquet(text=[1, 2]), ["text-no-string", "text-no-string"], 0),
    Case("Parquet with a wrong meta", "a.parquet", parquet(text=["a"], meta=["{"]), ["meta-no-object"], 0),
    Case("Parquet with a meta that is too deep", "a.parquet",
         parquet(text=["a", "b"], meta=['{"a": ' + "[" * 5000 + "]" * 5000 + "}", None]), ["too-deep"], 1),
    Case("Parquet with half a pair in the meta", "a.parquet", parquet(text=["a", "b"], meta=['{"a": "\\ud800"}', None]),
         ["half-a-pair"], 1),
    Case("Parquet with a number of 5,000 digits", "a.parquet", parquet(text=["a"], meta=['{"a": ' + "9" * 5000 + "}"]),
         ["meta-no-object"], 0),
    Case("Parquet with an infinite number", "a.parquet", parquet(text=["a", "b"], score=[float("inf"), 1.0]),
         ["no-json-value"], 1),
    Case("Parquet with text that is binary", "a.parquet", parquet(text=["日本".encode("cp932"), "日本".encode()]),
         ["not-utf8"], 1),
    Case("Parquet with a long text", "a.parquet", parquet(text=["a" * (3 << 20), "b"]), ["too-long"], 1),
    Case("no WARC", "a.warc", b"hello\r\n" + page(), ["bad-warc-header"], 1),
    Case("WARC head without colon", "a.warc", edited(TWO, b"WARC-Type: ", b"WARC-Type "), ["bad-warc-header"], 1),
    Case("WARC head without end", "a.warc", b"WARC/1.0\r\n" + b"A: b\r\n" * 20_000 + page(), ["bad-warc-header"], 1),
    Case("WARC length too small", "a.warc", length(lambda n: n - 9) + page(), ["bad-warc-length"], 1),
    Case("WARC length too large", "a.warc", length(lambda n: n + 90) + TWO, ["bad-warc-length"], 2),
    Case("WARC length beyond the end", "a.warc", length(lambda n: n + 9999) + page(), ["cut-warc"], 1),
    Case("WARC length negative", "a.warc", length(lambda n: -n) + page(), ["bad-warc-length"], 1),
    Case("WARC length no number", "a.warc", length(lambda n: "many") + page(), ["bad-warc-length"], 1),
    Case("WARC length missing", "a.warc", edited(TWO, b"Content-Length", b"Content-Size"), ["bad-warc-length"], 1),
    Case("cut WARC", "a.warc", TWO[:-30], ["cut-warc"], 1),
    Case("WARC with a damaged member", "a.warc.gz", damaged(gzip.compress(page()), 40) + gzip.compress(page()),
         ["bad-gzip"], 1),
    Case("WARC with a cut member", "a.warc.gz", gzip.compress(page()) + gzip.compress(page())[:60], ["cut-gzip"], 1),
    Case("WARC with something between members", "a.warc.gz", gzip.compress(page()) + b"???" + gzip.compress(page()),
         ["trailing-bytes"], 2),
    Case("WARC that is not packed", "a.warc.gz", TWO, ["bad-gzip"], 0),
    Case("WARC length too large in gzip", "a.warc.gz", gzip.compress(length(lambda n: n + 90)) + gzip.compress(page()),
         ["bad-warc-length"], 1),
    Case("long page", "a.warc", response(URL, b"<p>" + b"a" * (3 << 20), "text/html") + page(), ["too-long"], 1),
    Case("no HTTP", "a.warc", edited(TWO, b"HTTP/1.1 200", b"HELO/1.1 200"), ["bad-http-header"], 1),
    Case("HTTP head without end", "a.warc", record("response", URL, b"HTTP/1.1 200 OK\r\nA: b", "application/http"),
         ["bad-http-header"], 0),
    Case("body that is damaged gzip", "a.warc", page(damaged(gzip.compress(PAGE), 14), Content_Encoding="gzip"),
         ["bad-http-body"], 0),
    Case("body that is cut gzip", "a.warc", page(gzip.compress(PAGE)[:-12], Content_Encoding="gzip"),
         ["bad-http-body"], 0),
    Case("body that is a bomb", "a.warc", page(gzip.compress(bytes(9 << 20)), Content_Encoding="gzip"),
         ["too-long"], 0),
    Case("body in brotli", "a.warc", page(b"\x8b\x01\x80abc\x03", Content_Encoding="br"), ["bad-http-body"], 0),
    Case("body of broken chunks", "a.warc", page(b"5\r\nabcdefgh\r\n0\r\n\r\n", Transfer_Encoding="chunked"),
         ["bad-http-body"], 0),
    Case("body that ends in a chunk", "a.warc", page(b"ff\r\nabc", Transfer_Encoding="chunked"), ["bad-http-body"], 0),
    Case("page that is a picture", "a.warc", page(bytes(range(128, 256)) * 40), ["undecodable"], 0),
    Case("page in no encoding", "a.warc", page("<meta charset=undefined>日本語".encode("cp932"))
         + page(), [], 2),
    Case("page in Python's escapes", "a.warc", response(URL, b"\\ud800", "text/plain; charset=unicode_escape"), [], 1),
    Case("page without text", "a.warc", page(b"<html><script>1</script></html>"), ["empty-text"], 0),
    Case("page of nested elements", "a.warc", page(b"<div>" * 50_000) + page(), ["bad-html"], 1),
    Case("page of a tag with 20,000 attributes", "a.html", b"<p " + b"a=1 " * 20_000 + b">a", ["bad-html"], 0),
    Case("WET that is not UTF-8", "a.wet", record("conversion", URL, b"\xff\xfe\xfd", "text/plain"), ["not-utf8"], 0),
    Case("WET without text", "a.wet", record("conversion", URL, b" \n", "text/plain"), ["empty-text"], 0),
    Case("short .mo", "a.mo", MO[:10], ["bad-mo"], 0),
    Case("no .mo", "a.mo", b"x" * 100, ["bad-mo"], 0),
    Case("cut .mo", "a.mo", MO[:-8], ["bad-mo"], 0),
    Case(".mo with a table outside", "a.mo", MO[:8] + struct.pack("<I", 1 << 30) + MO[12:], ["bad-mo"], 0),
    Case(".mo in UTF-7", "a.mo", mo([(b"", b"charset=utf-7\n"), (b"File", b"+2AA-x")]), [], 1),
    Case(".mo in another encoding", "a.mo", mo([(b"File", "ファイル".encode("cp932"))]), ["undecodable"], 0),
)  # fmt: skip

assert json.loads(GOOD)
