"""The few parts of a sentencepiece model file that its Python module does not show, read and changed in place.

A `.model` file is a protocol buffer: ModelProto{1: repeated SentencePiece{1: piece, 2: float score, 3: type},
2: TrainerSpec, 3: NormalizerSpec{1: name, 2: precompiled_charsmap, ...}}. Source: sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE, UNUSED = 1, 2, 3, 4, 6, 5
UNIGRAM, BPE = 1, 2
_VOCAB_SIZE, _SEED_FILE = 4, 54  # of TrainerSpec


@dataclass
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class ModelInfo:
    """What an export to another library must know of a model."""

    pieces: list[Piece]
    model_type: int
    byte_fallback: bool
    normalizer: str
    """The name of the rules that ``charsmap`` was made of."""
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, stop) of every field between ``at`` and ``end``; the span is the value's."""
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            start = at
            _, at = _varint(data, at)
        elif wire == 2:
            length, start = _varint(data, at)
            at = start + length
        elif wire in (1, 5):
            start, at = at, at + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire} in a sentencepiece model")
        if at > end:
            raise ValueError("a sentencepiece model ends in the middle of a field")
        yield number, wire, start, at


def read_model(data: bytes) -> ModelInfo:
    """Parse a serialized model. Raises ValueError (or IndexError) when it is none."""
    pieces: list[Piece] = []
    trainer: dict[int, int] = {}
    normalizer: dict[int, int] = {}
    charsmap, name = b"", ""
    for number, _, start, stop in _fields(data, 0, len(data)):
        if number == 1:
            pieces.append(_piece(data, start, stop))
        elif number == 2:
            trainer = {n: _varint(data, a)[0] for n, wire, a, _ in _fields(data, start, stop) if wire == 0}
        elif number == 3:
            for field, wire, a, b in _fields(data, start, stop):
                if field == 1:
                    name = data[a:b].decode()
                elif field == 2:
                    charsmap = data[a:b]
                elif wire == 0:
                    normalizer[field] = _varint(data, a)[0]
    return ModelInfo(
        pieces,
        model_type=trainer.get(3, UNIGRAM),
        byte_fallback=bool(trainer.get(35, 0)),
        normalizer=name,
        charsmap=charsmap,
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
    )


def _piece(data: bytes, start: int, stop: int) -> Piece:
    piece = Piece("", 0.0, NORMAL)
    for number, _, a, b in _fields(data, start, stop):
        if number == 1:
            piece.text = data[a:b].decode()
        elif number == 2:
            piece.score = struct.unpack("<f", data[a:b])[0]
        elif number == 3:
            piece.type = _varint(data, a)[0]
    return piece


def exact_scores(data: bytes, step: float = 1 / 16) -> bytes:
    """A unigram model whose scores are multiples of ``step``, with user-defined pieces as ordinary ones of score 0.

    sentencepiece adds scores in FP32 along the text: with arbitrary scores its choice among nearly equal
    segmentations depends on what came before, and other libraries, which add in FP64, choose differently. Sums of
    multiples of 1/16 are exact in FP32 up to 2^20. A score of 0 is above that of every other piece, so a run of spaces
    is one token here too. All values keep their length, so the rest of the file stays as it is.
    """
    out = bytearray(data)
    for number, _, start, stop in _fields(data, 0, len(data)):
        if number != 1:
            continue
        piece = _piece(data, start, stop)
        for field, _, a, b in _fields(data, start, stop):
            if field == 2 and piece.type in (NORMAL, USER_DEFINED):
                score = 0.0 if piece.type == USER_DEFINED else min(-step, round(piece.score / step) * step)
                out[a:b] = struct.pack("<f", score)
            elif field == 3 and piece.type == USER_DEFINED:
                out[a:b] = bytes([NORMAL])
    return bytes(out)


def with_scores(data: bytes, scores: Sequence[float]) -> bytes:
    """The model with other scores for its ordinary pieces; ``scores`` are by id, those of other pieces do not count."""
    out = bytearray(data)
    spans = ((start, stop) for number, _, start, stop in _fields(data, 0, len(data)) if number == 1)
    for (start, stop), score in zip(spans, scores, strict=True):
        if _piece(data, start, stop).type == NORMAL:
            for field, _, a, b in _fields(data, start, stop):
                if field == 2:
                    out[a:b] = struct.pack("<f", score)
    return bytes(out)


def with_pieces(data: bytes, pieces: Sequence[Piece]) -> bytes:
    """The model with ``pieces`` behind its own: their ids follow on, all else stays as it is."""
    out = bytearray()
    end, count = 0, 0
    for number, _, _, stop in _fields(data, 0, len(data)):
        if number == 1:
            end, count = stop, count + 1
    out += data[:end]
    for piece in pieces:
        out += _message(1, _piece_bytes(piece))
    at = end
    for number, _, start, stop in _fields(data, end, len(data)):
        if number == 2:
            out += _message(2, _changed(data[start:stop], _VOCAB_SIZE, b"\x20" + _varint_bytes(count + len(pieces))))
        else:
            out += data[at:stop]
        at = stop
    return bytes(out)


def without_seed_file(data: bytes) -> bytes:
    """The model without the name of the file of its seeds, which is there no more and differs from run to run."""
    out, at = bytearray(), 0
    for number, _, start, stop in _fields(data, 0, len(data)):
        out += _message(2, _changed(data[start:stop], _SEED_FILE, b"")) if number == 2 else data[at:stop]
        at = stop
    return bytes(out)


def _piece_bytes(piece: Piece) -> bytes:
    kind = b"" if piece.type == NORMAL else b"\x18" + _varint_bytes(piece.type)
    return _message(1, piece.text.encode()) + b"\x15" + struct.pack("<f", piece.score) + kind


def _changed(trainer: bytes, changed: int, field: bytes) -> bytes:
    """TrainerSpec with ``field`` where the one of number ``changed`` was."""
    out, at = bytearray(), 0
    for number, _, _, stop in _fields(trainer, 0, len(trainer)):
        out += field if number == changed else trainer[at:stop]
        at = stop
    return bytes(out)


def _message(number: int, content: bytes) -> bytes:
    return _varint_bytes(number << 3 | 2) + _varint_bytes(len(content)) + content


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
