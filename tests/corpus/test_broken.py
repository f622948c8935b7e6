"""Whatever is in a file: it is set aside under its name, the rest is read, nothing stops, memory stays bounded."""

from __future__ import annotations

import encodings.aliases
import gzip
import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.corpus import Document, read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import CorpusConfig, InputConfig
from pyjpllm.corpus.faults import FAULTS, SKIPS, Fault, Skip, excerpt_of
from pyjpllm.corpus.intake import SUFFIXES, Bounds, Item, Span, read_span
from tests.corpus.broken import CASES, GOOD, TWO, Case, page

BOUNDS = Bounds(document=2 << 20)


def items(path: Path, bounds: Bounds = BOUNDS) -> list[Item]:
    return list(read_span(Span(path), bounds))


def faults(found: list[Item]) -> list[str]:
    return [item.reason for item in found if isinstance(item, Fault)]


def documents(found: list[Item]) -> list[Document]:
    return [item for item in found if isinstance(item, Document)]


def test_there_are_enough() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_broken_input(case: Case, tmp_path: Path) -> None:
    path = tmp_path / case.file
    path.write_bytes(case.data)
    found = items(path)
    assert faults(found) == case.faults, found
    assert len(documents(found)) == case.documents, found
    for item in found:
        if isinstance(item, Fault):
            assert item.reason in FAULTS
            assert item.path == str(path)
            assert item.detail or item.reason == "empty-text"
            assert item.excerpt.isprintable()
        elif isinstance(item, Skip):
            assert item.reason in SKIPS
    assert items(path) == found


def test_one_run_over_all_of_it(tmp_path: Path) -> None:
    """Nothing stops the pipeline; the report counts every fault, and the quarantine names it with its file."""
    expected: dict[str, list[str]] = {}
    for number, case in enumerate(CASES):
        path = tmp_path / "in" / f"{number:03d}" / case.file
        path.parent.mkdir(parents=True)
        path.write_bytes(case.data)
        if case.faults:
            expected[str(path)] = case.faults
    config = CorpusConfig(input=InputConfig(paths=[str(tmp_path / "in")], max_document_mib=2))
    report = build_corpus(config, tmp_path / "run")
    assert report["files"] == len(CASES)
    assert report["set_aside"] == Counter(reason for case in CASES for reason in case.faults)
    assert report["written"]["documents"] == sum(case.documents for case in CASES)
    found: dict[str, list[str]] = {}
    for file in sorted((tmp_path / "run" / "quarantine").iterdir()):
        for line in file.open(encoding="utf-8"):
            fault = json.loads(line)
            found.setdefault(fault["path"], []).append(fault["reason"])
    assert found == expected
    assert len(list(read_documents(tmp_path / "run" / "documents"))) == report["written"]["documents"]


def test_every_fault_has_a_case() -> None:
    elsewhere = {"missing-file", "unreadable-file", "no-original", "pages-differ", "reader-failed", "stage-failed"}
    assert {reason for case in CASES for reason in case.faults} == set(FAULTS) - elsewhere


@pytest.mark.parametrize("codec", sorted(set(encodings.aliases.aliases.values()) | {"undefined", "idna", "punycode"}))
def test_whatever_encoding_a_page_declares(codec: str, tmp_path: Path) -> None:
    for name, body in (
        ("cp932", "日本語の文章です。"),
        ("euc_jp", "かな"),
        ("utf-16-le", "日"),
        ("ascii", "+2AA- \\ud800"),
    ):
        path = tmp_path / "a.html"
        path.write_bytes(f"<meta charset={codec}>".encode() + body.encode(name))
        for item in items(path):
            if isinstance(item, Document):
                item.text.encode()
            else:
                assert isinstance(item, Fault)
                assert item.reason in ("undecodable", "empty-text")


def test_an_error_of_a_reader_ends_its_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise RuntimeError("odd")

    monkeypatch.setattr("pyjpllm.corpus.intake.warc.document_of", fails)
    path = tmp_path / "a.warc"
    path.write_bytes(page())
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    assert [(item.reason, item.detail) for item in items(path) if isinstance(item, Fault)] == [
        ("reader-failed", "RuntimeError: odd")
    ]
    report = build_corpus(CorpusConfig(input=InputConfig(paths=[str(tmp_path)])), tmp_path / "run")
    assert report["set_aside"] == {"reader-failed": 1}
    assert report["written"]["documents"] == 1


