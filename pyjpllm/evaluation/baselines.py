"""What general compressors make of the same text, in this process: the bar that a language model has to clear."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from pyjpllm.errors import UserError, did_you_mean


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _zstd() -> _Compressor:
    import zstandard

    # Level 22 with a window of 128 MiB, as `zstd --ultra -22 --long=27`.
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=27, enable_ldm=True)
    compressor: _Compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor


COMPRESSORS: dict[str, tuple[str, Callable[[], _Compressor]]] = {
    "zlib": ("zlib, level 9", lambda: zlib.compressobj(9, wbits=15, memLevel=9)),
    "bz2": ("bzip2 -9", lambda: bz2.BZ2Compressor(9)),
    "xz": ("xz -9e", lambda: lzma.LZMACompressor(lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)),
    "zstd": ("zstd --ultra -22 --long=27", _zstd),
}
"""Name -> (the same setting as a command, maker of the compressor at its strongest)."""


@dataclass(frozen=True)
class Compressed:
    """A text through a compressor."""

    name: str
    setting: str
    bytes: int
    """UTF-8 bytes of the documents."""
    compressed: int
    """Bytes of the compressor's output, container and all."""

    @property
    def bits_per_byte(self) -> float:
        """Bits of output for each byte of text; NaN for no text."""
        return 8 * self.compressed / self.bytes if self.bytes else float("nan")


def check_baselines(names: Iterable[str]) -> None:
    """UserError for a name that is no compressor here."""
    for name in names:
        if name not in COMPRESSORS:
            raise UserError(f"--baseline {name!r} is unknown{did_you_mean(name, COMPRESSORS)}")


def compress(documents: Iterable[str], names: Iterable[str]) -> list[Compressed]:
    """Compress ``documents`` as one stream, a newline after each, with each compressor of ``names``.

    One stream is the compressor's advantage: it learns from document to document, while the model is judged on each
    one alone. Text is fed piece by piece and the output only counted.
    """
    wanted = list(dict.fromkeys(names))
    check_baselines(wanted)
    running = [(name, COMPRESSORS[name][1]()) for name in wanted]
    sizes = dict.fromkeys(wanted, 0)
    size = 0
    for text in documents:
        data = text.encode("utf-8")
        size += len(data)
        for name, compressor in running:
            sizes[name] += len(compressor.compress(data + b"\n"))
    for name, compressor in running:
        sizes[name] += len(compressor.flush())
    return [Compressed(name, COMPRESSORS[name][0], size, sizes[name]) for name in wanted]
