"""What the binding refuses: shapes that do not fit, other dtypes, addresses out of line, negative sizes."""

from __future__ import annotations

import numpy as np
import pytest

from pyjpllm import _native
from tests.kernels.arrays import array


def f32(*shape: int) -> tuple:
    return array(np.ones(shape, np.float32))


def ints(n: int) -> tuple:
    return array(np.zeros(n, np.int64))


def changed(a: tuple, **parts: object) -> tuple:
    names = ("address", "shape", "stride", "dtype", "owner")
    return tuple(parts.get(name, value) for name, value in zip(names, a, strict=True))


A, B, C = f32(2, 3), f32(3, 4), f32(2, 4)
ADAMW = (1e-3, 0.9, 0.99, 1e-8, 0.1, 1, 1.0, 1)
ONES = f32(1, 4), f32(1, 4), f32(1, 4)

BAD = {
    "inner sizes": (lambda: _native.gemm(A, f32(4, 4), C, None, False, 1), "columns of a and the rows of b differ"),
    "rows": (lambda: _native.gemm(A, B, f32(3, 4), None, False, 1), "rows of a and of c differ: 2 and 3"),
    "columns": (lambda: _native.gemm(A, B, f32(2, 5), None, False, 1), "columns of b and of c differ: 4 and 5"),
    "bias": (lambda: _native.gemm(A, B, C, f32(5), False, 1), "size of bias differ: 4 and 5"),
    "dimensions": (lambda: _native.gemm(f32(6), B, C, None, False, 1), r"a must have 2 dimensions, has shape \(6\)"),
    "dtype": (
        lambda: _native.gemm(array(np.ones((2, 3))), B, C, None, False, 1),
        "a must be float32, is float64",
    ),
    "alignment": (
        lambda: _native.gemm(changed(A, address=A[0] + 1), B, C, None, False, 1),
        "a is not aligned to its 4-byte elements",
    ),
    "negative": (
        lambda: _native.gemm(changed(A, shape=(-2, 3)), B, C, None, False, 1),
        r"a has a negative size in shape \(-2, 3\)",
    ),
    "no memory": (lambda: _native.gemm(changed(A, address=0), B, C, None, False, 1), "a has no memory"),
    "no tuple": (lambda: _native.gemm((1, 2), B, C, None, False, 1), "a must be a tuple"),
    "many dimensions": (lambda: _native.gemm(changed(A, shape=(1,) * 9), B, C, None, False, 1), "more than 8"),
    "overlapping output": (
        lambda: _native.gemm(A, B, changed(C, stride=(0, 1)), None, False, 1),
        "gemm: .*output whose rows overlap",
    ),
    "sum": (lambda: _native.column_sum(A, f32(4), 1), "columns of x and the size of out differ: 3 and 4"),
    "sum stride": (lambda: _native.column_sum(changed(A, stride=(1, 2)), f32(3), 1), "last dimension contiguous"),
    "norm weight": (
        lambda: _native.rms_norm(A, None, f32(4), 1e-5, None, A, f32(2), 1),
        "size of weight differ: 3 and 4",
    ),
    "norm rstd": (lambda: _native.rms_norm(A, None, f32(3), 1e-5, None, A, f32(3), 1), "size of rstd differ: 2 and 3"),
    "norm eps": (lambda: _native.rms_norm(A, None, f32(3), -1.0, None, f32(2, 3), f32(2), 1), "rms_norm"),
    "norm rows overlap": (
        lambda: _native.rms_norm(A, None, f32(3), 1e-5, None, changed(A, stride=(2, 1)), f32(2), 1),
        "rows overlap",
    ),
    "norm gradient": (
        lambda: _native.rms_norm_backward(C, A, None, f32(3), f32(2), A, f32(3), 1),
        r"shapes of x and dy differ: \(2, 3\) and \(2, 4\)",
    ),
    "norm weight stride": (
        lambda: _native.rms_norm(A, None, changed(f32(3), stride=(2,)), 1e-5, None, A, f32(2), 1),
        r"weight must be contiguous, has stride \(2\)",
    ),
    "swiglu": (lambda: _native.swiglu(A, C, A, 1), r"shapes of gate and up differ: \(2, 3\) and \(2, 4\)"),
    "swiglu gradient": (lambda: _native.swiglu_backward(A, C, C, C, C, 1), "shapes of gate and dy differ"),
    "targets": (lambda: _native.linear_logsumexp(A, f32(5, 3), ints(3), f32(2), f32(2), 1), "size of targets"),
    "targets' dtype": (
        lambda: _native.linear_logsumexp(A, f32(5, 3), array(np.zeros(2, np.int32)), f32(2), f32(2), 1),
        "targets must be int64, is int32",
    ),
    "vocabulary": (
        lambda: _native.linear_logsumexp(A, f32(0, 3), ints(2), f32(2), f32(2), 1),
        "the vocabulary is empty",
    ),
    "width": (lambda: _native.linear_logsumexp(A, f32(5, 4), ints(2), f32(2), f32(2), 1), "hidden and of weight"),
    "lse": (lambda: _native.linear_logsumexp(A, f32(5, 3), ints(2), f32(3), f32(2), 1), "size of lse differ: 2 and 3"),
    "dhidden": (
        lambda: _native.linear_logsumexp_backward(A, f32(5, 3), ints(2), f32(2), f32(2), f32(2), f32(3, 3), None, 1),
        "rows of hidden and of dhidden differ: 2 and 3",
    ),
    "dweight": (
        lambda: _native.linear_logsumexp_backward(
            A, f32(5, 3), ints(2), f32(2), f32(2), f32(2), None, changed(f32(5, 3), stride=(1, 5)), 1
        ),
        "dweight must be contiguous",
    ),
    "embedding ids": (lambda: _native.embedding(f32(2), A, A, 1), "ids must be int64, is float32"),
    "embedding rows": (lambda: _native.embedding(ints(3), B, A, 1), "sizes of ids and of the rows differ: 3 and 2"),
    "embedding width": (lambda: _native.embedding_backward(ints(2), A, B, 1), "widths .* differ: 3 and 4"),
    "squares": (lambda: _native.sum_of_squares(changed(f32(4), stride=(2,)), 1), "x must be contiguous"),
    "adamw sizes": (lambda: _native.adamw_step(f32(3), f32(4), f32(3), f32(3), None, *ADAMW), "sizes of param, grad"),
    "adamw copy": (
        lambda: _native.adamw_step(f32(3), f32(3), f32(3), f32(3), array(np.ones(3)), *ADAMW),
        "model_param must be float32, is float64",
    ),
    "adamw step": (
        lambda: _native.adamw_step(*[f32(3)] * 4, None, 1e-3, 0.9, 0.99, 1e-8, 0.1, 0, 1.0, 1),
        "step counts from 1, is 0",
    ),
    "adamw beta": (
        lambda: _native.adamw_step(*[f32(3)] * 4, None, 1e-3, 1.0, 0.99, 1e-8, 0.1, 1, 1.0, 1),
        r"beta1 and beta2 must be in \[0, 1\)",
    ),
    "adamw eps": (
        lambda: _native.adamw_step(*[f32(3)] * 4, None, 1e-3, 0.9, 0.99, -1e-8, 0.1, 1, 1.0, 1),
        "eps must not be negative",
    ),
    "peak": (lambda: _native.fma_peak(-1.0, 1), "fma_peak"),
    "dot peak": (lambda: _native.dot_peak(0.0, 1), "dot_peak"),
    "stream kind": (lambda: _native.stream("tripad"), "kind must be 'copy' or 'triad', is 'tripad'"),
    "stream size": (lambda: _native.stream("copy", False, 0), "mebibytes must be 1 to 1048576, is 0"),
    "stream time": (lambda: _native.stream("copy", False, 1, -1.0), "stream"),
    "isa": (lambda: _native.set_isa("mmx"), "no 'mmx'; it has .*scalar"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_empty_arrays_need_no_memory():
    nothing = (0, (0, 3), (3, 1), "float32", None)
    _native.gemm(nothing, B, (0, (0, 4), (4, 1), "float32", None), None, False, 1)
    _native.swiglu(nothing, nothing, nothing, 1)


def test_size_one_dimensions_may_have_any_stride():
    y = np.empty((1, 3), np.float32)
    _native.swiglu(changed(array(np.ones((1, 3), np.float32)), stride=(0, 1)), f32(1, 3), array(y), 1)
    column, out = np.ones((4, 1), np.float32), np.empty((4, 1), np.float32)
    _native.swiglu(changed(array(column), stride=(1, 7)), f32(4, 1), array(out), 1)
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-1)), rtol=1e-6)
