"""In FP64 experts that ranks share train to the same numbers as one process, beside every other form of parallelism.

The reference, and what is compared, are those of test_equality; the routers' losses, the largest load and the biases
that even loads out are compared as well, and these to the last bit. Every sequence counts another number of its tokens.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyjpllm import ops
from pyjpllm.distributed import Mesh, World, collectives, make_mesh
from pyjpllm.model import Transformer
from pyjpllm.model.initialization import normal_piece
from pyjpllm.parallel import (
    ContextParallel,
    DataParallel,
    Exchange,
    ExpertParallel,
    FlatParameters,
    Layout,
    TensorParallel,
    global_grad_norm,
    layout_of,
)
from pyjpllm.parallel.deferred import WeightGradients, grouped_linear
from pyjpllm.parallel.layout import split_sizes
from pyjpllm.parallel.pipeline import Part, Schedule, balanced, named, parts_of, run, tied_group
from pyjpllm.training.experts import balance, expert_biases, weigh_losses
from tests.mpi import run_ranks
from tests.parallel import reference as one
from tests.parallel.reference import MIXTURES, GlobalBatch, Reference
from tests.parallel.test_equality import TOLERANCE, Differences, assert_equal, largest, optimize

PLAIN, OWN = MIXTURES
MICRO_BATCHES = 2


@dataclass(frozen=True)
class Case:
    """One way to train; what the axes leave are data-parallel ranks."""

    model: str
    ep: int = 1
    tp: int = 1
    sequence: bool = False
    pp: int = 1
    cp: int = 1
    schedule: str = "1f1b"
    checkpointing: str = "cheap"
    steps: int = 3


class Shares:
    """This rank's chunks and micro-batches, as the executor calls them, or all of them in turn."""

    def __init__(self, model: Transformer, parts: tuple[Part, ...], batch: GlobalBatch, rows: list[slice], count: int):
        self.model, self.parts, self.batch, self.rows, self.count = model, parts, batch, rows, count
        self.sums = torch.zeros(3, dtype=torch.float64)

    def forward(self, chunk: int, micro_batch: int, x: Tensor | None) -> Tensor:
        batch, part, rows = self.batch, self.parts[chunk], self.rows[micro_batch]
        whole = (batch.tokens_BS, batch.positions_BS, batch.document_ids_BS, batch.targets_BS)
        *inputs, targets = (self.model.context.take(values[rows]) for values in whole)
        out = self.model.through(part, x, *inputs)
        if not part.last:
            return out
        found = self.model.loss_of(out, targets, z_loss=one.Z_LOSS)
        self.sums += torch.stack([value.detach().double() for value in found])
        return (found.loss + found.z_loss) / self.count

    def receive_into(self, micro_batch: int) -> Tensor:
        tp = self.model.tp
        tokens = split_sizes(one.LENGTH, tp.size)[tp.rank] if tp.sequence else one.LENGTH
        return torch.empty(tokens, self.model.config.hidden_size, dtype=torch.float64)


def build(case: Case, mesh: Mesh, schedule: Schedule | None, parts: tuple[Part, ...], start: dict[str, Tensor]):
    """This rank's part of the model, with its slices of the reference's weights."""
    config = MIXTURES[case.model]
    mine, group = None, None
    if schedule is not None:
        mine = [parts[chunk] for chunk in schedule.chunks_of(mesh.rank("pp"))]
        group = tied_group(schedule, mesh) if config.tie_embeddings else None
    tp, ep = TensorParallel.from_mesh(mesh, case.sequence), ExpertParallel.from_mesh(mesh)
    context = ContextParallel.from_mesh(mesh, "ring", one.LENGTH)
    model = Transformer(config, tp=tp, ep=ep, context=context, dtype=torch.float64, parts=mine, tied_group=group)
    model.activation_checkpointing = case.checkpointing  # type: ignore[assignment]
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(start[name][layout_of(param).index])
    return model


