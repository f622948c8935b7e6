"""Runs inside the emulated A64FX (test_emulated.py starts it): the native operations against `reference`.

pytest collects it by name only. Every kernel's own checks at both vector lengths are in kernels/tests/.
"""

from __future__ import annotations

import os

import pytest
import torch

from pyjpllm import _native, ops
from pyjpllm.ops import native
from tests.ops.cases import CASES, as_tuple, run

MINE = [name for name, case in CASES.items() if case.operation in native.__all__]


def test_the_vectors_in_use_are_those_asked_for():
    assert _native.isa() == os.environ["EXPECTED_ISA"]
    assert {"sve512", "sve256", "scalar"} <= set(_native.build_info()["isas_built"])
    assert _native.build_info()["thread_runtime"].startswith("openmp: ")


@pytest.mark.parametrize("name", MINE)
def test_equals_the_reference(name):
    with ops.use_backend("reference"):
        expected = run(CASES[name], torch.float32)
    with ops.use_backend("native"):
        actual = run(CASES[name], torch.float32)
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=2e-6)


SIZED = {
    "linear": (lambda x, w, b: ops.linear(x, w, b), (37, 70), (83, 70), (83,)),
    "rms_norm": (lambda x, w: ops.rms_norm(x, w, 1e-5), (9, 150), (150,)),
    "swiglu": (ops.swiglu, (9, 150), (9, 150)),
    "linear_cross_entropy": (
        lambda h, w: ops.linear_cross_entropy(h, w, torch.arange(40) % 130, ignore_index=7).loss,
        *((40, 33), (130, 33)),
    ),
}


@pytest.mark.parametrize("name", SIZED)
def test_whole_vectors_and_what_is_left_over(name):
    """Values and gradients of sizes above a tile; 1e-5 is 150 roundings of FP32 in a sum."""
    function, *shapes = SIZED[name]
    generator = torch.Generator().manual_seed(1)
    numbers = [torch.randn(shape, generator=generator) for shape in shapes]
    results = []
    for backend, dtype in (("native", torch.float32), ("torch", torch.float64)):
        inputs = [x.to(dtype).requires_grad_() for x in numbers]
        with ops.use_backend(backend):
            outputs = as_tuple(function(*inputs))
            gradients = torch.autograd.grad([y.square().sum() for y in outputs], inputs)
        results.append([t.detach().double() for t in (*outputs, *gradients)])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


def test_same_bits_on_any_number_of_threads():
    x, w = torch.randn(96, 512), torch.randn(256, 512)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(native.linear(x, w))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
