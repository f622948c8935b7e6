"""Text for the quickstart, before and behind the pipeline that cleans it.

python prepare.py pages WORK [--text FILE ...]   fetch and extract: text/pages.jsonl
python prepare.py split WORK                     what `jpllm corpus build` kept of it: train.jsonl and heldout.jsonl
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import clean
import extract
import fetch

from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write

BLOCK = 2000  # characters after which a blank line in a plain text file ends a document


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["pages", "split"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--text", type=Path, nargs="+", default=[])
    options = parser.parse_args(arguments)
    try:
        if options.step == "pages":
            write_pages(options.work, options.text)
        else:
            write_parts(options.work)
    except UserError as error:
        sys.exit(f"quickstart: {error}")


def write_pages(work: Path, text: Sequence[Path]) -> None:
    """Write ``work``/text/pages.jsonl from ``text``, or from Debian's packages when there is none."""
    documents = own_documents(text) if text else debian_documents(work / "packages")
    write_jsonl(work / "text" / "pages.jsonl", clean.in_order(documents))


def write_parts(work: Path) -> None:
    """Write ``work``/text/{train,heldout}.jsonl from the pipeline's run in ``work``/corpus."""
    from pyjpllm.corpus import read_documents

    kept = read_documents(work / "corpus" / "documents")
    split = clean.split(clean.Document(d.meta["id"], d.meta["source"], d.text.strip()) for d in kept)
    if not split.train or not split.held_out:
        raise UserError(
            f"{len(split.train)} documents to train on and {len(split.held_out)} to hold out are left: give more text "
            "(JSON Lines or Parquet with a `text` field, or plain text with blank lines between documents)"
        )
    for name, part in (("train", split.train), ("heldout", split.held_out)):
        write_jsonl(work / "text" / f"{name}.jsonl", part)
        size = sum(len(document.text.encode()) for document in part)
        print(f"  {name:8} {len(part):6,} documents  {size / 1e6:6.2f} MB")
    for why, count in sorted(split.dropped.items()):
        print(f"  dropped  {count:6,} {why}")


def write_jsonl(target: Path, documents: Iterable[clean.Document]) -> None:
    with atomic_write(target) as path, path.open("w", encoding="utf-8") as file:
        for document in documents:
            record = {"text": document.text, "meta": {"id": document.name, "source": document.source}}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def debian_documents(cache: Path) -> Iterator[clean.Document]:
    """The Japanese pages of the packages in packages.tsv, read by a process for each core."""
    packages = fetch.read_table()
    files = fetch.fetch(packages, cache, lambda line: print(f"  {line}", flush=True))
    here = [package for package in packages if package.name in files]
    # Spawned, so that nothing this process holds (locks, threads) is copied half-way.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("spawn")) as pool:
        for package, pages in zip(here, pool.map(_pages, here, [files[p.name] for p in here]), strict=True):
            print(f"  {package.name} {len(pages):,} pages ({package.licence})", flush=True)
            for page in pages:
                yield clean.Document(f"{package.name}/{page.name}", package.name, page.text)


def _pages(package: fetch.Package, file: Path) -> list[extract.Page]:
    return list(extract.pages(file, package.kind, package.pages))


def own_documents(paths: Sequence[Path]) -> Iterator[clean.Document]:
    """The user's documents: a record of JSON Lines or Parquet, or a run of paragraphs of a plain text file."""
    from pyjpllm.corpus import read_documents

    for path in paths:
        if path.suffix == ".txt":
            texts: Iterator[str] = iter(blocks(plain_text(path)))
        else:
            texts = (document.text for document in read_documents([path]))
        for number, text in enumerate(texts):
            yield clean.Document(f"{path.name}#{number}", path.name, text)


def plain_text(path: Path) -> str:
    """The content of a UTF-8 file; a UserError that names it otherwise."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; convert it, for example with iconv") from error


def blocks(text: str) -> list[str]:
    """A plain text cut at the first blank line after BLOCK characters, at the latest after four times that."""
    pieces: list[list[str]] = [[]]
    size = 0
    for line in text.splitlines():
        if size >= BLOCK and (not line.strip() or size >= 4 * BLOCK):
            pieces.append([])
            size = 0
        pieces[-1].append(line)
        size += len(line)
    return ["\n".join(piece) for piece in pieces]


if __name__ == "__main__":
    main()
