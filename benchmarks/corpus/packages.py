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


def package_documents(work: Path) -> tuple[list[PackageDocument], list[PackageDocument]]:
    """All pages that the quickstart trains on, whole, as they were before its pipeline; and those that it holds out, as
    it scores them: lines of prose that the others do not have, not even nearly.

    ``work``: a folder as the quickstart's; packages that are not in its `packages` are fetched.
    """
    if str(QUICKSTART) not in sys.path:  # its modules stand beside each other and import each other by name
        sys.path.insert(0, str(QUICKSTART))
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
    return [whole[document.name] for document in train], held_out


def _read(path: Path) -> list[PackageDocument]:
    return [PackageDocument(str(document.meta["id"]), document.text) for document in read_documents(path)]
