"""The indexed format, byte for byte, and what is said about damaged files."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.data.indexed import IndexedDataset, IndexedWriter, read_index, token_dtype
from pyjpllm.errors import UserError

# Three documents: [5, 6], [], [65499]; uint16. Written by hand after Megatron's layout.
BIN = bytes.fromhex("0500 0600 dbff")
IDX = (
    b"MMIDIDX\x00\x00"
    + struct.pack("<Q", 1)
    + b"\x08"
    + struct.pack("<QQ", 3, 4)
    + struct.pack("<iii", 2, 0, 1)
    + struct.pack("<qqq", 0, 4, 4)
    + struct.pack("<qqqq", 0, 1, 2, 3)
)
DOCUMENTS = [[5, 6], [], [65499]]


def write_pair(folder: Path, idx: bytes = IDX, bin_: bytes = BIN) -> Path:
    (folder / "c.idx").write_bytes(idx)
    (folder / "c.bin").write_bytes(bin_)
    return folder / "c"


def documents_of(prefix: Path, vocab_size: int | None = None) -> list[list[int]]:
    dataset = IndexedDataset(prefix, vocab_size)
    return [dataset[place].tolist() for place in range(len(dataset))]


def test_the_writer_makes_the_bytes_of_the_format(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "out" / "c", 65499 + 1) as writer:
        for document in DOCUMENTS:
            writer.add(document)
    assert (tmp_path / "out" / "c.bin").read_bytes() == struct.pack("<iii", 5, 6, 65499)  # 65,500 ids: int32
    with IndexedWriter(tmp_path / "c", 65499) as writer:
        writer.add_many([5, 6, 65498], [2, 0, 1])
    assert (tmp_path / "c.idx").read_bytes() == IDX
    assert (tmp_path / "c.bin").read_bytes() == bytes.fromhex("0500 0600 daff")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.bin", "c.idx", "out"]


def test_the_reader_reads_the_bytes_of_the_format(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path)
    assert documents_of(prefix) == DOCUMENTS
    dataset = IndexedDataset(prefix)
    assert dataset[-1].tolist() == [65499]
    assert dataset.index.num_tokens == 3
    with pytest.raises(IndexError):
        dataset[3]
    dataset.close()
    assert dataset[0].tolist() == [5, 6]


@pytest.mark.parametrize(("code", "dtype"), [(1, "<u1"), (2, "<i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2")])
def test_every_integer_type_of_megatron_is_read(tmp_path: Path, code: int, dtype: str) -> None:
    width = np.dtype(dtype).itemsize
    idx = IDX[:17] + bytes([code]) + IDX[18:46] + struct.pack("<qqq", 0, 2 * width, 2 * width) + IDX[70:]
    prefix = write_pair(tmp_path, idx, np.array([5, 6, 101], dtype=dtype).tobytes())
    assert documents_of(prefix) == [[5, 6], [], [101]]


def test_sequences_of_one_document_are_joined(tmp_path: Path) -> None:
    idx = IDX[:26] + struct.pack("<Q", 3) + IDX[34:70] + struct.pack("<qqq", 0, 2, 3)
    assert documents_of(write_pair(tmp_path, idx)) == [[5, 6], [65499]]
    gap = idx[:46] + struct.pack("<qqq", 0, 2, 4) + idx[70:]
    with pytest.raises(UserError, match=r"c\.idx: sequence 1 does not follow"):
        read_index(write_pair(tmp_path, gap))


def test_pointers_may_come_in_any_order(tmp_path: Path) -> None:
    idx = IDX[:46] + struct.pack("<qqq", 2, 0, 0) + IDX[70:]
    assert documents_of(write_pair(tmp_path, idx)) == [[6, 65499], [], [5]]


DAMAGE = {
    "magic": (b"MMIDIDY" + IDX[7:], BIN, r"c\.idx: not an index"),
    "empty": (b"", BIN, r"c\.idx: not an index"),
    "half a magic": (IDX[:5], BIN, r"c\.idx: truncated: 5 bytes"),
    "half a header": (IDX[:20], BIN, r"c\.idx: truncated: 20 bytes are less than its header"),
    "version": (IDX[:9] + struct.pack("<Q", 2) + IDX[17:], BIN, r"c\.idx: version 2 .*allowed: 1"),
    "dtype": (IDX[:17] + b"\x06" + IDX[18:], BIN, r"c\.idx: dtype code 6 holds no token ids"),
    "short": (IDX[:-1], BIN, r"c\.idx: truncated: 101 bytes, its header promises 102"),
    "long": (IDX + b"x", BIN, r"c\.idx: 103 bytes, its header promises 102"),
    "modes": (IDX + b"\0\0\0", BIN, r"c\.idx: a multimodal index"),
    "count": (IDX[:18] + struct.pack("<Q", 1 << 60) + IDX[26:], BIN, r"c\.idx: truncated"),
    "size": (IDX[:34] + struct.pack("<i", -1) + IDX[38:], BIN, r"c\.idx: a negative size"),
    "pointer": (IDX[:46] + struct.pack("<q", -2) + IDX[54:], BIN, r"c\.idx: a negative size or pointer"),
    "far beyond": (
        IDX[:62] + struct.pack("<q", (1 << 63) - 2) + IDX[70:],
        BIN,
        r"c\.bin: truncated: 6 bytes, c\.idx points",
    ),
    "beyond": (IDX[:62] + struct.pack("<q", 6) + IDX[70:], BIN, r"c\.bin: truncated: 6 bytes, c\.idx points up to"),
    "documents": (IDX[:-8] + struct.pack("<q", 2), BIN, r"c\.idx: its document index does not cover"),
    "order": (IDX[:78] + struct.pack("<qqq", 2, 1, 3), BIN, r"c\.idx: its document index does not cover"),
    "bin": (IDX, BIN[:-1], r"c\.bin: truncated: 5 bytes, c\.idx points up to byte 6 \(sequence 2"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    idx, bin_, message = DAMAGE[name]
    with pytest.raises(UserError, match=message):
        read_index(write_pair(tmp_path, idx, bin_))


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(IDX) - 1), value=st.integers(0, 255), cut=st.booleans())
def test_no_damage_of_the_index_ends_in_anything_but_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    idx = IDX[:at] if cut else IDX[:at] + bytes([value]) + IDX[at + 1 :]
    with contextlib.suppress(UserError):
        for document in documents_of(write_pair(folder, idx)):
            assert all(isinstance(token, int) for token in document)


def test_missing_files_name_the_nearest(tmp_path: Path) -> None:
    write_pair(tmp_path)
    with pytest.raises(UserError, match=r"cc\.idx: no such token file; did you mean '.*c\.idx'\?"):
        read_index(tmp_path / "cc")
    with pytest.raises(UserError, match=r"the folder '.*none' does not exist"):
        read_index(tmp_path / "none" / "c")
    (tmp_path / "c.bin").unlink()
    with pytest.raises(UserError, match=r"c\.bin: no such token file"):
        read_index(tmp_path / "c")


def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path)
    assert documents_of(prefix, 65500) == DOCUMENTS
    with pytest.raises(UserError, match=r"c\.bin: token id 65499 in document 2 is outside the vocabulary of 65499"):
        documents_of(prefix, 65499)
    with pytest.raises(ValueError, match="outside the vocabulary 7"), IndexedWriter(tmp_path / "d", 7) as writer:
        writer.add([3, 7])
    with pytest.raises(ValueError, match="outside the vocabulary"), IndexedWriter(tmp_path / "d", 7) as writer:
        writer.add([-1])
    assert not list(tmp_path.glob("*d.*"))


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    dataset = IndexedDataset(write_pair(tmp_path))
    (tmp_path / "c.bin").write_bytes(BIN[:5])
    assert dataset[0].tolist() == [5, 6]
    with pytest.raises(UserError, match=r"c\.bin: truncated while it was read"):
        dataset[2]


def test_a_failing_writer_leaves_what_was_there(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path)
    with pytest.raises(ValueError, match="outside the vocabulary"), IndexedWriter(prefix, 100) as writer:
        writer.add_many([1, 100], [1, 1])
    assert documents_of(prefix) == DOCUMENTS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.bin", "c.idx"]
    with IndexedWriter(prefix, 100) as writer:
        writer.add([1])
    assert documents_of(prefix) == [[1]]
    with pytest.raises(ValueError, match="outside its with block"):
        writer.add([1])
    with pytest.raises(ValueError, match="sizes that sum to"), IndexedWriter(prefix, 100) as writer:
        writer.add_many([1, 2], [1])
    with pytest.raises(ValueError, match="vocab_size"):
        IndexedWriter(prefix, 0)


@settings(max_examples=50, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 69999), max_size=6), max_size=8),
    vocab_size=st.sampled_from([70000, 1 << 31]),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocab_size: int
) -> None:
    prefix = tmp_path_factory.mktemp("corpus") / "with.dots"
    with IndexedWriter(prefix, vocab_size) as writer:
        for document in documents:
            writer.add(document)
    assert documents_of(prefix, vocab_size) == documents


def test_token_types() -> None:
    assert token_dtype(65499) == np.uint16
    assert token_dtype(65500) == np.int32
