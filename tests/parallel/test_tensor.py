"""Tensor- and sequence-parallel layers against plain torch: splits are uneven, some pieces empty.

N tokens, D width, V vocabulary. Every rank computes the whole thing too and compares its piece; `test_three_ranks`
walks these checks on three ranks.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from pyjpllm.distributed import World, make_mesh
from pyjpllm.parallel import (
    ColumnParallelLinear,
    Layout,
    RMSNorm,
    RowParallelLinear,
    TensorParallel,
    VocabParallelEmbedding,
    gather_vocabulary,
    layout_of,
    split_range,
    tp_input,
    tp_output,
    vocab_parallel_cross_entropy,
    vocab_parallel_logits,
)
from pyjpllm.parallel.sequence import copy_to_tp, gather_tokens, reduce_from_tp, reduce_scatter_tokens

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.06}


def rand(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(actual: torch.Tensor | None, expected: torch.Tensor | None, dtype: torch.dtype | None = None) -> None:
    """Within the tolerance of ``dtype``, the type that was computed in (``actual``'s own by default)."""
    assert actual is not None
    assert expected is not None
    assert actual.shape == expected.shape
    limit = TOLERANCE[dtype or actual.dtype]
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=limit, atol=limit)


def leaf(x: torch.Tensor) -> torch.Tensor:
    return x.detach().clone().requires_grad_()


def layouts(world: World) -> list[TensorParallel]:
    mesh = make_mesh(world, tp=world.size)
    return [TensorParallel.from_mesh(mesh, sequence) for sequence in (False, True)]


def check_collectives(tp: TensorParallel) -> None:
    """Each function and its gradient, for every number of tokens, those that leave ranks without any included."""
    for N, D in itertools.product((1, 2, 3, 7), (1, 4)):
        mine = slice(*split_range(N, tp.size, tp.rank))
        wholes = [rand(N, D, seed=10 + rank) for rank in range(tp.size)]
        weights = [rand(N, D, seed=20 + rank) for rank in range(tp.size)]  # another gradient on every rank
        total, weight_total = torch.stack(wholes).sum(0), torch.stack(weights).sum(0)

        x = leaf(wholes[0])
        y = copy_to_tp(x, tp)
        close(y, x)
        (y * weights[tp.rank]).sum().backward()
        close(x.grad, weight_total)

        x = leaf(wholes[tp.rank])
        y = reduce_from_tp(x * 1, tp)
        close(y, total)
        (y * weights[0]).sum().backward()
        close(x.grad, weights[0])
        y = reduce_from_tp((x * 1).t(), tp)  # not contiguous
        close(y, total.t())
        close(x, wholes[tp.rank])

        x = leaf(wholes[0][mine])
        y = gather_tokens(x, tp, N)
        close(y, wholes[0])
        (y * weights[tp.rank]).sum().backward()
        close(x.grad, weight_total[mine])

        x = leaf(wholes[tp.rank])
        y = reduce_scatter_tokens(x, tp)
        close(y, total[mine])
        (y * weights[0][mine]).sum().backward()
        close(x.grad, weights[0])

        columns = slice(*split_range(D, tp.size, tp.rank))
        x = leaf(wholes[0][:, columns])
        y = gather_vocabulary(x, tp, D)
        close(y, wholes[0])
        (y * weights[0]).sum().backward()
        close(x.grad, weights[0][:, columns])
    if tp.size > 1:
        with pytest.raises(ValueError, match="has 6 of 7 tokens"):
            gather_tokens(torch.zeros(6, 1), tp, 7)


def check_a_gradient_that_is_shared(tp: TensorParallel) -> None:
    """Backward may get one buffer for two nodes: the sum over ranks must not reach the other one."""
    x = leaf(rand(5, 2, seed=1))
    (x * 1 + copy_to_tp(x * 1, tp)).sum().backward()
    close(x.grad, torch.full((5, 2), 1.0 + tp.size, dtype=torch.float64))


