"""How often the encoding of made pages is found: `python -m benchmarks.corpus.encodings --pages 2000`.

A page is right when its text comes out as it went in. Beside it: what the declaration alone would have given (the
header's, else the page's, else UTF-8), which is what a reader without detection does.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from benchmarks.corpus.pages import MadePage, made_pages
from pyjpllm.corpus import encoding


def found(page: MadePage) -> bool:
    """Does the page's text come out right?"""
    what = encoding.detect(page.data, encoding.declared_encodings(page.data, page.content_type))
    return what is not None and _same(encoding.decode(page.data, what.name), page.html)


def believed(page: MadePage) -> bool:
    """Would it, if its declaration were believed?"""
    names = encoding.declared_encodings(page.data, page.content_type)
    return _same(encoding.decode(page.data, names[0] if names else "utf-8"), page.html)


def _same(text: str, html: str) -> bool:
    return text.rstrip("\ufffd") == html.rstrip("\ufffd")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    pages = list(made_pages(options.pages, options.seed))
    began = time.process_time()
    right = [found(page) for page in pages]
    seconds = time.process_time() - began
    wrong: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for page, ok in zip(pages, right, strict=True):
        for name in (page.encoding, page.kind, f"declared: {page.declared}"):
            total[name] += 1
            wrong[name] += not ok
    for name, count in total.items():
        print(f"{name:<20}{count - wrong[name]:>6} of {count:<6}")
    share = sum(right) / len(pages)
    trusted = sum(map(believed, pages)) / len(pages)
    size = sum(len(page.data) for page in pages)
    print(f"all: {sum(right)} of {len(pages)} right ({share:.2%}); believing the declaration: {trusted:.2%}")
    print(f"{seconds / len(pages) * 1e6:.0f} us a page of CPU time, {size / len(pages):.0f} bytes a page")


if __name__ == "__main__":
    main()
