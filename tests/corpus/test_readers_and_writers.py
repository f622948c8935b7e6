"""Documents in and out, and what is said about files that are not as they should be."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.corpus import Document, DocumentWriter, read_documents
from pyjpllm.corpus.meta import MAX_DEPTH, too_deep
from pyjpllm.corpus.writers import json_line
from pyjpllm.errors import UserError

KINDS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=5,
)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        st.text(st.characters(exclude_categories=["Cs"])),
        st.dictionaries(st.text("xyz", min_size=1), JSON, max_size=3),
    ),
    max_size=6,
)


def write(path: Path, documents: list[Document]) -> Path:
    with DocumentWriter(path) as writer:
        for document in documents:
            writer.add(document)
    return path


def pack(path: Path, data: bytes) -> Path:
    if path.name.endswith(".gz"):
        data = gzip.compress(data)
    elif path.name.endswith(".zst"):
        data = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(documents=DOCUMENTS)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, kind: str, documents: list[Document]
) -> None:
    folder = tmp_path_factory.mktemp("documents")
    path = write(folder / f"d{kind}", documents)
    assert list(read_documents(path)) == documents
    again = write(folder / f"e{kind}", documents)
    assert again.read_bytes() == path.read_bytes()


def test_white_space_around_a_line_and_what_stands_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b' \t{"text": "a"} \r\n\xef\xbb\xbf{"text": "b", "n": 1}\n')
    assert list(read_documents(path)) == [Document("a"), Document("b", {"n": 1})]
    path.write_bytes(b'{"text": "a"} {"text": "b"}\n')
    with pytest.raises(UserError, match="not JSON: Extra data at column 15"):
        list(read_documents(path))


@given(documents=DOCUMENTS)
def test_lines_are_those_of_the_standard_library(documents: list[Document]) -> None:
    for document in documents:
        record = {"text": document.text, "meta": dict(document.meta)}
        assert json_line(document) == json.dumps(record, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("kind", KINDS)
def test_many_documents(tmp_path: Path, kind: str) -> None:
    documents = [Document(f"文書{n}\n" * (n % 7), {"n": n}) for n in range(5000)]
    assert list(read_documents(write(tmp_path / f"d{kind}", documents))) == documents
    assert [path.name for path in tmp_path.iterdir()] == [f"d{kind}"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_writer_leaves_nothing(tmp_path: Path, kind: str) -> None:
    def fail() -> None:
        with DocumentWriter(tmp_path / f"d{kind}") as writer:
            writer.add(Document("a"))
            writer.add(Document("b", {"x": {1, 2}}))  # a set is no JSON

    with pytest.raises(TypeError):
        fail()
    assert not list(tmp_path.iterdir())
    write(tmp_path / f"d{kind}", [Document("old")])
    with pytest.raises(TypeError):
        fail()
    assert list(read_documents(tmp_path / f"d{kind}")) == [Document("old")]
    writer = DocumentWriter(tmp_path / f"d{kind}")
    with pytest.raises(ValueError, match="outside its with block"):
        writer.add(Document("a"))


def test_names_of_no_kind(tmp_path: Path) -> None:
    for name in ("d.json", "d.txt", "d"):
        with pytest.raises(UserError, match=r"documents are written to \.jsonl, "):
            DocumentWriter(tmp_path / name)


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines_of_others(tmp_path: Path, kind: str) -> None:
    lines = '\ufeff{"text": "一", "url": "u", "meta": {"a": 1}}\n\n  \n{"meta": null, "text": "二\\n"}\r\n{"text": ""}'
    path = pack(tmp_path / f"d{kind}", lines.encode())
    assert list(read_documents(path)) == [
        Document("一", {"url": "u", "a": 1}),
        Document("二\n"),
        Document(""),
    ]


@pytest.mark.parametrize("kind", [".txt", ".txt.gz", ".txt.zst"])
def test_a_text_file_is_a_document(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path / f"d{kind}", "\ufeff吾輩は\n\n猫である\r\n".encode())
    assert list(read_documents(path)) == [Document("吾輩は\n\n猫である\r\n")]
    pack(tmp_path / f"d{kind}", "日本".encode("euc-jp"))
    with pytest.raises(UserError, match=r"not UTF-8 \(byte 0xc6 at 1\); convert it"):
        list(read_documents(path))


def test_files_of_several_members(tmp_path: Path) -> None:
    one, two = (json.dumps({"text": text}).encode() + b"\n" for text in "ab")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(one) + gzip.compress(two))
    (tmp_path / "d.jsonl.zst").write_bytes(zstandard.compress(one) + zstandard.compress(two))
    assert [document.text for document in read_documents(tmp_path)] == ["a", "b", "a", "b"]


def test_lines_longer_than_a_chunk(tmp_path: Path) -> None:
    texts = ["あ" * 3_000_000, "b", "c" * (1 << 20)]
    path = write(tmp_path / "d.jsonl.zst", [Document(text) for text in texts])
    assert [document.text for document in read_documents(path)] == texts


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "not json": (b'{"text": "a"', r"d\.jsonl.*, line 3: not JSON: .* at column 13"),
    "array": (b'["a"]', "line 3: an object is expected, this is an array"),
    "string": (b'"a"', "this is a string"),
    "number": (b"3", "this is a number"),
    "null": (b"null", "this is null"),
    "typo": (b'{"txet": "a"}', "line 3: no key 'text'; did you mean 'txet'"),
    "other name": (b'{"id": 1, "content": "a"}', "no key 'text'; did you mean 'content'"),
    "no name": (b'{"id": 1, "lang": "ja"}', "no key 'text'; the keys are: id, lang"),
    "no key": (b"{}", "the object is empty"),
    "null text": (b'{"text": null}', "line 3: 'text' must be a string, this is null"),
    "bool text": (b'{"text": true}', "'text' must be a string, this is a boolean"),
    "meta": (b'{"text": "a", "meta": [1]}', "line 3: 'meta' must be an object, this is an array"),
    "surrogate": (b'{"text": "a\\ud800"}', "line 3: 'text' holds half of a surrogate pair"),
    "bytes": (b'{"text": "\x93\xfa\x96\x7b"}', r"line 3: not UTF-8 \(byte 0x93 at 11\)"),
}


@pytest.mark.parametrize("name", BAD_LINES)
@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz"])
def test_bad_lines(tmp_path: Path, name: str, kind: str) -> None:
    line, message = BAD_LINES[name]
    path = pack(tmp_path / f"d{kind}", b'{"text": "ok"}\n\n' + line + b"\n")
    reader = read_documents(path)
    assert next(reader).text == "ok"
    with pytest.raises(UserError, match=message) as caught:
        list(reader)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", [".jsonl.gz", ".jsonl.zst", ".txt.gz", ".txt.zst"])
def test_compressed_files_cut_anywhere(tmp_path: Path, kind: str) -> None:
    data = b"".join(json.dumps({"text": str(n * n * 7919)}).encode() + b"\n" for n in range(3000))
    path = pack(tmp_path / f"d{kind}", data)
    whole = path.read_bytes()
    for part in (1, 5, len(whole) // 3, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:part])
        with pytest.raises(UserError, match=r"damaged or cut short"):
            list(read_documents(path))
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 0xFF]) + whole[101:])
    with pytest.raises(UserError, match=r"damaged or cut short|not JSON|not UTF-8"):
        list(read_documents(path))


def test_empty_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst"):
        pack(tmp_path / name, b"")
        assert list(read_documents(tmp_path / name)) == []
    (tmp_path / "d.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"d\.parquet: not a Parquet file, or damaged"):
        list(read_documents(tmp_path / "d.parquet"))
    pack(tmp_path / "e.txt", b"")
    assert list(read_documents(tmp_path / "e.txt")) == [Document("")]


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("d.jsonl", "d.txt"):
        path = pack(tmp_path / name, b"{}")

        def refuse(*_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
            list(read_documents(path))
        monkeypatch.undo()


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_of_others(tmp_path: Path) -> None:
    columns = {"id": [1, 2], "text": ["一", "二"], "meta": [{"a": 1}, None]}
    path = parquet(tmp_path / "d.parquet", columns)
    assert list(read_documents(path)) == [Document("一", {"id": 1, "a": 1}), Document("二", {"id": 2})]
    parquet(path, {"text": ["一", "二"], "meta": ['{"a": 1}', ""]})
    assert list(read_documents(path)) == [Document("一", {"a": 1}), Document("二")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"content": ["a"]}, r"d\.parquet: no column 'text'; did you mean 'content'"),
        ({"text": ["a", None]}, "row 2: 'text' must be a string, this is null"),
        ({"text": [1]}, "row 1: 'text' must be a string, this is a number"),
        ({"text": ["a"], "meta": ["{"]}, "row 1: 'meta' is text, but no JSON"),
        ({"text": ["a"], "meta": [3]}, "row 1: 'meta' must be an object, this is a number"),
    ],
)
def test_bad_parquet(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read_documents(parquet(tmp_path / "d.parquet", columns)))


def test_columns_of_all_kinds(tmp_path: Path) -> None:
    """What JSON has not is written as text or number; the file that is made of it can be read again."""
    when = datetime(2026, 11, 29, 1, 2, 3, 456789, UTC)
    nanoseconds = pyarrow.array([1_000_000_001], pyarrow.timestamp("ns", "UTC"))
    row = {
        "text": "a",
        "at": when,
        "day": when.date(),
        "clock": time(1, 2),
        "took": timedelta(minutes=1.5),
        "price": Decimal("1.10"),
        "score": float("nan"),
        "raw": b"\xff\x00",
        "old": "古い".encode(),
        "inner": {"list": [1.5, None], "at": when},
    }
    columns = {name: [value] for name, value in row.items()} | {"ns": nanoseconds}
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    (document,) = read_documents(path)
    assert document.meta == {
        "at": "2026-11-29T01:02:03.456789+00:00",
        "day": "2026-11-29",
        "clock": "01:02:00",
        "took": 90.0,
        "price": "1.10",
        "score": None,
        "raw": "/wA=",
        "old": "古い",
        "inner": {"list": [1.5, None], "at": "2026-11-29T01:02:03.456789+00:00"},
        "ns": "1970-01-01T00:00:01+00:00",
    }
    for name in ("b.jsonl", "b.parquet"):
        with DocumentWriter(tmp_path / name) as writer:
            writer.add(document)
        assert list(read_documents(tmp_path / name)) == [document]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"), DocumentWriter(tmp_path / name) as writer:
        writer.add(Document("a", {"score": float("nan")}))
    assert list(tmp_path.iterdir()) == []


@given(st.integers(0, 130))
def test_the_depth_of_meta(depth: int) -> None:
    value: Any = 1
    for place in range(depth):
        value = [value] if place % 2 else {"a": value}
    assert too_deep(value) == (depth > MAX_DEPTH)


def test_damaged_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "d.parquet", {"text": [str(n * 7919) for n in range(4000)]})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a Parquet file, or damaged"):
        list(read_documents(path))
    broken = bytearray(whole)
    broken[4:400] = bytes(396)
    path.write_bytes(bytes(broken))
    with pytest.raises(UserError, match=r"d\.parquet: damaged after row 0"):
        list(read_documents(path))