def check_linear(tp: TensorParallel, F_: int, dtype: torch.dtype) -> None:
    """norm -> column -> row, biases everywhere; ``F_`` may be smaller than the number of ranks."""
    N, D = 7, 4
    mine = slice(*split_range(N, tp.size, tp.rank)) if tp.sequence else slice(0, N)
    whole = {
        "norm": 1 + rand(D, seed=1) / 5,
        "up": rand(F_, D, seed=2) / 2,
        "up_bias": rand(F_, seed=3),
        "down": rand(D, F_, seed=4) / 2,
        "down_bias": rand(D, seed=5),
    }
    reference = {name: leaf(value.to(dtype).double()) for name, value in whole.items()}
    x_ref = leaf(rand(N, D, seed=6, dtype=dtype).double())
    normed = x_ref * torch.rsqrt(x_ref.square().mean(-1, keepdim=True) + 1e-5) * reference["norm"]
    hidden = F.linear(normed, reference["up"], reference["up_bias"])
    y_ref = x_ref + F.linear(torch.tanh(hidden), reference["down"], reference["down_bias"])
    weight_ND = rand(N, D, seed=7)
    (y_ref * weight_ND).sum().backward()

    norm = RMSNorm(D, 1e-5, tp=tp, dtype=dtype)
    up = ColumnParallelLinear(D, F_, tp=tp, bias=True, dtype=dtype)
    down = RowParallelLinear(F_, D, tp=tp, bias=True, dtype=dtype)
    assert up.bias is not None
    assert down.bias is not None
    named = {"norm": norm.weight, "up": up.weight, "up_bias": up.bias, "down": down.weight, "down_bias": down.bias}
    with torch.no_grad():
        for name, param in named.items():
            param.copy_(whole[name][layout_of(param).index])
    x = leaf(x_ref.to(dtype)[mine])
    y = x + down(torch.tanh(up(tp_input(norm(x), tp, N))))
    close(y, y_ref[mine])
    (y * weight_ND[mine].to(dtype)).sum().backward()
    assert x_ref.grad is not None
    close(x.grad, x_ref.grad[mine])
    for name, param in named.items():
        layout, whole_grad = layout_of(param), reference[name].grad
        assert param.grad is not None
        assert whole_grad is not None
        grad = param.grad.double()
        if layout.grad_group is not None:  # what DataParallel.finish does
            torch.distributed.all_reduce(grad, group=layout.grad_group)
        close(grad.to(dtype), whole_grad[layout.index])
    partial = tp.group if tp.sequence else None
    assert layout_of(norm.weight) == Layout.whole((D,), copies=tp.size, grad_group=partial)
    assert layout_of(down.bias) == Layout.whole((D,), copies=tp.size, grad_group=partial)
    assert layout_of(RMSNorm(D, 1e-5, tp=tp, per_head=True).weight).grad_group is tp.group


def check_embedding(tp: TensorParallel, V: int, dtype: torch.dtype) -> None:
    B, S, D = 2, 5, 3
    table = rand(V, D, seed=1, dtype=dtype)
    ids_BS = torch.randint(V, (B, S), generator=torch.Generator().manual_seed(2))
    mine = slice(*split_range(B * S, tp.size, tp.rank)) if tp.sequence else slice(0, B * S)
    weight_ND = rand(B * S, D, seed=3, dtype=dtype)
    whole = leaf(table.double())
    (F.embedding(ids_BS.view(-1), whole) * weight_ND).sum().backward()

    embedding = VocabParallelEmbedding(V, D, tp=tp, dtype=dtype)
    rows = layout_of(embedding.weight).index
    with torch.no_grad():
        embedding.weight.copy_(table[rows])
    x_nD = embedding(ids_BS)
    assert torch.equal(x_nD, table[ids_BS.view(-1)][mine])  # exact: all but one of the summands are zero
    (x_nD * weight_ND[mine]).sum().backward()
    assert whole.grad is not None
    close(embedding.weight.grad, whole.grad[rows])
    for bad in (-1, V):
        with pytest.raises(IndexError, match=f"vocabulary of {V}" if tp.size > 1 else "out of range"):
            embedding(torch.tensor([0, bad]))


