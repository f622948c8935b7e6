"""Compressors at their strongest, counted as their commands count."""

from __future__ import annotations

import lzma
import math
import zlib

import pytest
import zstandard

from pyjpllm.errors import UserError
from pyjpllm.evaluation.baselines import COMPRESSORS, check_baselines, compress

TEXTS = ["吾輩は猫である。" * 20, "名前はまだ無い。" * 30, ""]
STREAM = "".join(text + "\n" for text in TEXTS).encode()


def test_sizes_are_those_of_one_stream() -> None:
    found = {result.name: result for result in compress(iter(TEXTS), COMPRESSORS)}
    assert found["xz"].compressed == len(lzma.compress(STREAM, preset=9 | lzma.PRESET_EXTREME))
    assert found["zlib"].compressed == len(zlib.compress(STREAM, 9))
    assert set(found) == {"zlib", "bz2", "xz", "zstd"}
    for result in found.values():
        assert result.bytes == len(STREAM) - len(TEXTS)
        assert result.bits_per_byte == 8 * result.compressed / result.bytes
        assert 0 < result.bits_per_byte < 2


def test_zstd_is_at_its_strongest() -> None:
    noise = "".join(chr(0x4E00 + (i * i * 7919) % 5000) for i in range(20_000))
    text = [noise, "x" * 1000, noise]
    (best,) = compress(text, ["zstd"])
    plain = len(zstandard.ZstdCompressor(level=3).compress("\n".join(text).encode()))
    assert best.compressed < plain


def test_names() -> None:
    assert [result.name for result in compress(TEXTS, ["xz", "zlib", "xz"])] == ["xz", "zlib"]
    assert math.isnan(compress([], ["zlib"])[0].bits_per_byte)
    with pytest.raises(UserError, match="did you mean 'zlib'"):
        check_baselines(["zlb"])
