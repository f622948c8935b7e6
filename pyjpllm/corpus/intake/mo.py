"""Messages and their translations out of gettext's .mo files, the one form in which LibreOffice and many free programs
carry parallel text. Format: GNU gettext manual, "The Format of GNU MO Files".

A message becomes a document: the translation as its text, the original as ``source`` in its meta.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.encoding import is_encoding
from pyjpllm.corpus.faults import Fault, Skip, excerpt_of
from pyjpllm.corpus.intake.bounded import Bounds
from pyjpllm.corpus.intake.item import Item, Span
from pyjpllm.corpus.intake.text import read_whole

_MAGIC = 0x950412DE
_HEAD = 28
# The first message is empty and its "translation" is the file's head, which names the encoding.
_CHARSET = b"charset="


def read_mo(span: Span, bounds: Bounds) -> Iterator[Item]:
    """The messages of a .mo file."""
    path = str(span.path)
    data = read_whole(span.path, bounds)
    if isinstance(data, Fault):
        yield data
        return
    if len(data) < _HEAD:
        yield Fault("bad-mo", path, 0, f"{len(data)} bytes are less than a head", excerpt_of(data))
        return
    order = next((o for o in "<>" if struct.unpack_from(f"{o}I", data)[0] == _MAGIC), None)
    if order is None:
        yield Fault("bad-mo", path, 0, "does not begin as a .mo file", excerpt_of(data))
        return
    _, revision, count, originals, translations = struct.unpack_from(f"{order}5I", data)
    if revision >> 16 > 1:
        yield Fault("bad-mo", path, 4, f"revision {revision >> 16} is not known")
        return
    if max(originals, translations) + 8 * count > len(data):
        yield Fault("bad-mo", path, 8, f"tables of {count} messages lie outside the file")
        return
    charset = "utf-8"
    for number in range(count):
        at = originals + 8 * number
        original = _string(data, order, at)
        translation = _string(data, order, translations + 8 * number)
        if original is None or translation is None:
            yield Fault("bad-mo", path, at, f"message {number} lies outside the file")
        elif not original:
            charset = _charset(translation) or charset
        else:
            yield _document(original, translation, charset, path, at)


def _string(data: bytes, order: str, at: int) -> bytes | None:
    length, offset = struct.unpack_from(f"{order}2I", data, at)
    return data[offset : offset + length] if offset + length <= len(data) else None


def _charset(head: bytes) -> str | None:
    start = head.find(_CHARSET)
    if start < 0:
        return None
    words = head[start + len(_CHARSET) :].split(None, 1)
    name = words[0].decode("ascii", "replace") if words else ""
    return name if is_encoding(name) else None


def _document(original: bytes, translation: bytes, charset: str, path: str, at: int) -> Item:
    context, _, source = original.rpartition(b"\x04")
    try:
        text = translation.decode(charset)
        meta = {"source": source.decode(charset).split("\0")[0]}
        if context:
            meta["context"] = context.decode(charset)
    except (UnicodeDecodeError, ValueError) as error:
        return Fault("undecodable", path, at, f"not {charset}: {error}", excerpt_of(translation))
    # Of plural forms the last one is the general one ("%d files"); Japanese has but one.
    text = text.split("\0")[-1]
    return Document(text, meta) if text.strip() else Skip("untranslated")
