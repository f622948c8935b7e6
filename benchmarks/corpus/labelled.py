"""A labelled crawl: `python -m benchmarks.corpus.labelled --out crawl`.

Documents of the quickstart's Debian packages, wrapped as web pages with menus, boxes of advertisements and footers, and
beside them made-up junk of eleven kinds (benchmarks.corpus.junk). The truth stands in the URL,
`https://www17.example.jp/KIND/NUMBER.html`, and in `labels.jsonl`: `url`, `kind`, and for documents and their near
copies `of`, the document's name. `documents.jsonl` has the documents as they were before they became pages.
`heldout-whole.jsonl` and `heldout.jsonl` have documents that are in no page, without lines that the others have: as
they were, and their prose alone. Documents of more than 40,000 characters are left out. The same packages and seed
give the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import html
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus.crawl import record, response
from benchmarks.corpus.junk import KINDS, LINKED, advertisement, near_copy
from benchmarks.corpus.packages import PackageDocument, Packages, package_documents
from benchmarks.corpus.pages import WEB_NAMES, sentence, words

CLEAN, NEAR_COPY = "clean", "near-copy"
ALL_KINDS = (CLEAN, NEAR_COPY, *KINDS)
_LONGEST = 40_000
_FILES = 4
_MENU = words("ホーム 製品 サポート ダウンロード お知らせ よくある質問 会社案内 サイトマップ お問い合わせ ログイン")
_FOOT = words("利用規約 個人情報保護方針 特定商取引法に基づく表記 採用情報 リンク集 ページの先頭へ")


@dataclass(frozen=True)
class Labelled:
    """A page before it is one."""

    kind: str
    lines: Sequence[str]
    of: str = ""
    """The document that it is, or is nearly."""


def labelled_pages(
    documents: Sequence[PackageDocument], junk_of_a_kind: int, copied: int, dice: random.Random
) -> list[Labelled]:
    """Every document, one to three near copies of ``copied`` of them, and the junk, mixed."""
    pages = [Labelled(CLEAN, document.text.split("\n"), document.name) for document in documents]
    for document in dice.sample(list(documents), min(copied, len(documents))):
        for _ in range(dice.randrange(1, 4)):
            pages.append(Labelled(NEAR_COPY, near_copy(dice, document.text.split("\n")), document.name))
    for kind, make in KINDS.items():
        pages += [Labelled(kind, make(dice)) for _ in range(junk_of_a_kind)]
    dice.shuffle(pages)
    return pages


def html_of(dice: random.Random, lines: Sequence[str], linked: bool = False) -> str:
    """A page around lines: one of three kinds of markup, of which the last says nothing about what is what. ``linked``:
    each line leads somewhere."""
    title = html.escape(lines[0][:40])
    menu = "".join(f'<li><a href="/m{n}">{name}</a></li>' for n, name in enumerate(dice.sample(_MENU, 7)))
    box = html.escape(advertisement(dice)[0])
    related = "".join(f'<li><a href="/r{n}">{sentence(dice)[:15]}</a></li>' for n in range(dice.randrange(3, 9)))
    foot = " | ".join(f'<a href="/f{n}">{name}</a>' for n, name in enumerate(dice.sample(_FOOT, 4)))
    texts = [html.escape(line) for line in lines]
    if linked:
        texts = [f'<a href="/p{n}">{text}</a>' for n, text in enumerate(texts)]
    body = "\n".join(f"<p>{text}</p>" for text in texts)
    notice = f"Copyright {dice.randrange(2000, 2025)} Example. All rights reserved."
    style = dice.choice(("elements", "classes", "bare"))
    if style == "elements":
        inside = (
            f"<header><h2>Example</h2><nav><ul>{menu}</ul></nav></header><aside class='ad'>{box}</aside>\n"
            f"<main><article>\n{body}\n</article></main><aside><ul>{related}</ul></aside>"
            f"<footer>{foot} {notice}</footer>"
        )
    elif style == "classes":
        inside = (
            f'<div id="header"><ul class="menu">{menu}</ul></div><div class="ad-box banner">{box}</div>\n'
            f'<div id="content">\n{body}\n</div><div class="sidebar"><ul>{related}</ul></div>'
            f'<div class="footer">{foot} {notice}</div>'
        )
    else:
        inside = (
            f"<ul>{menu}</ul><div>{box}</div>\n<div>\n{body}\n</div><ul>{related}</ul><div>{foot}<br>{notice}</div>"
        )
    return f"<!DOCTYPE html><html lang='ja'><head><title>{title}</title></head><body>{inside}</body></html>"


def page_bytes(dice: random.Random, page: Labelled) -> tuple[bytes, str]:
    """The page's bytes and its Content-Type: mostly UTF-8, else Shift_JIS or EUC-JP, declared rightly."""
    encoding = dice.choices(("utf-8", "cp932", "euc_jp"), (90, 6, 4))[0]
    # What the encoding lacks is a character reference, as browsers send it.
    data = html_of(dice, page.lines, page.kind in LINKED).encode(encoding, "xmlcharrefreplace")
    return data, f"text/html; charset={WEB_NAMES[encoding]}"


