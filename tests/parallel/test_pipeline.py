"""In FP64 every schedule on every (pp, dp, tp) layout trains to the same numbers as one process.

The reference, the models and what is compared are those of test_equality. Two or four layers in up to twelve
chunks: some have none. Every micro-batch is one sequence, and each counts another number of tokens.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pyjpllm.distributed import Mesh, World, collectives, make_mesh
from pyjpllm.model import Transformer
from pyjpllm.parallel import DataParallel, FlatParameters, TensorParallel, global_grad_norm, layout_of
from pyjpllm.parallel.deferred import WeightGradients, linear
from pyjpllm.parallel.layout import split_sizes
from pyjpllm.parallel.pipeline import (
    NAMES,
    Costs,
    Part,
    Schedule,
    balanced,
    named,
    parts_of,
    run,
    search,
    tied_group,
    v_shape,
)
from tests.mpi import run_ranks
from tests.parallel import reference as one
from tests.parallel.reference import GlobalBatch, Reference
from tests.parallel.test_equality import TOLERANCE, Differences, assert_equal, largest, optimize, references

PLAIN = ("untied", "tied")
DEEP = "tied, 4 layers"
MODELS = {**one.MODELS, DEEP: one.MODELS["tied"].model_copy(update={"num_layers": 4})}


@dataclass(frozen=True)
class Case:
    """One way to train."""

    schedule: str
    pp: int
    tp: int
    sequence: bool
    model: str
    steps: int = 3


def schedule_of(case: Case, micro_batches: int) -> Schedule:
    """The table of a case; the searched one is for uneven times, so that it is like no other."""
    if case.schedule == "searched":
        costs = Costs.even(2 * case.pp, 1.0, 1.4, 0.7, 0.1)
        return search(v_shape(case.pp), micro_batches, costs, 2.0 * case.pp, tries=40)
    return named(case.schedule, case.pp, micro_batches, 3)


class Shares:
    """This rank's chunks and micro-batches, as the executor calls them."""

    def __init__(self, model: Transformer, parts: tuple[Part, ...], batch: GlobalBatch, first: int, count: int) -> None:
        self.model, self.parts, self.batch, self.first, self.count = model, parts, batch, first, count
        self.sums = torch.zeros(3, dtype=torch.float64)

    def forward(self, chunk: int, micro_batch: int, x: Tensor | None) -> Tensor:
        rows = slice(self.first + micro_batch, self.first + micro_batch + 1)
        batch, part = self.batch, self.parts[chunk]
        out = self.model.through(part, x, batch.tokens_BS[rows], batch.positions_BS[rows], batch.document_ids_BS[rows])
        if not part.last:
            return out
        found = self.model.loss_of(out, batch.targets_BS[rows], z_loss=one.Z_LOSS)
        self.sums += torch.stack([value.detach().double() for value in found])
        return (found.loss + found.z_loss) / self.count

    def receive_into(self, micro_batch: int) -> Tensor:
        tp = self.model.tp
        tokens = split_sizes(one.LENGTH, tp.size)[tp.rank] if tp.sequence else one.LENGTH
        return torch.empty(tokens, self.model.config.hidden_size, dtype=torch.float64)


def train(case: Case, mesh: Mesh, expected: Reference) -> Differences:
    """As in test_equality, but through a pipeline; the weights are compared after the tenth step."""
    config = MODELS[case.model]
    micro_batches = one.SEQUENCES // mesh.size("dp")
    schedule = schedule_of(case, micro_batches)
    spread = [1] * config.num_layers  # the embedding by itself where there are chunks enough
    spare = schedule.chunks - config.num_layers
    layers = [0, *spread, *[0] * (spare - 1)] if spare > 0 else balanced(config.num_layers, schedule.chunks)
    parts = parts_of(layers)
    mine = [parts[chunk] for chunk in schedule.chunks_of(mesh.rank("pp"))]
    group = tied_group(schedule, mesh) if config.tie_embeddings else None
    tp = TensorParallel.from_mesh(mesh, case.sequence)
    model = Transformer(config, tp=tp, dtype=torch.float64, parts=mine, tied_group=group)
    model.activation_checkpointing = "full" if "bias" in case.model else "cheap"
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(expected.initial[name][layout_of(param).index])
    flat = FlatParameters(model.named_parameters(), master_dtype=torch.float64, bucket_bytes=8000)
    dp = DataParallel(flat, mesh, overlap=False)
    moments = [(torch.zeros_like(group.grad), torch.zeros_like(group.grad)) for group in flat.groups]
    found = Differences()
    for step in range(case.steps):
        count = expected.counts[step]
        stages = Shares(model, parts, one.global_batch(config, step), mesh.rank("dp") * micro_batches, count)
        flat.zero_grad()
        with dp.accumulate(last=True):
            run(schedule, stages, mesh.group("pp"))
        dp.finish()
        norm = global_grad_norm(flat, mesh)
        for buffers, entry in flat.entries() if not step else ():
            gradient = buffers.view(buffers.grad, entry)
            found.gradients = max(found.gradients, off(gradient, expected.gradients, entry))
        optimize(flat, moments, step, norm)
        sums = collectives.broadcast(stages.sums, mesh.group("pp"), schedule.rank_of[-1])
        collectives.all_reduce(sums, mesh.group("dp"))
        assert int(sums[2]) == count
        loss, z_loss, _ = (sums / count).tolist()
        found.loss = max(found.loss, abs(loss - expected.losses[step]), abs(z_loss - expected.z_losses[step]))
        found.norm = max(found.norm, abs(norm - expected.norms[step]))
    for buffers, entry in flat.entries():
        piece = buffers.view(buffers.master, entry)
        if case.steps == one.STEPS:
            found.weights = max(found.weights, off(piece, expected.final, entry))
        assert_equal(piece, mesh.group("dp"))
        if entry.name == "embedding.weight":
            assert_equal(piece, group)
    names = collectives.gather_objects({entry.name for _, entry in flat.entries()}, mesh.group("pp"))
    assert names is None or set().union(*names) == expected.final.keys()
    return found