def train(case: Case, mesh: Mesh, expected: Reference) -> Differences:
    """Steps as the trainer takes them."""
    config, replicas = MIXTURES[case.model], mesh.size("batch")
    micro_batches = one.SEQUENCES // replicas if case.pp > 1 else min(MICRO_BATCHES, one.SEQUENCES // replicas)
    schedule = named(case.schedule, case.pp, micro_batches, 2) if case.pp > 1 else None
    parts = (Part.whole(config.num_layers),)
    if schedule is not None:
        parts = parts_of(balanced(config.num_layers, schedule.chunks))
    model = build(case, mesh, schedule, parts, expected.initial)
    flat = FlatParameters(model.named_parameters(), master_dtype=torch.float64, bucket_bytes=4000)
    dp = DataParallel(flat, mesh, overlap=schedule is None)
    moments = [(torch.zeros_like(group.grad), torch.zeros_like(group.grad)) for group in flat.groups]
    found = Differences()
    weigh_losses(model, 1 / one.SEQUENCES)
    micro = one.SEQUENCES // (replicas * micro_batches)
    first = [(mesh.rank("batch") * micro_batches + i) * micro for i in range(micro_batches)]
    for step in range(case.steps):
        count = expected.counts[step]
        rows = [slice(start, start + micro) for start in first]
        stages = Shares(model, parts, one.global_batch(config, step), rows, count)
        flat.zero_grad()
        if schedule is None:
            for i in range(micro_batches):
                with dp.accumulate(last=i == micro_batches - 1):
                    stages.forward(0, i, None).backward()
        else:
            with dp.accumulate(last=True):
                run(schedule, stages, mesh.group("pp"))
        dp.finish()
        norm = global_grad_norm(flat, mesh)
        for buffers, entry in flat.entries() if not step else ():
            piece = expected.gradients[entry.name][entry.layout.index]
            found.gradients = max(found.gradients, off(buffers.view(buffers.grad, entry), piece))
        optimize(flat, moments, step, norm)
        loads = balance(model, mesh, sequences=one.SEQUENCES)
        sums = stages.sums
        if schedule is not None:
            sums = collectives.broadcast(sums, mesh.group("pp"), schedule.rank_of[-1])
        collectives.all_reduce(sums, mesh.group("replicas"))
        assert int(sums[2]) == count
        ours = [*(sums[:2] / count).tolist(), loads.balance_loss, loads.router_z_loss]
        theirs = [expected.losses[step], expected.z_losses[step], *expected.loads[step][1:]]
        found.loss = max(found.loss, *(abs(a - b) for a, b in zip(ours, theirs, strict=True)))
        found.norm = max(found.norm, abs(norm - expected.norms[step]))
        assert loads.load_max == expected.loads[step].load_max
    for buffers, entry in flat.entries():
        piece = buffers.view(buffers.master, entry)
        if case.steps == one.STEPS:
            found.weights = max(found.weights, off(piece, expected.final[entry.name][entry.layout.index]))
        assert_equal(piece, mesh.group(buffers.replicas))
    biases = expert_biases(model, mesh)
    if case.steps == one.STEPS and mesh.is_first("pp"):
        assert biases == expected.biases
    return found


def off(piece: Tensor, expected: Tensor) -> float:
    return float((piece - expected).abs().max()) if piece.numel() else 0.0


def walk(world: World, cases: list[Case], references: dict[str, Reference]) -> list[Differences]:
    """All the cases of one launch, and the way of rows between its ranks."""
    meshes: dict[tuple[int, ...], Mesh] = {}
    found = []
    for case in cases:
        key = (case.pp, case.cp, case.ep, case.tp)
        if key not in meshes:
            meshes[key] = make_mesh(world, dp=-1, pp=case.pp, cp=case.cp, ep=case.ep, tp=case.tp)
            check_exchange(ExpertParallel.from_mesh(meshes[key]))
        found.append(train(case, meshes[key], references[case.model]))
    return found


def check_exchange(ep: ExpertParallel) -> None:
    """Every row reaches its expert, the experts' rows lie together, and all come back to where they were.

    Whatever numbers of rows the ranks have for experts, none among them.
    """
    generator = torch.Generator().manual_seed(ep.size)
    shape = (ep.size, 2 * ep.size)
    draws = [torch.randint(high, shape, generator=generator) for high in (1, 2, 3, 9) * 3]
    to_one, from_one = torch.zeros(2, *shape, dtype=torch.int64)
    to_one[:, 0], from_one[-1] = 7, 3
    for sizes_RE in (*draws, to_one, from_one):
        sizes_E, mine = sizes_RE[ep.rank], torch.arange(2) + 2 * ep.rank
        expert_M = torch.arange(len(sizes_E)).repeat_interleave(sizes_E)
        rows_M2 = torch.stack([expert_M.double(), torch.rand(len(expert_M), dtype=torch.float64)], 1).requires_grad_()
        exchange = Exchange(sizes_E, ep)
        here_m2 = exchange.send(rows_M2)
        assert torch.equal(exchange.sizes_e, sizes_RE[:, mine].sum(0))
        assert torch.equal(here_m2[:, 0], mine.repeat_interleave(exchange.sizes_e).double())
        back_M2 = exchange.back(here_m2 * torch.tensor([1.0, 3.0]))
        assert torch.equal(back_M2, rows_M2 * torch.tensor([1.0, 3.0]))
        weights_M2 = torch.rand_like(back_M2)
        (back_M2 * weights_M2).sum().backward()
        assert torch.equal(rows_M2.grad, weights_M2 * torch.tensor([1.0, 3.0]))


