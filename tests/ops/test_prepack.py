"""Layers whose weights are packed for a block: the same bits, and none after the weights change."""

from __future__ import annotations

import pytest
import torch

from pyjpllm import ops
from pyjpllm.errors import UserError
from pyjpllm.ops import native
from pyjpllm.ops.native import prepack
from pyjpllm.ops.sums import math_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("math", ["exact", "fp16-chunk", "int16"])
@pytest.mark.parametrize("rows", [1, 8, 32, 200])
def test_outputs_have_the_same_bits(dtype: torch.dtype, math: str, rows: int) -> None:
    weight, bias = torch.randn(70, 130).to(dtype), torch.randn(70).to(dtype)
    x = torch.randn(rows, 130).to(dtype)
    with ops.use_backend("native"), ops.use_math(math):
        expected = ops.linear(x, weight, bias)
        with ops.prepacked([weight], rows=32):
            assert (prepack.packed_weight(weight, rows) is None) == (not prepack.pays(dtype, rows))
            assert torch.equal(ops.linear(x, weight, bias), expected)
            packed_for = math_of(dtype)
            with ops.use_math("int16" if math == "exact" else "exact"):
                assert (prepack.packed_weight(weight, 32) is not None) == (math_of(dtype) == packed_for)
        assert prepack.packed_weight(weight, 32) is None


def test_a_changed_weight_is_taken_as_it_is() -> None:
    weight, x = torch.randn(70, 130, requires_grad=True), torch.randn(32, 130)
    with ops.use_backend("native"), ops.prepacked([weight], rows=32):
        assert prepack.packed_weight(weight, 32) is not None
        with torch.no_grad():
            weight.mul_(2)
        assert prepack.packed_weight(weight, 32) is None
        assert torch.equal(ops.linear(x, weight), ops.linear(x, weight.detach().clone()))


def test_blocks_nest_and_end_with_an_error() -> None:
    one, other = torch.randn(8, 8), torch.randn(8, 8)
    with ops.use_backend("native"), ops.prepacked([one], rows=32):
        with ops.prepacked([other], rows=32):
            assert prepack.packed_weight(one, 32) is not None
            assert prepack.packed_weight(other, 32) is not None
        assert prepack.packed_weight(one, 32) is not None
        assert prepack.packed_weight(other, 32) is None
        wide = native.prepacked([other, torch.ones(2, 2, dtype=torch.float64)], 32)
        with pytest.raises(UserError, match=r"prepacked: .* weight is float64"):
            wide.__enter__()
        assert prepack.packed_weight(other, 32) is None
    assert prepack.packed_weight(one, 32) is None
    with torch.inference_mode(), native.prepacked([torch.ones(4, 4)], 32):
        pass


def test_where_it_does_not_pay_nothing_is_packed() -> None:
    weight = torch.randn(8, 8)
    for backend in ("native", "torch"):
        with ops.use_backend(backend), ops.prepacked([weight, weight.half()], rows=1):
            assert prepack.packed_weight(weight, 32) is None
    with ops.use_backend("native"), ops.use_math("fp16-chunk"), ops.prepacked([weight.half()], rows=1):
        assert prepack._packed
