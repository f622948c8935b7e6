"""What must hold of the operations for any sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm import ops
from pyjpllm.ops import torch_loss

BACKENDS = st.sampled_from(["reference", "torch"])
CLOSE = {"atol": 1e-13, "rtol": 1e-11}
few = settings(max_examples=30, deadline=None)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@few
@given(BACKENDS, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([None, 1, 3]))
def test_document_mask_is_attention_of_each_document(backend, lengths, window):
    total = sum(lengths)
    q, k, v = normal(1, total, 4, 4), normal(1, total, 2, 4, seed=1), normal(1, total, 2, 4, seed=2)
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    with ops.use_backend(backend):
        whole = ops.attention(q, k, v, document_ids_BS=ids, window=window)
        pieces = zip(*(x.split(lengths, dim=1) for x in (q, k, v)), strict=True)
        each = torch.cat([ops.attention(*piece, window=window) for piece in pieces], dim=1)
    torch.testing.assert_close(whole, each, **CLOSE)


@few
@given(BACKENDS, st.integers(1, 9), st.integers(1, 10))
def test_window_is_attention_to_the_last_positions(backend, length, window):
    q, k, v = normal(1, length, 2, 4), normal(1, length, 2, 4, seed=1), normal(1, length, 2, 4, seed=2)
    with ops.use_backend(backend):
        whole = ops.attention(q, k, v, window=window)
        for s in range(length):
            last = slice(max(0, s + 1 - window), s + 1)
            one = ops.attention(q[:, s : s + 1], k[:, last], v[:, last])
            torch.testing.assert_close(whole[:, s : s + 1], one, **CLOSE)


@few
@given(BACKENDS, st.integers(1, 6), st.integers(0, 5))
def test_queries_are_the_last_positions_of_the_keys(backend, queries, before):
    total = queries + before
    q, k, v = normal(2, total, 2, 4), normal(2, total, 1, 4, seed=1), normal(2, total, 1, 4, seed=2)
    with ops.use_backend(backend):
        whole = ops.attention(q, k, v)
        torch.testing.assert_close(ops.attention(q[:, before:], k, v), whole[:, before:], **CLOSE)


@few
@given(BACKENDS, st.integers(1, 3), st.integers(1, 3))
def test_grouped_heads_are_repeated_heads(backend, kv_heads, groups):
    q, k, v = normal(2, 5, kv_heads * groups, 4), normal(2, 5, kv_heads, 4, seed=1), normal(2, 5, kv_heads, 4, seed=2)
    with ops.use_backend(backend):
        repeated = ops.attention(q, k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2))
        torch.testing.assert_close(ops.attention(q, k, v), repeated, **CLOSE)


@few
@given(BACKENDS, st.permutations(range(6)))
def test_without_a_mask_the_order_of_keys_does_not_matter(backend, order):
    q, k, v = normal(1, 3, 2, 4), normal(1, 6, 2, 4, seed=1), normal(1, 6, 2, 4, seed=2)
    with ops.use_backend(backend):
        expected = ops.attention(q, k, v, causal=False)
        torch.testing.assert_close(ops.attention(q, k[:, order], v[:, order], causal=False), expected, **CLOSE)


@few
@given(BACKENDS, st.permutations(range(4)), st.permutations(range(3)))
def test_heads_and_rows_do_not_mix(backend, heads, rows):
    q, k, v = normal(3, 4, 4, 4), normal(3, 4, 4, 4, seed=1), normal(3, 4, 4, 4, seed=2)
    with ops.use_backend(backend):
        expected = ops.attention(q, k, v)[rows][:, :, heads]
        actual = ops.attention(*(x[rows][:, :, heads] for x in (q, k, v)))
    torch.testing.assert_close(actual, expected, **CLOSE)


@few
@given(BACKENDS, st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_rotary_scores_depend_on_the_distance_only(backend, first, distance, shift):
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)

    def score(at_q, at_k):
        turned_q, _ = ops.rotary(q, q, torch.tensor([[at_q]]), 1e4)
        turned_k, _ = ops.rotary(k, k, torch.tensor([[at_k]]), 1e4)
        return (turned_q * turned_k).sum()

    with ops.use_backend(backend):
        near, far = score(first, first + distance), score(first + shift, first + shift + distance)
        torch.testing.assert_close(near, far, atol=1e-11, rtol=1e-11)
        torch.testing.assert_close(ops.rotary(q, q, torch.tensor([[0]]), 1e4)[0], q, atol=0, rtol=0)


@few
@given(st.integers(1, 23), st.integers(1, 11), st.integers(0, 2**10), st.integers(0, 2**10))
def test_chunks_of_the_loss_do_not_matter(tokens, vocab, chunk_bytes, kept_bytes):
    targets = torch.arange(tokens) % (vocab + 1) - 1  # -1 is outside
    results = []
    for size, kept in ((chunk_bytes, kept_bytes), (1 << 20, 0)):
        hidden, weight = normal(tokens, 3).requires_grad_(), normal(vocab, 3, seed=1).requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch_loss, "CHUNK_BYTES", size)
            patch.setattr(torch_loss, "KEPT_BYTES", kept)
            lse, target = ops.linear_logsumexp(hidden, weight, targets)
            outputs = [lse.sum(), target.square().sum()]
            grads = torch.autograd.grad(outputs, [hidden, weight], retain_graph=True)
            again = torch.autograd.grad(outputs, [hidden, weight])
        torch.testing.assert_close(grads, again, **CLOSE)
        results.append((lse, target, *grads))
    torch.testing.assert_close(*results, **CLOSE)


@given(st.integers(0, 10**6), st.integers(1, 300_000))
def test_a_chunk_of_logits_is_within_its_bytes(tokens, vocab):
    size = torch_loss.chunk_tokens(tokens, vocab)
    assert size >= 1
    assert size == 1 or size * vocab * 4 <= torch_loss.CHUNK_BYTES
    assert -(-tokens // size) <= -(-tokens // max(1, torch_loss.CHUNK_BYTES // (4 * vocab)))


def test_a_chunk_is_all_that_is_held():
    """The peak of what the loss allocates, forward and backward, is a few chunks, not all logits."""
    tokens, vocab, width = 4096, 4096, 8
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    targets = torch.zeros(tokens, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch, torch.profiler.profile(profile_memory=True) as profile:
        patch.setattr(torch_loss, "CHUNK_BYTES", 1 << 20)
        patch.setattr(torch_loss, "KEPT_BYTES", 3 << 20)
        lse, _ = ops.linear_logsumexp(hidden, weight, targets)
        lse.sum().backward()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 3 << 20 < peak < 6 << 20  # all logits are 64 MiB


@few
@given(BACKENDS, st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_grouped_linear_is_a_linear_of_each_group(backend, sizes):
    x, weights = normal(sum(sizes), 3), normal(len(sizes), 2, 3, seed=1)
    with ops.use_backend(backend):
        actual = ops.grouped_linear(x, weights, torch.tensor(sizes))
        each = [ops.linear(rows, weight) for rows, weight in zip(x.split(sizes), weights, strict=True)]
    torch.testing.assert_close(actual, torch.cat(each), **CLOSE)


@few
@given(BACKENDS, st.floats(1e-2, 1e2))
def test_rms_norm_does_not_see_the_scale(backend, factor):
    x, weight = normal(3, 8), normal(8, seed=1)
    with ops.use_backend(backend):
        torch.testing.assert_close(
            ops.rms_norm(factor * x, weight, 0.0), ops.rms_norm(x, weight, 0.0), atol=1e-12, rtol=1e-12
        )


@few
@given(BACKENDS, st.integers(0, 3), st.integers(0, 3))
def test_no_rows_are_fine(backend, width, extra):
    """A rank that holds no tokens, which sequence parallelism makes, runs the same code."""
    x, weight = torch.empty(0, width + 1, requires_grad=True), torch.ones(extra + 1, width + 1, requires_grad=True)
    with ops.use_backend(backend):
        y = ops.linear(ops.rms_norm(x, weight[0], 1e-5), weight)
        y = ops.swiglu(y, y)
        lse, target = ops.linear_logsumexp(x, weight, torch.empty(0, dtype=torch.int64))
        (y.sum() + lse.sum() + target.sum()).backward()
    assert y.shape == (0, extra + 1)
    assert weight.grad is not None
    assert not weight.grad.any()
