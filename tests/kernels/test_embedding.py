"""Rows of a table, and the gradient: the same bits as sums in FP32 in the order of the tokens.

Letters: N tokens, V rows, D width.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.stored import array, made, types

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _usual_caches():
    yield
    _native.set_past_caches(-1)


def in_order(ids_N: torch.Tensor, dy_ND: torch.Tensor, rows: int) -> torch.Tensor:
    sums = torch.zeros(rows, dy_ND.shape[1])
    for i, row in enumerate(ids_N.tolist()):
        sums[row] += dy_ND[i].float()
    return sums.to(dy_ND.dtype)


@quick
@given(
    *(types, st.integers(0, 60), st.integers(1, 30), st.sampled_from([0, 1, 7, 16, 33, 130]), st.integers(0, 3)),
    *(st.integers(1, 4), st.booleans(), st.booleans()),
)
def test_rows_and_their_sums(isa, dtype, n, v, d, gap, count, far, skewed):
    _native.set_past_caches(0 if far else -1)
    ids = torch.randint(v, (n,), generator=torch.Generator().manual_seed(n))
    if skewed:
        ids[n // 4 :] = v // 2
    weight, dy = made(dtype, v, d, gap=gap), made(dtype, n, d, gap=gap, seed=1)
    y, dweight = made(dtype, n, d, gap=gap, seed=2), made(dtype, v, d, gap=gap, seed=3)
    _native.embedding(array(ids), array(weight), array(y), count)
    assert torch.equal(y, weight[ids])
    _native.embedding_backward(array(ids), array(dy), array(dweight), count)
    assert torch.equal(dweight, in_order(ids, dy, v))


@pytest.mark.parametrize("wrong", [-1, 4, 2**40])
def test_an_id_outside_the_table_is_an_index_error(isa, wrong):
    ids, x = torch.tensor([0, wrong, 1]), torch.ones(4, 3)
    with pytest.raises(IndexError, match="an index is out of range"):
        _native.embedding(array(ids), array(x), array(torch.ones(3, 3)), 2)
    with pytest.raises(IndexError, match="an index is out of range"):
        _native.embedding_backward(array(ids), array(torch.ones(3, 3)), array(x), 2)
