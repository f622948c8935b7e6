"""The documents of the quickstart's Debian packages: the real text of the benchmarks of the corpus.

They are fetched, checked, extracted, cleaned and split by the quickstart's own scripts and pipeline, in a folder.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pyjpllm.corpus import read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import load_corpus_config

QUICKSTART = Path(__file__).resolve().parents[2] / "scripts" / "quickstart"


@dataclass(frozen=True)
class PackageDocument:
    """A page of a package: `package/path`, and its paragraphs, a line each."""

    name: str
    text: str


@dataclass(frozen=True)
class Packages:
    """The pages of the quickstart's packages."""

    documents: list[PackageDocument]
    """All that it trains on, whole, as they were before its pipeline."""
    held_out: list[PackageDocument]
    """Those that it holds out, as it scores them: lines of prose that the others do not have, not even nearly."""
    held_out_whole: list[PackageDocument]
    """Those that it holds out as they were before its pipeline, without lines that the others have or nearly have."""


def load_quickstart() -> None:
    """Let the quickstart's modules be imported, which stand beside each other and import each other by name."""
    if str(QUICKSTART) not in sys.path:
        sys.path.insert(0, str(QUICKSTART))


def package_documents(work: Path) -> Packages:
    """``work``: a folder as the quickstart's; packages that are not in its `packages` are fetched."""
    load_quickstart()
    prepare = importlib.import_module("prepare")
    work.mkdir(parents=True, exist_ok=True)
    prepare.write_pages(work, [])
    shutil.rmtree(work / "corpus", ignore_errors=True)
    config = load_corpus_config(QUICKSTART / "corpus.toml")
    paths = [str(work / path) for path in config.input.paths]
    build_corpus(config.model_copy(update={"input": config.input.model_copy(update={"paths": paths})}), work / "corpus")
    prepare.write_parts(work)
    pages, train, held_out = (_read(work / "text" / f"{name}.jsonl") for name in ("pages", "train", "heldout"))
    whole = {page.name: page for page in pages}
    documents = [whole[document.name] for document in train]
    return Packages(documents, held_out, unseen([whole[document.name] for document in held_out], pages))


def unseen(held_out: list[PackageDocument], pages: list[PackageDocument]) -> list[PackageDocument]:
    """Documents without lines of any page that is not held out."""
    clean = importlib.import_module("clean")
    others = [page for page in pages if not clean.is_held_out(page.name)]
    known = {line for page in others for line in page.text.split("\n")}
    own = [
        PackageDocument(page.name, "\n".join(line for line in page.text.split("\n") if line not in known))
        for page in held_out
    ]
    parts = clean.split([clean.Document(page.name, "", page.text) for page in [*others, *own]])
    return [PackageDocument(document.name, document.text) for document in parts.held_out]


def _read(path: Path) -> list[PackageDocument]:
    return [PackageDocument(str(document.meta["id"]), document.text) for document in read_documents(path)]
