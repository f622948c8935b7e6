"""A made-up crawl as WARC and WET files: `python -m benchmarks.corpus.crawl --out crawl --megabytes 200`.

Pages in the encodings of benchmarks.corpus.pages, with menus, scripts and long footers around their text, declared
rightly, wrongly or not at all; between them what crawls have as well: requests, metadata, other media, missing pages,
Chinese and English pages. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.corpus.pages import ENCODINGS, WEB_NAMES, encode, html_of, paragraphs, sentence, words

_CHINESE = words("政府 公告 我们 这个 问题 经济 发展 技术 公司 产品 服务 时间 北京 上海 学习 他们 没有 可以 因为 所以")
_ENGLISH = words("the of and page about services contact data city market because people water system they report")


def record(kind: str, url: str, body: bytes, content_type: str) -> bytes:
    """One WARC record."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2024-02-03T04:05:06Z\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Record-ID: <urn:uuid:{zlib.crc32(body):08x}-0000-4000-8000-{len(body):012x}>\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def response(url: str, body: bytes, content_type: str, status: str = "200 OK") -> bytes:
    """A record with a page as a server sends it."""
    head = (
        f"HTTP/1.1 {status}\r\nServer: Example\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return record("response", url, head.encode() + body, "application/http; msgtype=response")


def crawl_records(dice: random.Random) -> Iterator[bytes]:
    """Records without end."""
    number = 0
    yield record("warcinfo", "", b"software: made up\r\n", "application/warc-fields")
    while True:
        number += 1
        url = f"http://www{number % 97}.example.jp/{number}.html"
        get = f"GET /{number}.html HTTP/1.1\r\nHost: www{number % 97}.example.jp\r\n\r\n"
        yield record("request", url, get.encode(), "application/http; msgtype=request")
        chance = dice.random()
        if chance < 0.03:
            yield response(url, b"<h1>404 Not Found</h1>", "text/html", "404 Not Found")
        elif chance < 0.06:
            yield response(url, dice.randbytes(4000), "image/jpeg")
        else:
            yield _page(dice, url, chance)
        yield record("metadata", url, b"fetchTimeMs: 42\r\n", "application/warc-fields")


def _page(dice: random.Random, url: str, chance: float) -> bytes:
    encoding = dice.choices(ENCODINGS, (75, 13, 8, 3, 1))[0]
    said = WEB_NAMES[encoding if dice.random() < 0.9 else dice.choice(ENCODINGS)]
    if chance < 0.11:
        vocabulary = _CHINESE if chance < 0.08 else _ENGLISH
        glue = "" if chance < 0.08 else " "
        text = [glue.join(dice.choice(vocabulary) for _ in range(80)) for _ in range(8)]
        html, encoding = f"<html><body>{''.join(f'<p>{p}。</p>' for p in text)}</body></html>", "utf-8"
    else:
        html = _long(dice, html_of(dice, "plain", said if dice.random() < 0.6 else ""))
    header = f"text/html; charset={said}" if dice.random() < 0.5 and encoding != "utf-16-le" else "text/html"
    return response(url, encode(html, encoding), header)


def _long(dice: random.Random, html: str) -> str:
    """The page with as much around and in it as pages have."""
    script = "\n".join(
        f"  function f{n}(a, b) {{ return a['k{dice.randrange(99)}'] + b * {n}; }}" for n in range(dice.randrange(80))
    )
    links = "".join(f'<li class="item i{n}"><a href="/a/{n}">{sentence(dice)[:12]}</a></li>' for n in range(30))
    more = "\n".join(f'<p class="text">{text}</p>' for text in paragraphs(dice, dice.randrange(1, 25)))
    html = html.replace("</head>", f"<script>\n{script}\n</script></head>")
    html = html.replace("</nav>", f"</nav><aside><ul>{links}</ul></aside>")
    return html.replace("</main>", f"{more}</main>")


def write_crawl(out: Path, megabytes: float, *, seed: int = 1, files: int = 4) -> list[Path]:
    """``crawl-0.warc.gz``, ... of together at least ``megabytes`` MB before packing; returns their names."""
    out.mkdir(parents=True, exist_ok=True)
    names: list[Path] = []
    for number in range(files):
        names.append(out / f"crawl-{number}.warc.gz")
        size = 0
        with open(names[-1], "wb") as stream:
            for data in crawl_records(random.Random(seed * 1000 + number)):
                stream.write(gzip.compress(data, 3, mtime=0))
                size += len(data)
                if size >= megabytes * 1e6 / files:
                    break
    return names


def main() -> None:
    """Write the crawl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name in write_crawl(options.out, options.megabytes, seed=options.seed, files=options.files):
        print(f"{name}: {name.stat().st_size / 1e6:.1f} MB packed")


if __name__ == "__main__":
    main()
