"""In FP64 sequences that ranks share train to the same numbers as one process, by rings and by Ulysses.

The reference, the models and what is compared are those of test_equality: 7 tokens over 2, 3 or 4 ranks (blocks of 2,
1 or no tokens), documents, kv heads that do not divide or are fewer than ranks, a window (Ulysses), beside data,
tensor and sequence parallelism and pipelines, over mpi4py and gloo.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm import ops
from pyjpllm.distributed import Mesh, World, collectives, make_mesh
from pyjpllm.errors import UserError
from pyjpllm.model import Transformer
from pyjpllm.parallel import (
    ContextParallel,
    DataParallel,
    FlatParameters,
    TensorParallel,
    global_grad_norm,
    layout_of,
)
from pyjpllm.parallel.context import Kind
from tests.mpi import run_ranks
from tests.parallel import reference as one
from tests.parallel.reference import MODELS, Reference
from tests.parallel.test_equality import (
    TOLERANCE,
    Differences,
    assert_copies_are_equal,
    difference,
    largest,
    optimize,
    references,
)

MICRO_BATCHES = 2
WINDOW, COPIED = "vocabulary of 3, window", "2 kv heads, qk-norm, tied"


@dataclass(frozen=True)
class Case:
    """One way to train."""

    kind: Kind
    cp: int
    tp: int
    sequence: bool
    model: str
    checkpointing: str = "cheap"
    steps: int = 3


def train(case: Case, mesh: Mesh, expected: Reference) -> Differences:
    """As in test_equality, with each sequence shared by the cp ranks."""
    config = MODELS[case.model]
    context = ContextParallel.from_mesh(mesh, case.kind, one.LENGTH)
    tp = TensorParallel.from_mesh(mesh, case.sequence)
    model = Transformer(config, tp=tp, dtype=torch.float64, context=context)
    model.activation_checkpointing = case.checkpointing  # type: ignore[assignment]
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(expected.initial[name][layout_of(param).index])
    flat = FlatParameters(model.named_parameters(), master_dtype=torch.float64, bucket_bytes=8000)
    dp = DataParallel(flat, mesh)
    moments = [(torch.zeros_like(group.grad), torch.zeros_like(group.grad)) for group in flat.groups]
    found = Differences()
    micro = one.SEQUENCES // (mesh.size("batch") * MICRO_BATCHES)
    for step in range(case.steps):
        batch = one.global_batch(config, step)
        count = expected.counts[step]
        flat.zero_grad()
        sums = torch.zeros(3, dtype=torch.float64)
        for i in range(MICRO_BATCHES):
            first = (mesh.rank("batch") * MICRO_BATCHES + i) * micro
            rows = slice(first, first + micro)
            with dp.accumulate(last=i == MICRO_BATCHES - 1):
                out = model.loss(
                    context.take(batch.tokens_BS[rows]),
                    context.take(batch.targets_BS[rows]),
                    positions_BS=context.take(batch.positions_BS[rows]),
                    document_ids_BS=context.take(batch.document_ids_BS[rows]),
                    z_loss=one.Z_LOSS,
                )
                ((out.loss + out.z_loss) / count).backward()
            sums += torch.stack([value.detach().double() for value in out])
        dp.finish()
        norm = global_grad_norm(flat, mesh)
        if not step:
            found.gradients = difference(flat, expected.gradients, [group.grad for group in flat.groups])
        optimize(flat, moments, step, norm)
        collectives.all_reduce(sums, mesh.group("replicas"))
        assert int(sums[2]) == count
        loss, z_loss, _ = (sums / count).tolist()
        found.loss = max(found.loss, abs(loss - expected.losses[step]), abs(z_loss - expected.z_losses[step]))
        found.norm = max(found.norm, abs(norm - expected.norms[step]))
    if case.steps == one.STEPS:
        found.weights = difference(flat, expected.final, [group.master for group in flat.groups])
    assert_copies_are_equal(flat, mesh)
    return found


def check_attention(world: World) -> None:
    """Outputs and gradients of whole attention, for lengths from the number of ranks on, with and without documents."""
    mesh = make_mesh(world, cp=world.size)
    generator = torch.Generator().manual_seed(5)
    kv_heads = world.size if world.size > 2 else 1
    for length in (world.size, world.size + 1, 2 * world.size + 1, 61):
        shapes = [(2, length, heads, 4) for heads in (2 * kv_heads, kv_heads, kv_heads, 2 * kv_heads)]
        *inputs, dout = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
        starts = torch.rand(2, length, generator=generator) < 0.1
        for kind, documents, window in itertools.product(get_args(Kind), (False, True), (None, length, 3)):
            if kind == "ring" and window == 3:
                continue
            context = ContextParallel.from_mesh(mesh, kind, length)
            ids = starts.cumsum(1) if documents else None
            whole = [x.clone().requires_grad_() for x in inputs]
            mine = [context.take(x).requires_grad_() for x in inputs]
            expected = ops.attention(*whole, document_ids_BS=ids, window=window)
            out = context.attention(*mine, document_ids_Bs=None if ids is None else context.take(ids), window=window)
            grads = torch.autograd.grad(out, mine, context.take(dout))
            whole_grads = torch.autograd.grad(expected, whole, dout)
            for one_of, other in zip((out, *grads), (expected, *whole_grads), strict=True):
                torch.testing.assert_close(one_of, context.take(other), rtol=1e-12, atol=1e-12)


def check_refusals(world: World) -> None:
    mesh = make_mesh(world, cp=world.size)
    q, k = torch.randn(1, 4, 3, 2), torch.randn(1, 4, 1, 2)
    with pytest.raises(ValueError, match=r"has 4 of 50 tokens, not its \d+"):
        ContextParallel.from_mesh(mesh, "ring", 50).attention(q, k, k)
    with pytest.raises(ValueError, match=r"sequences of 4 tokens, not the 50 that are shared"):
        ContextParallel.from_mesh(mesh, "ring", 50).take(q)
    context = ContextParallel.from_mesh(mesh, "ring", 4 * world.size)
    with pytest.raises(ValueError, match="ring attention has no window, got 3"):
        context.attention(q, k, k, window=3)
    with pytest.raises(ValueError, match=f"1 tokens cannot be shared by {world.size} context-parallel ranks"):
        ContextParallel.from_mesh(mesh, "ring", 1)
    if world.size == 2:
        with pytest.raises(UserError, match=r"parallel.context = 2 cannot share .* the nearest that can is 1"):
            replace(context, kind="ulysses").attention(q, k, k)
        model = Transformer(MODELS["tied"], context=context)
        with pytest.raises(ValueError, match="needs their positions"):
            model(torch.zeros(1, 4, dtype=torch.int64))


def walk(world: World, cases: list[Case], references: dict[str, Reference]) -> list[Differences]:
    """All that one launch goes through."""
    check_attention(world)
    check_refusals(world)
    meshes: dict[tuple[int, int], Mesh] = {}
    found = []
    for case in cases:
        key = (case.cp, case.tp)
        if key not in meshes:
            meshes[key] = make_mesh(world, dp=-1, cp=case.cp, tp=case.tp)
        found.append(train(case, meshes[key], references[case.model]))
    return found


def cases_of(size: int, backend: str) -> list[Case]:
    """What a launch goes through: ten steps where the layout is what differs, three where the model is."""
    both: tuple[Kind, Kind] = get_args(Kind)
    if size == 4:
        wide = [Case(kind, 4, 1, False, "tied", "cheap", one.STEPS) for kind in both]
        mixed = [Case(kind, 2, 2, True, COPIED, "full") for kind in both]
        if backend == "gloo":
            return wide + mixed
        copied = [Case(kind, 4, 1, False, COPIED) for kind in both]
        whole = [Case(kind, 2, 2, False, "untied", "none") for kind in both]
        replicas = [Case(kind, 2, 1, False, "untied") for kind in both]
        return wide + mixed + copied + whole + replicas + [Case("ulysses", 4, 1, False, WINDOW)]
    models = [model for model in MODELS if (size, backend) == (2, "mpi4py") or model in ("untied", COPIED)]
    found = []
    for kind in both:
        for number, model in enumerate(models):
            if (model == WINDOW and kind == "ring") or (size == 3 and kind == "ulysses" and model == COPIED):
                continue  # no window in a ring; 8 heads of 2 kv heads over 3 ranks
            checkpointing = ("cheap", "full", "none")[number % 3]
            found.append(Case(kind, size, 1, False, model, checkpointing, 3 if number else one.STEPS))
    return found


@pytest.mark.parametrize(("size", "backend"), [(2, "mpi4py"), (2, "gloo"), (3, "mpi4py"), (4, "mpi4py"), (4, "gloo")])
def test_equals_one_process(size: int, backend: str) -> None:
    cases = cases_of(size, backend)
    by_rank = run_ranks(walk, size, cases, references(), backend=backend, timeout=600)
    found = {case: largest(values) for case, values in zip(cases, zip(*by_rank, strict=True), strict=True)}
    for case, differences in found.items():
        print(case, differences)
    wrong = {case: differences for case, differences in found.items() if not differences.worst < TOLERANCE}
    assert not wrong, wrong


@given(length=st.integers(1, 200), size=st.integers(1, 9))
def test_tokens_are_dealt_out_evenly(length: int, size: int) -> None:
    size = min(size, length)
    ranks = [ContextParallel(rank=rank, size=size, sequence_length=length) for rank in range(size)]
    x_BS = torch.arange(2 * length).view(2, length)
    pieces = [rank.take(x_BS) for rank in ranks]
    assert [piece.shape[1] for piece in pieces] == ranks[0].lengths
    if size > 1:
        assert torch.equal(ranks[0].put_together(pieces), x_BS)
    # Under a causal mask a token sees those before it and itself; a block is at most one token longer than another.
    work = [int((piece[0] + 1).sum()) for piece in pieces]
    assert max(work) - min(work) <= 2 * length


def test_alone_it_is_attention() -> None:
    q, k = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 8)
    assert torch.equal(ContextParallel().attention(q, k, k, window=2), ops.attention(q, k, k, window=2))
    assert ContextParallel().take(q) is q
