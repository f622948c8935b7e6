"""The fused kernels in every storage type, against FP64: strides, sizes from 0, past the caches, NaN and infinities.

A bound is that of FP32 arithmetic, and where the result is stored in 16 bits half a unit in its last place more.
Letters: M rows, D width, N columns, B batch, S sequence, H and K heads.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.stored import array, close, made, types

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.one_of(st.integers(0, 70), st.sampled_from([127, 256, 1031]))
threads = st.integers(1, 3)
past = st.booleans()


@pytest.fixture(autouse=True)
def _usual_caches():
    yield
    _native.set_past_caches(-1)


@quick
@given(types, st.integers(0, 40), sizes, st.integers(0, 3), threads, past, st.booleans(), st.booleans())
def test_norms(isa, dtype, m, d, gap, count, far, adds, centred):
    _native.set_past_caches(0 if far else -1)
    x, update, dy, dsum = (made(dtype, m, d, gap=gap, seed=i) for i in range(4))
    weight, bias = made(dtype, d, seed=4), made(dtype, d, seed=5)
    total, y, dx = (made(dtype, m, d, gap=gap) for _ in range(3))
    mean, rstd = torch.zeros(m), torch.zeros(m)
    dweight, dbias = torch.ones(d, dtype=dtype), torch.ones(d, dtype=dtype)
    h = x
    if centred:
        _native.layer_norm(*map(array, (x, weight, bias)), 1e-5, *map(array, (y, mean, rstd)), count)
        _native.layer_norm_backward(*map(array, (dy, x, weight, mean, rstd, dx, dweight, dbias)), count)
    else:
        more = (array(update), array(total)) if adds else (None, None)
        _native.rms_norm(array(x), more[0], array(weight), 1e-5, more[1], array(y), array(rstd), count)
        if adds:
            h = total
            assert torch.equal(h, x + update)
        extra = array(dsum) if adds else None
        _native.rms_norm_backward(array(dy), array(h), extra, *map(array, (weight, rstd, dx, dweight)), count)
    if d == 0:
        return
    h64, w64, dy64 = h.double(), weight.double(), dy.double()
    c64 = h64 - h64.mean(1, keepdim=True) if centred else h64
    r64 = 1 / (c64.square().mean(1, keepdim=True) + 1e-5).sqrt()
    xhat, g = c64 * r64, w64 * dy64
    # A mean is wrong by some roundings of the largest elements, which rstd makes larger.
    off = 2e-6 * (1 + r64) if centred else 0.0
    close(y, xhat * w64 + (bias.double() if centred else 0.0), 2e-6 * (xhat * w64).abs() + (off * w64.abs()) + 1e-6)
    want = r64 * (g - xhat * (g * xhat).mean(1, keepdim=True) - (g.mean(1, keepdim=True) if centred else 0.0))
    want = want + (dsum.double() if adds and not centred else 0.0)
    size = r64 * (g.abs() + xhat.abs() * (g * xhat).abs().mean(1, keepdim=True) + g.abs().mean(1, keepdim=True))
    close(dx, want, 4e-6 * (size + want.abs() + (1 + r64) * r64) + off * size)
    close(dweight, (dy64 * xhat).sum(0), 1e-6 * ((dy64 * xhat).abs().sum(0) + 1) + (off * dy64.abs()).sum(0) * 1.0)
    if centred:
        close(dbias, dy64.sum(0), 1e-6 * (dy64.abs().sum(0) + 1))


@quick
@given(types, st.integers(0, 9), sizes, st.integers(0, 3), threads, past, st.sampled_from([0.1, 3, 60]))
def test_swiglu(isa, dtype, m, n, gap, count, far, scale):
    _native.set_past_caches(0 if far else -1)
    gate = made(dtype, m, n, gap=gap) * scale
    up, dy, y, dgate, dup = (made(dtype, m, n, gap=gap, seed=i) for i in range(1, 6))
    _native.swiglu(array(gate), array(up), array(y), count)
    _native.swiglu_backward(*map(array, (dy, gate, up, dgate, dup)), count)
    g, u, d = gate.double(), up.double(), dy.double()
    s = torch.sigmoid(g)
    for got, want in ((y, g * s * u), (dgate, d * u * s * (1 + g * (1 - s))), (dup, d * g * s)):
        close(got, want, 1.5e-6 * (want.abs() + 0.5))


@quick
@given(types, st.integers(0, 9), sizes, st.integers(0, 3), threads, past, st.sampled_from([0.1, 3, 60]))
def test_softmax(isa, dtype, m, n, gap, count, far, scale):
    _native.set_past_caches(0 if far else -1)
    x, dy, y, dx = made(dtype, m, n, gap=gap) * scale, *(made(dtype, m, n, gap=gap, seed=i) for i in range(1, 4))
    _native.softmax(array(x), array(y), count)
    want = torch.softmax(x.double(), -1)
    if n == 0:
        return
    # x - max is rounded before it is an exponent; below FP32's normal numbers there is no relative bound.
    below = x.double().amax(-1, keepdim=True) - x.double()
    close(y, want, (1e-6 + 2.0**-24 * below) * want + 1e-37)
    _native.softmax_backward(array(dy), array(y), array(dx), count)
    y64, d64 = y.double(), dy.double()
    close(
        dx,
        y64 * (d64 - (y64 * d64).sum(-1, keepdim=True)),
        2e-6 * y64 * (d64.abs() + (y64 * d64).abs().sum(-1, keepdim=True)) + 1e-37,
    )


def test_softmax_of_faults(isa):
    inf = float("inf")
    rows = [[0, float("nan"), 1], [inf, 0, 0], [-inf, -inf, -inf], [-inf, 0, 0], [3e38, -3e38, 3e38]]
    x, y = torch.tensor(rows), torch.empty(5, 3)
    _native.softmax(array(x), array(y), 1)
    assert y[:3].isnan().all()
    assert y[3:].tolist() == [[0, 0.5, 0.5], [0.5, 0, 0.5]]


@quick
@given(types, types, st.integers(0, 5), sizes, st.integers(0, 3), threads, past, st.sampled_from([1.0, 0.5, 2.0**-16]))
def test_cast(isa, before, after, m, n, gap, count, far, scale):
    _native.set_past_caches(0 if far else -1)
    x, y = made(before, m, n, gap=gap), made(after, m, n, gap=gap, seed=1)
    assert _native.cast(array(x), array(y), scale, count)
    assert torch.equal(y, (x.float() * scale).to(after))
    assert _native.cast(array(x), array(x), scale, count)
    if x.numel():
        for fault in (float("nan"), float("inf"), -float("inf")):
            x[m // 2, n - 1] = fault
            assert not _native.cast(array(x), array(y), scale, count)
            torch.testing.assert_close(y, (x.float() * scale).to(after), atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float16, 65504.0), (torch.bfloat16, 3.3895313892515355e38)])
def test_cast_tells_what_rounds_to_infinity(isa, dtype, largest):
    y = torch.empty(1, 3, dtype=dtype)
    half_a_step = largest * {torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9}[dtype]
    assert _native.cast(array(torch.tensor([[largest, -largest, largest + 0.9 * half_a_step]])), array(y), 1.0, 1)
    for sign in (1, -1):
        edge = torch.tensor([[0.0, sign * {torch.float16: 65520.0, torch.bfloat16: 3.3961775292304957e38}[dtype], 0.0]])
        assert not _native.cast(array(edge), array(y), 1.0, 1)
        assert y[0, 1].isinf()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cast_of_every_16_bit_number(isa, dtype):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)[None]
    wide, back = torch.empty(1, 2**16), torch.empty_like(x)
    _native.cast(array(x), array(wide), 1.0, 1)
    torch.testing.assert_close(wide, x.float(), atol=0, rtol=0, equal_nan=True)
    _native.cast(array(wide), array(back), 1.0, 1)
    torch.testing.assert_close(back, x, atol=0, rtol=0, equal_nan=True)


@quick
@given(
    *(types, st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 3), st.integers(0, 2))),
    *(st.sampled_from([0, 2, 6, 32, 34, 64, 128]), st.integers(0, 3), threads, past, st.booleans()),
)
def test_rotary(isa, dtype, sizes_BSHK, d, gap, count, far, inverse):
    _native.set_past_caches(0 if far else -1)
    b, s, h, k = sizes_BSHK
    parts = [made(dtype, b, s, heads, d, gap=gap, seed=heads) for heads in (h, k)]
    outs = [made(dtype, b, s, heads, d, seed=9) for heads in (h, k)]
    angles = made(torch.float64, b, s, d // 2, seed=3)
    table = torch.cat([angles.cos(), angles.sin()], -1).float()
    c, sn = table.double()[:, :, None].chunk(2, -1)
    sn = -sn if inverse else sn
    wants = []
    for x in parts:
        first, second = x.double().chunk(2, -1)
        wants.append(torch.cat([first * c - second * sn, second * c + first * sn], -1))
    _native.rotary(array(parts[0]), array(parts[1]), array(table), array(outs[0]), array(outs[1]), inverse, count)
    for out, x, want in zip(outs, parts, wants, strict=True):
        bound = 2e-7 * (x.double().abs() + x.double().roll(d // 2, -1).abs())
        close(out, want, bound)
    _native.rotary(array(parts[0]), array(parts[1]), array(table), array(parts[0]), array(parts[1]), inverse, count)
    for x, out in zip(parts, outs, strict=True):
        assert torch.equal(x, out)


def test_same_bits_past_the_caches_and_on_any_number_of_threads(isa):
    def everything(dtype: torch.dtype, count: int) -> list[torch.Tensor]:
        x, u, dy, dsum = (made(dtype, 70, 515, seed=i) for i in range(4))
        w = made(dtype, 515, seed=4)
        out = [torch.empty_like(x) for _ in range(8)]
        rstd, mean, dw, db = torch.empty(70), torch.empty(70), torch.empty_like(w), torch.empty_like(w)
        _native.rms_norm(array(x), array(u), array(w), 1e-5, array(out[0]), array(out[1]), array(rstd), count)
        _native.rms_norm_backward(*map(array, (dy, out[0], dsum, w, rstd, out[2], dw)), count)
        _native.layer_norm(*map(array, (x, w, w)), 1e-5, *map(array, (out[3], mean, rstd)), count)
        more = torch.empty_like(w)
        _native.layer_norm_backward(*map(array, (dy, x, w, mean, rstd, out[4], more, db)), count)
        _native.swiglu_backward(*map(array, (dy, x, u, out[5], out[6])), count)
        _native.softmax(array(x), array(out[7]), count)
        return [*out, rstd, mean, dw, db, more]

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        _native.set_past_caches(-1)
        expected = everything(dtype, 1)
        for far, count in ((-1, 2), (0, 1), (0, 3)):
            _native.set_past_caches(far)
            for one, other in zip(everything(dtype, count), expected, strict=True):
                assert torch.equal(one, other)


def test_set_past_caches_gives_what_was_set():
    start = _native.set_past_caches(12345)
    assert start > 0
    assert _native.set_past_caches(-1) == 12345
    assert _native.set_past_caches(-1) == start