def test_text_that_is_none_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    found = [Document("a\ud800", {"url": "http://a.jp/"}), Document("b")]
    monkeypatch.setattr("pyjpllm.corpus.job.read_span", lambda *_: iter(found))
    report = build_corpus(CorpusConfig(input=InputConfig(paths=[str(tmp_path)])), tmp_path / "run")
    assert report["set_aside"] == {"half-a-pair": 1}
    assert report["written"]["documents"] == 1


def test_the_page_has_every_fault() -> None:
    page = (Path(__file__).parents[2] / "docs" / "corpus.md").read_text(encoding="utf-8")
    for reason, meaning in FAULTS.items():
        assert f"| `{reason}` | {meaning} |" in page


def test_files_that_are_none(tmp_path: Path) -> None:
    assert faults(items(tmp_path / "gone.jsonl")) == ["missing-file"]
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    assert faults(items(folder)) == ["unreadable-file"]
    os.mkfifo(tmp_path / "pipe.jsonl")  # reading it would wait for ever
    assert faults(items(tmp_path / "pipe.jsonl")) == ["unreadable-file"]


def test_a_broken_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl", "a.warc"):
        path = tmp_path / name
        path.write_bytes(GOOD)

        def refuse(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("builtins.open", refuse)
        found = items(path)
        monkeypatch.undo()
        assert faults(found) == ["unreadable-file"]


def test_a_line_of_any_length_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with open(path, "wb") as stream:
        stream.write(GOOD)
        stream.seek(1 << 30, os.SEEK_CUR)  # a line of 1 GiB, of which the disk holds nothing
        stream.write(b"\n" + GOOD)
    tracemalloc.start()
    found = items(path, Bounds(document=1 << 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert faults(found) == ["too-long"]
    assert len(documents(found)) == 2
    assert peak < 16 << 20


def test_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"[]\n" + GOOD)
    fault = next(item for item in items(path) if isinstance(item, Fault))
    assert (fault.at, fault.excerpt) == (len(GOOD), "[]")
    first = gzip.compress(page())
    path = tmp_path / "a.warc.gz"
    path.write_bytes(first + gzip.compress(b"no record"))
    fault = next(item for item in items(path) if isinstance(item, Fault))
    assert (fault.reason, fault.at) == ("bad-warc-header", len(first))


def test_excerpts_are_one_printable_line() -> None:
    assert excerpt_of(b"a\n\xff\x00") == "a\\x0a\\xff\\x00"
    assert excerpt_of("\ud800\u2028" + "x" * 500)[:14] == "\\ud800\\x2028xx"


KINDS = tuple(suffix for suffix in SUFFIXES if suffix != ".parquet")
SEEDS = {".warc": TWO, ".warc.gz": gzip.compress(TWO), ".jsonl.gz": gzip.compress(GOOD * 3)}


@st.composite
def mangled(draw: st.DrawFn) -> tuple[str, bytes]:
    """Bytes of no kind, or a good file with something cut, flipped or put in."""
    suffix = draw(st.sampled_from(KINDS))
    data = bytearray(SEEDS.get(suffix, GOOD * 2))
    if draw(st.booleans()):
        return suffix, draw(st.binary(max_size=300))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        if draw(st.booleans()):
            data[at:at] = draw(st.binary(max_size=8))
        else:
            del data[at : at + draw(st.integers(1, 40))]
    return suffix, bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mangled")


@settings(max_examples=150, deadline=None)
@given(mangled())
def test_no_bytes_stop_it(folder: Path, file: tuple[str, bytes]) -> None:
    suffix, data = file
    path = folder / f"a{suffix}"
    path.write_bytes(data)
    for item in items(path):
        if isinstance(item, Document):
            assert item.text.strip()
            item.text.encode()
        else:
            assert item.reason in FAULTS or item.reason in SKIPS
