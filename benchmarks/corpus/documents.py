"""The Japanese pages of Debian's packages as documents: `python -m benchmarks.corpus.documents --work work`.

Fetched as the quickstart does (scripts/quickstart, with licences in packages.tsv), neither cleaned nor filtered, so
that rules have something to drop. WORK/packages keeps the packages, WORK/documents.jsonl the documents.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pyjpllm.files import atomic_write

ROOT = Path(__file__).parents[2]


def documents(work: Path) -> Path:
    """A file of JSON Lines (`text`, `meta.id`), in the order of the packages' table; made if it is not there."""
    path = work / "documents.jsonl"
    if path.exists():
        return path
    sys.path.insert(0, str(ROOT / "scripts" / "quickstart"))
    import extract  # type: ignore[import-not-found]
    import fetch  # type: ignore[import-not-found]

    packages = fetch.read_table()
    files = fetch.fetch(packages, work / "packages", print)
    with atomic_write(path) as beside, beside.open("w", encoding="utf-8") as out:
        for package in packages:
            if package.name not in files:
                continue
            for page in extract.pages(files[package.name], package.kind, package.pages):
                if page.text.strip():
                    out.write(_line(f"{package.name}/{page.name}", page.text))
    return path


def _line(name: str, text: str) -> str:
    return json.dumps({"text": text, "meta": {"id": name}}, ensure_ascii=False) + "\n"


def write(path: Path, chosen: list[tuple[str, str]]) -> None:
    """A file of some of the documents, (id, text) each."""
    path.write_text("".join(_line(name, text) for name, text in chosen), encoding="utf-8")


def texts(path: Path) -> list[tuple[str, str]]:
    """(id, text) of every document of a file that `documents` has made."""
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [(record["meta"]["id"], record["text"]) for record in records]


def spread(found: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """At most so many of the documents, evenly from all, in their order."""
    count = min(most, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def main() -> None:
    """Make the file and say what is in it."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("work"))
    path = documents(parser.parse_args().work)
    found = texts(path)
    print(f"{path}: {len(found):,} documents, {sum(len(text.encode()) for _, text in found) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
