"""The labelled crawl: the same bytes from the same seed, every kind in it, nothing held out in it; and its judge."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path

import pytest

from benchmarks.corpus import labelled, packages
from benchmarks.corpus.ablation import table as ablation_table
from benchmarks.corpus.junk import KINDS, near_copy
from benchmarks.corpus.packages import PackageDocument, Packages
from benchmarks.corpus.pages import paragraphs
from benchmarks.corpus.selection import Kept, judge, table
from pyjpllm.corpus import read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import CorpusConfig, InputConfig
from pyjpllm.corpus.rules.config import RulesConfig


def documents(seed: int, count: int) -> list[PackageDocument]:
    dice = random.Random(seed)
    return [PackageDocument(f"manual/{seed}-{n}", "\n".join(paragraphs(dice, 12))) for n in range(count)]


def crawl(folder: Path) -> dict[str, int]:
    made = Packages(documents(1, 30), documents(2, 3), documents(3, 2))
    return labelled.write_labelled(folder, made, most_documents=20, junk_of_a_kind=3, seed=5)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crawl, and everything in it as text, in one folder."""
    folder = tmp_path_factory.mktemp("labelled")
    crawl(folder / "crawl")
    build_corpus(CorpusConfig(input=InputConfig(paths=[f"{folder}/crawl/*.warc.gz"])), folder / "raw")
    return folder


def test_the_same_seed_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    count = crawl(tmp_path)
    assert set(count) == set(labelled.ALL_KINDS)
    assert len(KINDS) + 1 >= 12
    assert (count["clean"], count["code"]) == (20, 3)
    assert 2 <= count["near-copy"] <= 6
    for name in (
        "crawl-0.warc.gz",
        "crawl-3.warc.gz",
        "labels.jsonl",
        "documents.jsonl",
        "heldout.jsonl",
        "heldout-whole.jsonl",
    ):
        assert (tmp_path / name).read_bytes() == (built / "crawl" / name).read_bytes()


def test_the_labels_are_those_of_the_pages(built: Path) -> None:
    labels = [json.loads(line) for line in (built / "crawl" / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    names = {document.meta["id"] for document in read_documents(built / "crawl" / "documents.jsonl")}
    assert len({label["url"] for label in labels}) == len(labels)
    for label in labels:
        assert label["url"].split("/")[3] == label["kind"]
        assert (label["of"] in names) == (label["kind"] in ("clean", "near-copy"))
    seen = {document.meta["url"]: document.text for document in read_documents(built / "raw" / "documents")}
    assert set(seen) <= {label["url"] for label in labels}
    held_out = {line for d in read_documents(built / "crawl" / "heldout.jsonl") for line in d.text.split("\n")}
    for text in seen.values():
        assert not held_out & set(text.split("\n"))


def test_the_judge(built: Path) -> None:
    got, whole = judge(built / "raw" / "documents", built / "crawl")
    assert got.pages["clean"] == whole.pages["clean"] == 20
    assert 0.97 * whole.found < got.found <= whole.found  # what the extraction leaves
    assert got.found < got.characters
    perfect, _ = judge(_perfect(built), built / "crawl")
    assert (perfect.precision, perfect.found) == (1.0, whole.found)
    text = table({"raw": (got, whole), "perfect": (perfect, whole)})
    assert "| clean | 20 | 100 | 100 |" in text
    assert "| noise | 3 | 100 | 0 |" in text
    assert text.splitlines()[-1].endswith("| 100.0 |")


def _perfect(built: Path) -> Path:
    """The documents, and nothing else, as if they had been kept."""
    labels = [json.loads(line) for line in (built / "crawl" / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    urls = {label["of"]: label["url"] for label in labels if label["kind"] == "clean"}
    path = built / "crawl" / "perfect.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for document in read_documents(built / "crawl" / "documents.jsonl"):
            record = {"text": document.text, "meta": {"url": urls[document.meta["id"]]}}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def test_a_copy_counts_as_the_document_once(built: Path, tmp_path: Path) -> None:
    labels = [json.loads(line) for line in (built / "crawl" / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    copies = [label for label in labels if label["kind"] == "near-copy"]
    texts = {d.meta["id"]: d.text for d in read_documents(built / "crawl" / "documents.jsonl")}
    for count in (1, 2):
        path = tmp_path / f"{count}.jsonl"
        record = {"text": texts[copies[0]["of"]], "meta": {"url": copies[0]["url"]}}
        path.write_text((json.dumps(record) + "\n") * count)
        got, _ = judge(path, built / "crawl")
        assert (got.pages["clean"], got.pages["near-copy"]) == (1, count - 1)
        assert got.precision == pytest.approx(1 / count)


def test_navigation_is_links(built: Path, tmp_path: Path) -> None:
    read = InputConfig(paths=[f"{built}/crawl/*.warc.gz"])
    links = RulesConfig(kind="rules", preset="uzushio", without=["hiragana", "compression"])
    build_corpus(CorpusConfig(input=read, stages=(links,)), tmp_path / "run")
    seen, kept = (
        {document.meta["url"] for document in read_documents(folder)}
        for folder in (built / "raw" / "documents", tmp_path / "run" / "documents")
    )
    dropped = [url.split("/")[3] for url in seen - kept]
    assert dropped == ["navigation"] * 3


def test_whole_documents_have_no_line_of_the_others() -> None:
    packages.load_quickstart()
    clean = importlib.import_module("clean")
    names = [f"manual/{n}" for n in range(2000)]
    out = next(name for name in names if clean.is_held_out(name))
    other = next(name for name in names if not clean.is_held_out(name))
    lines = "\n".join(paragraphs(random.Random(1), 40)).split("\n")
    shared, own, nearly = lines[:5], lines[5:30], next(line for line in lines[30:] if len(line) > 60)
    page = PackageDocument(other, "\n".join([*shared, nearly, "名前"]))
    held_out = PackageDocument(out, "\n".join([*own, *shared, nearly[:-1] + "ね", "名前"]))
    (found,) = packages.unseen([held_out], [page, held_out])
    assert (found.name, found.text.split("\n")) == (out, own)


def test_near_copies_are_near() -> None:
    dice = random.Random(1)
    lines = "\n".join(paragraphs(dice, 60)).split("\n")
    copy = near_copy(dice, lines)
    assert copy != lines
    assert len(set(copy) & set(lines)) > 0.8 * len(set(lines))


def test_tables() -> None:
    rows = {
        "raw": (1000, {"whole": [2.0, 2.2], "prose": [1.0, 1.0]}),
        "jpllm": (500, {"whole": [1.0, 1.0], "prose": [2.0, 2.0]}),
    }
    lines = ablation_table(rows, 1000).splitlines()
    assert "whole: bits per byte, mean of 2 | deviation | above the best | in errors | prose: bits per" in lines[0]
    assert lines[2:] == [  # 1.1 above, in roots of (0.02 / 2 + 0 / 2)
        "| raw | 1,000 | 1.00 | 2.1000 | 0.1414 | 110.0% | 11.0 | 1.0000 | 0.0000 | 0.0% |  |",
        "| jpllm | 500 | 2.00 | 1.0000 | 0.0000 | 0.0% |  | 2.0000 | 0.0000 | 100.0% | inf |",
    ]
    assert Kept().precision == 0