def check_cross_entropy(tp: TensorParallel, V: int, dtype: torch.dtype, z_loss: float, counted: int) -> None:
    N, D = 7, 4
    hidden, table = rand(N, D, seed=1, dtype=dtype), rand(V, D, seed=2, dtype=dtype)
    targets_N = torch.randint(V, (N,), generator=torch.Generator().manual_seed(3))
    targets_N[counted:] = -100
    hidden_ref, table_ref = leaf(hidden.double()), leaf(table.double())
    logits_NV = hidden_ref @ table_ref.t()
    loss_ref = F.cross_entropy(logits_NV, targets_N, reduction="sum")
    z_ref = z_loss * logits_NV.logsumexp(-1)[:counted].square().sum()
    (loss_ref + z_ref).backward()

    mine = slice(*split_range(N, tp.size, tp.rank)) if tp.sequence else slice(0, N)
    rows = slice(*split_range(V, tp.size, tp.rank))
    x, weight = leaf(hidden[mine]), leaf(table[rows])
    out = vocab_parallel_cross_entropy(x, weight, targets_N.view(1, N), tp=tp, vocab_size=V, z_loss=z_loss)
    close(out.loss, loss_ref, dtype)
    close(out.z_loss, z_ref, dtype)
    assert int(out.count) == counted
    (out.loss + out.z_loss).backward()
    assert hidden_ref.grad is not None
    assert table_ref.grad is not None
    close(x.grad, hidden_ref.grad[mine])
    close(weight.grad, table_ref.grad[rows])
    close(vocab_parallel_logits(x, weight, tp=tp, vocab_size=V, num_tokens=N), logits_NV)
    for bad in (-1, V):
        with pytest.raises(IndexError, match=f"vocabulary of {V}"):
            vocab_parallel_cross_entropy(x, weight, torch.full((N,), bad), tp=tp, vocab_size=V)


def check_large_logits(tp: TensorParallel) -> None:
    """The log-sum-exp does not overflow, and a rank whose rows are all far below gives nothing."""
    weight_VD = torch.tensor([[1e4], [0.0], [-1e4]], dtype=torch.float64)
    hidden_ND = torch.ones(1, 1, dtype=torch.float64)
    rows = slice(*split_range(3, tp.size, tp.rank))
    out = vocab_parallel_cross_entropy(
        hidden_ND[slice(*split_range(1, tp.size, tp.rank))] if tp.sequence else hidden_ND,
        weight_VD[rows],
        torch.tensor([1]),
        tp=tp,
        vocab_size=3,
    )
    close(out.loss, torch.tensor(1e4, dtype=torch.float64))


def check_replicas(tp: TensorParallel) -> None:
    assert tp.replica_group(1) is None
    assert tp.replica_group(tp.size) is tp.group


def check_layers(world: World) -> None:
    """All of this file's checks."""
    for tp in layouts(world):
        check_collectives(tp)
        check_a_gradient_that_is_shared(tp)
        check_large_logits(tp)
        check_replicas(tp)
        for dtype in TOLERANCE:
            for width in (2, 5):
                check_linear(tp, width, dtype)
            for vocabulary in (1, 2, 7):
                check_embedding(tp, vocabulary, dtype)
                for z_loss, counted in ((0.0, 7), (1e-2, 3), (1e-2, 0)):
                    check_cross_entropy(tp, vocabulary, dtype, z_loss, counted)


def test_layers_alone_are_plain_operations() -> None:
    """One rank: the same checks, sequence parallelism asked for or not."""
    check_layers(World(rank=0, size=1, local_rank=0, local_size=1, backend="mpi4py"))
    tp = TensorParallel()
    x = torch.zeros(3, 2)
    for same in (tp_input(x, tp, 3), tp_output(x, tp), gather_vocabulary(x, tp, 2)):
        assert same is x


def test_on_the_meta_device_alone() -> None:
    tp = TensorParallel()
    embedding = VocabParallelEmbedding(11, 4, tp=tp, device="meta")
    linear = RowParallelLinear(4, 4, tp=tp, bias=True, device="meta")
    hidden_ND = linear(embedding(torch.zeros(2, 3, dtype=torch.int64, device="meta")))
    targets_BS = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    out = vocab_parallel_cross_entropy(hidden_ND, embedding.weight, targets_BS, tp=tp, vocab_size=11, z_loss=1e-4)
    (out.loss + out.z_loss).backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.is_meta
