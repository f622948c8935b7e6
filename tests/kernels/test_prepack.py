"""Products with a B that was packed before have the bits of those without, and one that does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.stored import array, made, types

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def packed(b: torch.Tensor, a_dtype: torch.dtype, threads: int = 1, **math: str | int) -> torch.Tensor:
    memory = torch.full((_native.packed_bytes(array(b), name(a_dtype), **math),), 255, dtype=torch.uint8)
    _native.pack(array(b), array(memory), name(a_dtype), threads, **math)
    return memory


def product(a, b, c, bias=None, threads=1, memory=None, accumulate=False, **math):
    out = c.clone()
    bias, memory = (None if x is None else array(x) for x in (bias, memory))
    _native.gemm(array(a), array(b), array(out), bias, accumulate, threads, packed=memory, **math)
    return out


@quick
@given(
    *(st.integers(0, 40), st.sampled_from([1, 24, 49, 130, 1024, 1025, 2100]), st.sampled_from([0, 1, 33, 300, 1100])),
    *(types, types, types, st.booleans(), st.booleans(), st.booleans(), st.integers(1, 3)),
)
def test_bits_are_those_without(isa, m, n, k, a_type, b_type, c_type, b_turned, c_turned, accumulate, threads):
    a, c, bias = made(a_type, m, k), made(c_type, m, n, seed=2), made(c_type, n, seed=3)
    b = made(b_type, n, k, seed=1).t() if b_turned else made(b_type, k, n, seed=1)
    if c_turned:
        c = c.t().contiguous().t()
    memory = packed(b, a_type, threads)
    kept = memory.clone()
    more = {"bias": bias, "accumulate": accumulate}
    assert torch.equal(product(a, b, c, threads=threads, memory=memory, **more), product(a, b, c, **more))
    assert torch.equal(memory, kept)


@pytest.mark.parametrize("math", ["fp16-chunk", "int16"])
@pytest.mark.parametrize("chunk", [16, 128])
@pytest.mark.parametrize("m", [1, 7, 70])
def test_bits_of_other_sums_are_those_without(isa, m, chunk, math):
    math = {"math": math, "math_chunk": chunk}
    a, b, c = made(torch.float16, m, 700), made(torch.float16, 130, 700, seed=1).t(), torch.empty(m, 130)
    memory = packed(b, torch.float16, **math)
    assert torch.equal(product(a, b, c, memory=memory, threads=2, **math), product(a, b, c, **math))


def test_one_packing_is_for_any_number_of_rows(isa):
    b = made(torch.float16, 300, 200).t()
    memory = packed(b, torch.float16)
    for m in (1, 5, 16, 100, 300):
        a, c = made(torch.float16, m, 200, seed=m), torch.empty(m, 300, dtype=torch.float16)
        assert torch.equal(product(a, b, c, memory=memory), product(a, b, c))


def test_what_does_not_fit_is_refused(isa):
    a, b, c = made(torch.float16, 8, 64), made(torch.float16, 64, 96), torch.empty(8, 96)
    wrong = {
        "turned": packed(b.t(), torch.float16),
        "another type": packed(b.bfloat16(), torch.float16),
        "other math": packed(b, torch.float16, math="fp16-chunk"),
    }
    bytes_of = _native.packed_bytes(array(b), "float16")
    for memory in wrong.values():
        of_size = torch.zeros(bytes_of, dtype=torch.uint8)
        of_size[: min(len(memory), bytes_of)] = memory[:bytes_of]
        with pytest.raises(ValueError, match="gemm: the packed operand is of another product, type or instruction set"):
            product(a, b, c, memory=of_size)
    memory = packed(b, torch.float16)
    with pytest.raises(ValueError, match="gemm: the bytes of packed and those that b takes differ"):
        product(a[:, :32], b[:32], c, memory=memory)
    with pytest.raises(ValueError, match="packed is not aligned to its 64-byte elements"):
        product(a, b, c, memory=torch.zeros(bytes_of + 64, dtype=torch.uint8)[4:][:bytes_of])
    with pytest.raises(ValueError, match="gemm: packed is for a product without up"):
        _native.gemm(array(a), array(b), array(c), None, False, 1, up=array(b), packed=array(memory))
    with pytest.raises(ValueError, match="pack: a_dtype must be float32, bfloat16 or float16, is int8"):
        _native.pack(array(b), array(memory), "int8", 1)


def test_another_instruction_sets_is_refused():
    sets = _native.isas()
    a, b, c = torch.ones(8, 8), torch.ones(8, 96), torch.empty(8, 96)
    try:
        _native.set_isa(sets[-1])
        memory = packed(b, torch.float32)
        _native.set_isa(sets[0])
        if len(sets) > 1:
            with pytest.raises(ValueError, match=r"another product, type or instruction set|bytes of packed"):
                product(a, b, c, memory=memory)
    finally:
        _native.set_isa("")
