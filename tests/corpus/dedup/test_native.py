"""Native signatures, gram hashes and windows against slow references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm import _text
from pyjpllm.corpus.dedup.minhash import MinHasher

ODD = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("あｶﾞか\u3099\u0301👨\u200d👩\0 \n"), max_size=60
)
MASK = (1 << 64) - 1


def mix(h: int) -> int:
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & MASK
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & MASK
    return h ^ h >> 33


def polynomial(codes: list[int], base: int, modulus: int) -> int:
    value = 0
    for code in codes:
        value = (value * base + code + 1) % modulus
    return value


def gram_hashes(codes: list[int], n: int) -> list[int]:
    grams = [codes[i : i + n] for i in range(max(1, len(codes) - n + 1))] if codes else []
    return [mix(polynomial(gram, 0x9E3779B97F4A7C15, 1 << 64)) for gram in grams]


def signature(codes: list[int], hasher: MinHasher) -> list[int]:
    grams = [h >> 32 for h in gram_hashes(codes, hasher.n)]
    a, b = (values.tolist() for values in hasher._functions())
    return [min([(p * x + q) % (1 << 32) for x in grams], default=(1 << 32) - 1) for p, q in zip(a, b, strict=True)]


def windows(codes: list[int], k: int, w: int) -> list[tuple[int, int]]:
    hashes = [mix(polynomial(codes[i : i + k], 0x0F3A5C7E91B2D64B, (1 << 61) - 1)) for i in range(len(codes) - k + 1)]
    runs = range(len(hashes) - w + 1)
    chosen = {min(range(start, start + w), key=lambda i: (hashes[i], i)) for start in runs}
    return [(hashes[i], i) for i in sorted(chosen)]


@given(st.lists(ODD, max_size=4), st.integers(1, 8))
def test_gram_hashes(texts: list[str], n: int) -> None:
    hashes, ends = _text.gram_hashes(texts, n)
    parts = np.split(hashes, ends[:-1])[: len(texts)]
    assert [part.tolist() for part in parts] == [gram_hashes([ord(c) for c in text], n) for text in texts]


@given(st.lists(ODD, max_size=4), st.integers(1, 8), st.integers(1, 7), st.integers(0, 2**64 - 1))
def test_signatures_on_every_instruction_set(texts: list[str], n: int, bands: int, seed: int) -> None:
    hasher = MinHasher(n, bands, 3, seed)
    expected = np.array([signature([ord(c) for c in text], hasher) for text in texts]).reshape(-1, bands * 3)
    for isa in ["", *_text.minhash_isas()]:
        assert np.array_equal(_text.minhash(texts, n, *hasher._functions(), isa), expected)
    assert np.array_equal(hasher.signatures(texts), expected)


def test_a_long_text_goes_through_in_blocks() -> None:
    codes = [(i * i * 7919) % 20000 + 0x3041 for i in range(10_000)]
    codes = [code if not 0xD800 <= code < 0xE000 else 0x3042 for code in codes]
    hasher = MinHasher(5, 2, 3)
    text = "".join(map(chr, codes))
    assert hasher.signatures([text])[0].tolist() == signature(codes, hasher)


@given(st.lists(st.lists(st.sampled_from(["今日", "は", "晴れ", "。"]), max_size=12), max_size=3), st.integers(1, 4))
def test_words_that_are_cut_already(texts: list[list[str]], n: int) -> None:
    import xxhash

    hasher = MinHasher(n, 2, 2)
    units = [[xxhash.xxh32_intdigest(word.encode()) for word in words] for words in texts]
    expected = np.array([signature(codes, hasher) for codes in units]).reshape(-1, 4)
    assert np.array_equal(hasher.signatures_of_words(texts), expected)


@given(st.lists(st.text("ab", max_size=40) | ODD, max_size=3), st.integers(1, 9), st.integers(1, 6))
def test_windows(texts: list[str], k: int, w: int) -> None:
    hashes, positions, ends = _text.windows(texts, k, w)
    pairs = list(zip(hashes.tolist(), positions.tolist(), strict=True))
    starts = [0, *ends.tolist()]
    got = [pairs[a:b] for a, b in itertools.pairwise(starts)]
    assert got == [windows([ord(c) for c in text], k, w) for text in texts]


def test_wrong_arguments() -> None:
    a = np.ones(2, np.uint32)
    with pytest.raises(ValueError, match="isa"):
        _text.minhash(["a"], 1, a, a, "mmx")
    with pytest.raises(ValueError, match="n must"):
        _text.minhash(["a"], 0, a, a)
    with pytest.raises(ValueError, match="equally long"):
        _text.minhash(["a"], 1, a, a[:1])
    with pytest.raises(TypeError, match="str"):
        _text.minhash([b"a"], 1, a, a)  # type: ignore[list-item]
    for ends in ([1, 0, 2], [1]):
        with pytest.raises(ValueError, match="ends"):
            _text.minhash_units(a, np.array(ends, np.int64), 1, a, a)
    for settings in ({"n": 0}, {"seed": -1}):
        with pytest.raises(ValueError):
            MinHasher(**settings)