def cases_of(size: int) -> list[Case]:
    """What each launch goes through; ten steps where a way is met first."""
    full = one.STEPS
    if size == 16:
        return [Case(PLAIN, pp=2, ep=4, tp=2, schedule="zb-v", sequence=True, steps=full)]
    if size == 8:
        return [
            Case(PLAIN, pp=2, ep=4, schedule="zb-v"),
            Case(PLAIN, ep=4, tp=2, sequence=True, steps=full),
            Case(OWN, pp=2, ep=2, tp=2, schedule="zb-v", sequence=True),
        ]
    return [
        *(Case(model, ep=4, steps=full) for model in MIXTURES),
        Case(OWN, ep=2),
        Case(PLAIN, ep=2, checkpointing="full"),
        Case(PLAIN, ep=2, tp=2, steps=full),
        Case(PLAIN, ep=2, tp=2, sequence=True),
        Case(OWN, ep=2, tp=2, sequence=True, steps=full),
        Case(OWN, tp=4, checkpointing="full"),
        Case(OWN, ep=2, pp=2, schedule="zb-v", steps=full),
        Case(OWN, ep=2, pp=2, schedule="1f1b"),
        Case(PLAIN, ep=2, pp=2, schedule="zb-h1", checkpointing="full"),
        Case(PLAIN, pp=4, schedule="1f1b"),
        Case(OWN, tp=2, pp=2, schedule="interleaved"),
        Case(OWN, ep=2, cp=2, steps=full),
        Case(PLAIN, ep=2, cp=2),
        Case(PLAIN, cp=2, tp=2, sequence=True),
    ]


@functools.cache
def references() -> dict[str, Reference]:
    return {name: one.train_on_one_process(config) for name, config in MIXTURES.items()}


def table(size: int, backend: str, cases: list[Case]) -> dict[Case, Differences]:
    """The worst of all ranks, by case."""
    by_rank = run_ranks(walk, size, cases, references(), backend=backend, timeout=900)
    return {case: largest(values) for case, values in zip(cases, zip(*by_rank, strict=True), strict=True)}


@pytest.mark.parametrize(("size", "backend"), [(4, "mpi4py"), (8, "mpi4py"), (4, "gloo")])
def test_equals_one_process(size: int, backend: str) -> None:
    cases = [case for case in cases_of(size) if backend != "gloo" or (case.ep == 2 and case.steps == one.STEPS)]
    found = table(size, backend, cases)
    wrong = {case: differences for case, differences in found.items() if not differences.worst < TOLERANCE}
    assert not wrong, wrong


def test_the_references_say_something() -> None:
    """Loads are uneven, losses are there, biases have turned choices."""
    for run_ in references().values():
        assert min(run_.norms) < max(run_.norms)
        assert max(loads.load_max for loads in run_.loads) > 1.3
        assert min(loads.router_z_loss for loads in run_.loads) > 1e-3
    assert not references()[PLAIN].biases
    assert references()[OWN].biases.keys() == {"1", "2", "3"}
    assert max(abs(value) for layer in references()[OWN].biases.values() for value in layer) > 0.15


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.booleans())
def test_experts_weights_gradients_wait(sizes: list[int], trained: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    weights, x = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((len(sizes), 3, 2), (sum(sizes), 2))
    )
    counts = torch.tensor(sizes)
    whole = torch.autograd.grad(ops.grouped_linear(x, weights, counts).square().sum(), [x, weights])
    weights.requires_grad_(trained)
    queue = WeightGradients()
    with queue.put_off():
        loss = grouped_linear(x, weights, counts).square().sum()
    loss.backward()
    assert (len(queue), weights.grad) == (int(trained), None)
    torch.testing.assert_close(x.grad, whole[0])
    queue.make()
    if trained:
        torch.testing.assert_close(weights.grad, whole[1])


@pytest.mark.parametrize("split", [1, 2])
def test_initial_experts_do_not_depend_on_the_layout(split: int) -> None:
    """Pieces that are cut along experts and along another dimension."""
    shape = (4, 5, 3)
    whole = normal_piece(1, "experts", Layout.whole(shape), 0.1, torch.float64)
    for start, stop in ((0, 2), (2, 4)):
        for first, last in ((0, 1), (1, 3)):
            slices = [(start, stop), (0, 5), (0, 3)]
            slices[split] = (first, last)
            layout = Layout(shape, tuple(slices), replicas="expert_replicas")
            assert torch.equal(normal_piece(1, "experts", layout, 0.1, torch.float64), whole[layout.index])