def off(piece: Tensor, whole: dict[str, Tensor], entry: object) -> float:
    """The largest difference of a piece from its place in the whole."""
    expected = whole[entry.name][entry.layout.index]  # type: ignore[attr-defined]
    return float((piece - expected).abs().max()) if piece.numel() else 0.0


def walk(world: World, cases: list[Case], references: dict[str, Reference]) -> list[Differences]:
    """All the cases of one launch."""
    meshes: dict[tuple[int, int], Mesh] = {}
    found = []
    for case in cases:
        key = (case.pp, case.tp)
        if key not in meshes:
            meshes[key] = make_mesh(world, dp=-1, tp=case.tp, pp=case.pp)
        found.append(train(case, meshes[key], references[case.model]))
    return found


def cases_of(size: int) -> list[Case]:
    """What each launch goes through: ten steps where the schedule is what differs, three where the model is."""
    every = (*NAMES, "searched")
    if size == 1:
        return [Case(name, 1, 1, False, "tied", one.STEPS) for name in every]
    if size == 2:
        unusual = [Case("zb-v", 2, 1, False, model) for model in one.MODELS if model not in PLAIN]
        return [Case(name, 2, 1, False, model, one.STEPS) for name in every for model in PLAIN] + unusual
    deep = [Case(name, 4, 1, False, DEEP) for name in every]
    wide = [Case(name, 2, 2, sequence, "untied") for name in ("1f1b", "zb-v") for sequence in (False, True)]
    biased = [Case("zb-h1", 2, 2, True, model) for model in one.MODELS if model not in PLAIN]
    replicas = [Case(name, 2, 1, False, "tied", one.STEPS) for name in ("interleaved", "zb-v")]
    return deep + wide + biased + replicas


@functools.cache
def of_deep() -> Reference:
    return one.train_on_one_process(MODELS[DEEP])


@pytest.mark.parametrize(("size", "backend"), [(1, "mpi4py"), (2, "mpi4py"), (4, "mpi4py"), (4, "gloo")])
def test_equals_one_process(size: int, backend: str) -> None:
    cases = [case for case in cases_of(size) if backend != "gloo" or case.schedule in ("1f1b", "zb-v")]
    expected = {**references(), DEEP: of_deep()}
    by_rank = run_ranks(walk, size, cases, expected, backend=backend, timeout=900)
    found = {case: largest(values) for case, values in zip(cases, zip(*by_rank, strict=True), strict=True)}
    for case, differences in found.items():
        print(case, differences)
    wrong = {case: differences for case, differences in found.items() if not differences.worst < TOLERANCE}
    assert not wrong, wrong


def test_weights_gradients_wait() -> None:
    layer_in, layer_out = torch.nn.Linear(3, 4).double(), torch.nn.Linear(4, 2, bias=False).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def forward() -> Tensor:
        return linear(linear(x, layer_in.weight, layer_in.bias).tanh(), layer_out.weight).square().sum()

    params = [layer_in.weight, layer_in.bias, layer_out.weight]
    whole = torch.autograd.grad(forward(), [x, *params])
    queue, seen = WeightGradients(), []
    layer_out.weight.register_post_accumulate_grad_hook(seen.append)  # type: ignore[no-untyped-call]
    with queue.put_off():
        loss = forward()
    loss.backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, whole[0], rtol=1e-13, atol=1e-13)
    assert [p.grad for p in params] == [None] * 3
    assert (len(queue), seen) == (2, [])
    queue.make()
    for param, expected in zip(params, whole[1:], strict=True):
        assert param.grad is not None
        torch.testing.assert_close(param.grad, expected, rtol=1e-13, atol=1e-13)
    assert (len(queue), len(seen)) == (0, 1)
    layer_in.weight.requires_grad_(False)
    with queue.put_off():
        forward().backward()
    assert len(queue) == 1


def test_layers_are_dealt_out_by_cost() -> None:
    assert balanced(8, 4) == (2, 2, 2, 2)
    assert balanced(8, 4, head=1.5) == (3, 2, 2, 1)
    assert balanced(2, 4, head=0.5) == (1, 1, 0, 0)
    assert balanced(2, 4, embedding=1, head=1) == (0, 1, 1, 0)
    assert balanced(32, 4, head=4.2) == (9, 9, 9, 5)
    assert balanced(3, 2, head=10) == (3, 0)
    assert parts_of((2, 0, 1)) == (Part(0, 2, True, False), Part(2, 2, False, False), Part(2, 3, False, True))


def test_a_table_for_another_number_of_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="1f1b is for 3 ranks, the pipeline has 1"):
        run(named("1f1b", 3, 4), Shares(None, (), None, 0, 1), None)  # type: ignore[arg-type]