def write_labelled(
    out: Path,
    packages: Packages,
    *,
    most_documents: int,
    junk_of_a_kind: int,
    seed: int = 1,
) -> dict[str, int]:
    """Write the crawl, its labels and both sets of documents to ``out``; pages by kind.

    Of the documents those stay whose names hash lowest, so that a smaller crawl is part of a larger one.
    """
    out.mkdir(parents=True, exist_ok=True)
    dice = random.Random(seed)
    chosen = [document for document in packages.documents if len(document.text) <= _LONGEST]
    chosen = sorted(chosen, key=lambda document: hashlib.sha256(document.name.encode()).digest())[:most_documents]
    pages = labelled_pages(chosen, junk_of_a_kind, len(chosen) // 8, dice)
    count = dict.fromkeys(ALL_KINDS, 0)
    first = record("warcinfo", "", b"software: made up\r\n", "application/warc-fields")
    with contextlib.ExitStack() as stack:
        labels = stack.enter_context(open(out / "labels.jsonl", "w", encoding="utf-8"))
        streams = [stack.enter_context(open(out / f"crawl-{n}.warc.gz", "wb")) for n in range(_FILES)]
        for stream in streams:
            stream.write(gzip.compress(first, 3, mtime=0))
        for number, page in enumerate(pages):
            url = f"https://www{number % 97}.example.jp/{page.kind}/{number}.html"
            data, content_type = page_bytes(dice, page)
            streams[number % _FILES].write(gzip.compress(response(url, data, content_type), 3, mtime=0))
            labels.write(json.dumps({"url": url, "kind": page.kind, "of": page.of}, ensure_ascii=False) + "\n")
            count[page.kind] += 1
    _write_documents(out / "documents.jsonl", chosen)
    _write_documents(out / "heldout.jsonl", packages.held_out)
    _write_documents(out / "heldout-whole.jsonl", packages.held_out_whole)
    return count


def _write_documents(path: Path, documents: Iterable[PackageDocument]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps({"text": document.text, "meta": {"id": document.name}}, ensure_ascii=False) + "\n")


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--quickstart", type=Path, help="a work folder as the quickstart's, for the packages (default: OUT/quickstart)"
    )
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument("--junk", type=int, default=300, help="pages of each kind of junk")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    packages = package_documents((options.quickstart or options.out / "quickstart").resolve())
    count = write_labelled(
        options.out, packages,
        most_documents=options.documents, junk_of_a_kind=options.junk, seed=options.seed,
    )  # fmt: skip
    for kind, pages in count.items():
        print(f"{kind:<14}{pages:>6} pages")
    for name, part in (("prose held out", packages.held_out), ("held out", packages.held_out_whole)):
        print(f"{name:<14}{len(part):>6} documents, {sum(len(d.text) for d in part):,} characters")


if __name__ == "__main__":
    main()
