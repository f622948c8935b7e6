"""What can be wrong with input: it is set aside under a short name, and nothing stops."""

from __future__ import annotations

from dataclasses import dataclass

# Name -> what it means; docs/corpus.md has this table.
FAULTS: dict[str, str] = {
    # files
    "missing-file": "the file was there when the run was planned and is gone",
    "unreadable-file": "the system does not let it be read (a folder, a permission, a broken disk)",
    "empty-file": "no byte in it",
    "bad-gzip": "no gzip, or damaged: a wrong head, code, checksum or length",
    "cut-gzip": "gzip that ends in the middle",
    "bad-zstd": "no zstd, or damaged",
    "cut-zstd": "zstd that ends in the middle of a frame",
    "trailing-bytes": "something that is no gzip behind the gzip",
    "zip-bomb": "more than input.max_ratio times the size of the file comes out of it",
    "utf-16": "text in UTF-16 where UTF-8 is expected",
    # records
    "too-long": "a line, row, page or file of more than input.max_document_mib",
    "not-utf8": "bytes that are not UTF-8",
    "nul-bytes": "NUL bytes, as a file has where a crash or a full disk left a hole",
    "not-json": "a line that is not JSON",
    "too-deep": "JSON nested too deeply",
    "not-an-object": "a line of JSON that is not an object",
    "no-text": "no key or column text",
    "text-no-string": "text is not a string",
    "meta-no-object": "meta is not an object",
    "no-json-value": "a column of Parquet holds what JSON has not, such as an infinite number",
    "half-a-pair": "half of a surrogate pair, which is no character",
    "empty-text": "no text, or nothing but white space",
    # Parquet
    "bad-parquet": "no Parquet, or damaged",
    # WARC and WET
    "bad-warc-header": "no record begins where one should, or its head is broken",
    "bad-warc-length": "Content-Length is missing, no number, or not the record's length",
    "cut-warc": "the file ends inside a record",
    "bad-http-header": "a response without an HTTP head",
    "bad-http-body": "the body's own compression or chunks are broken or unknown",
    # pages and messages
    "undecodable": "no encoding fits the bytes",
    "bad-html": "the parser gives up",
    "bad-mo": "no .mo file, or damaged: a wrong head, or strings that lie outside it",
    # pairs of pages
    "no-original": "a translated page whose original is not there",
    "pages-differ": "a translated page and its original have no id in common, or other elements in another order",
    # what is no fault of the input
    "reader-failed": "a reader raised an error, and the rest of the file is not read: a bug, please report it",
    "stage-failed": "a stage raised an error about this document: a bug, please report it",
}

# Records that are what they should be, but hold no document: counted, not set aside.
SKIPS: dict[str, str] = {
    "record-kind": "WARC records without a page: requests, metadata, revisits",
    "http-status": "responses other than 200",
    "media-type": "neither HTML nor plain text",
    "blank-line": "lines of white space",
    "untranslated": "messages without a translation, segments that are the original's",
    "unpaired": "segments of a translated page whose id the original does not have as often",
}

EMPTIED = "emptied"
"""The reason of a document of which a change of its text leaves nothing."""

EXCERPT = 200  # characters


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was set aside: what (a key of ``FAULTS``), where, and how it looks."""

    reason: str
    path: str
    at: int
    """Byte offset in the file as it lies on the disk; the offset in the unpacked text for lines of a packed file; the
    row for Parquet."""
    detail: str
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """A record without a document: why (a key of ``SKIPS``)."""

    reason: str


class StreamError(Exception):
    """The bytes end here: the rest of the file (or of its member) cannot be read. ``reason`` as in ``FAULTS``."""

    def __init__(self, reason: str, at: int, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.at = at
        self.detail = detail


def excerpt_of(data: bytes | str) -> str:
    """The beginning of what was set aside, as printable text."""
    text = data[: 4 * EXCERPT].decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data
    text = text[:EXCERPT].encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
