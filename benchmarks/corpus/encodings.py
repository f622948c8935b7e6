"""How often the encoding of made pages is found.

    python -m benchmarks.corpus.encodings [--pages 2000] [--write docs/corpus.md]

A page is right when its text comes out as it went in. Beside it: what the declaration alone would have given (the
header's, else the page's, else UTF-8), which is what a reader without detection does.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from benchmarks.corpus.pages import MadePage, made_pages
from benchmarks.ranks import write_between
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    options = parser.parse_args()
    pages = list(made_pages(options.pages, options.seed))
    began = time.process_time()
    right = [found(page) for page in pages]
    seconds = time.process_time() - began
    groups: dict[str, Counter[str]] = {"encoding": Counter(), "page": Counter(), "declaration": Counter()}
    wrong: Counter[str] = Counter()
    for page, ok in zip(pages, right, strict=True):
        for group, name in zip(groups, (page.encoding, page.kind, page.declared), strict=True):
            groups[group][name] += 1
            wrong[f"{group} {name}"] += not ok
    trusted = sum(map(believed, pages)) / len(pages)
    size = sum(len(page.data) for page in pages)
    lines = [
        f"{len(pages):,} made-up pages of {size / len(pages):,.0f} bytes on average: {sum(right):,} came out right "
        f"({sum(right) / len(pages):.2%}); believing the declaration gives {trusted:.2%}. "
        f"{seconds / len(pages) * 1e6:.0f} us a page of CPU time. Right of all, by",
        "",
        *(
            f"- {group}: " + ", ".join(f"{name} {count - wrong[f'{group} {name}']:,} of {count:,}" for name, count in
                                       counts.items())
            for group, counts in groups.items()
        ),
    ]  # fmt: skip
    print("\n".join(lines))
    if options.write is not None:
        write_between(options.write, "encodings", "\n".join(lines))


if __name__ == "__main__":
    main()
