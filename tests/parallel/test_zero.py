"""ZeRO 1 and 2 train to the numbers of one process, within 1e-10 in FP64, and keep 1 / replicas of the state.

The models, batches and reference are those of `tests.parallel.test_equality`; the weights compared are the model's,
after the gathers that forward waits for.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pyjpllm.config.schema import OptimizerConfig
from pyjpllm.distributed import Mesh, World, collectives, make_mesh
from pyjpllm.parallel import DataParallel, FlatParameters, global_grad_norm
from pyjpllm.parallel.flat import FlatGroup
from pyjpllm.training.optimizer import AdamW, clip_scale, rectangles
from tests.mpi import run_ranks
from tests.parallel import reference as one
from tests.parallel import test_equality
from tests.parallel.reference import MODELS, Reference
from tests.parallel.test_equality import ALONE, MICRO_BATCHES, TOLERANCE, Differences, build

REPLICATED, BIASED = "2 kv heads, qk-norm, tied", "1 kv head, all biases"
OPTIMIZER = OptimizerConfig(
    lr=one.LR, beta1=one.BETAS[0], beta2=one.BETAS[1], eps=one.EPS, weight_decay=one.WEIGHT_DECAY
)


@dataclass(frozen=True)
class Case(test_equality.Case):
    """Also how the state is shared."""

    zero: int = 1
    overlap: bool = True
    sixteen: bool = False


def cases_of(size: int, backend: str) -> list[Case]:
    """Every stage on every layout, with models that have parts of gradients to sum, too."""
    if size == 1:
        return [Case(1, 1, False, "tied", zero=1), Case(1, 1, False, "tied", zero=2)]
    shapes = {2: [(2, 1, False, "tied")], 4: [(4, 1, False, "vocabulary of 3, window"), (2, 2, True, REPLICATED)]}[size]
    if backend == "mpi4py" and size == 4:
        shapes += [(2, 2, False, BIASED), (1, 4, True, REPLICATED)]
    found = [Case(*shape, zero=zero) for shape, zero in itertools.product(shapes, (1, 2))]
    return found + [Case(*shapes[0], zero=zero, overlap=False) for zero in (1, 2)]


def steps(
    case: Case, mesh: Mesh, start: dict[str, torch.Tensor], expected: Reference | None
) -> tuple[FlatParameters, Differences]:
    """Ten steps as the trainer takes them; without ``expected`` the gradients are not clipped."""
    model = build(case, mesh, start)
    master_dtype = torch.float64 if case.dtype == "fp64" else torch.float32
    flat = FlatParameters(
        model.named_parameters(), master_dtype=master_dtype, bucket_bytes=4000, mesh=mesh, zero=case.zero
    )
    dtype = torch.bfloat16 if case.sixteen else None
    dp = DataParallel(flat, mesh, overlap=case.overlap, dtype=dtype)
    if case.overlap:
        flat.values.overlap(model.reading_order())
    optimizer = AdamW(flat, OPTIMIZER)
    found = Differences()
    micro = one.SEQUENCES // (case.dp * MICRO_BATCHES)
    for step in range(one.STEPS):
        batch = one.global_batch(MODELS[case.model], step)
        count = int((batch.targets_BS != -100).sum())
        flat.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for i in range(MICRO_BATCHES):
            rows = slice(
                (mesh.rank("dp") * MICRO_BATCHES + i) * micro, (mesh.rank("dp") * MICRO_BATCHES + i + 1) * micro
            )
            out = model.loss(
                batch.tokens_BS[rows],
                batch.targets_BS[rows],
                positions_BS=batch.positions_BS[rows],
                document_ids_BS=batch.document_ids_BS[rows],
                z_loss=one.Z_LOSS,
            )
            with dp.accumulate(last=i == MICRO_BATCHES - 1):
                ((out.loss + out.z_loss) / count).backward()
            loss += out.loss.detach() / count
        dp.finish()
        norm = global_grad_norm(flat, mesh)
        assert collectives.broadcast_object(norm, mesh.world_group) == norm
        collectives.all_reduce(loss, mesh.group("dp"))
        if expected is not None:
            if not step:
                found.gradients = gradients_off(flat, expected)
            found.loss = max(found.loss, abs(float(loss) - expected.losses[step]))
            found.norm = max(found.norm, abs(norm - expected.norms[step]))
        optimizer.step(one.LR, clip_scale(norm, one.CLIP) if expected is not None else 1.0)
    flat.values.wait()
    if expected is not None:
        found.weights = test_equality.difference(flat, expected.final, [group.model for group in flat.groups])
    for group in flat.groups:
        test_equality.assert_equal(group.model, mesh.group("dp"))
        for part in group.parts:
            assert torch.equal(part.model, part.master.to(part.model.dtype))
    assert_state_is_shared(flat, optimizer, mesh)
    flat.remove_hooks()
    return flat, found


def gradients_off(flat: FlatParameters, expected: Reference) -> float:
    """The largest difference of a gradient that this rank steps."""
    worst = 0.0
    for group in flat.groups:
        for part in group.parts:
            for entry, start, stop in part.overlaps():
                whole = expected.gradients[entry.name][entry.layout.index].reshape(-1)
                piece = whole[start - entry.start : stop - entry.start]
                worst = max(worst, float((part.grad[start - part.start : stop - part.start] - piece).abs().max()))
    return worst


def assert_state_is_shared(flat: FlatParameters, optimizer: AdamW, mesh: Mesh) -> None:
    """Bytes of state are those of all the elements over replicas, plus less than a unit of padding a bucket."""
    for group in flat.groups:
        shards = mesh.size(group.replicas) if flat.zero else 1
        owned = sum(part.master.numel() for part in group.parts)
        elements = sum(entry.param.numel() for entry in group.entries)
        align = max(1, 256 // max(group.model.element_size(), group.grad.element_size()))
        assert elements / shards <= owned <= elements / shards + align * (len(group.entries) + len(group.buckets))
        if group.zero == 2:
            assert group.grad.numel() == owned
            assert all(bucket._temporary is None for bucket in group.buckets)
        if group.master is not group.model:
            assert group.master.numel() == owned
    mine = [moment.numel() for moment in (*optimizer.exp_avg, *optimizer.exp_avg_sq)]
    assert sum(mine) == 2 * sum(part.master.numel() for group in flat.groups for part in group.parts)


def walk(world: World, cases: list[Case], references: dict[str, Reference]) -> list[Differences]:
    """All the cases, one after the other."""
    meshes = {(dp, tp): make_mesh(world, dp=dp, tp=tp) for dp, tp in sorted({(c.dp, c.tp) for c in cases})}
    return [
        steps(case, meshes[case.dp, case.tp], references[case.model].initial, references[case.model])[1]
        for case in cases
    ]


@pytest.mark.parametrize(("size", "backend"), [(1, "none"), *itertools.product((2, 4), ("mpi4py", "gloo"))])
def test_equals_one_process(size: int, backend: str) -> None:
    cases = cases_of(size, backend)
    references = {name: one.train_on_one_process(MODELS[name]) for name in {case.model for case in cases}}
    ranks = [walk(ALONE, cases, references)] if size == 1 else run_ranks(walk, size, cases, references, backend=backend)
    for case, found in zip(cases, zip(*ranks, strict=True), strict=True):
        worst = max(differences.worst for differences in found)
        print(f"{backend} {case}: {worst:.1e}")
        assert worst < TOLERANCE, case


def sixteen_bits(world: World, start: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far BF16 weights are from those without ZeRO, after ten steps."""
    mesh = make_mesh(world)

    def weights(zero: int, sixteen: bool = False) -> torch.Tensor:
        case = Case(world.size, 1, False, "tied", "bf16", zero, sixteen=sixteen)
        flat, _ = steps(case, mesh, start, None)
        return torch.cat([entry.param.detach().float().flatten() for _, entry in flat.entries()])

    whole = weights(0)
    others = {"1": weights(1), "2": weights(2)}
    others |= {f"{zero} in BF16": weights(zero, sixteen=True) for zero in (0, 1, 2)}
    return {name: float((other - whole).abs().mean()) for name, other in others.items()}


@pytest.mark.parametrize("backend", ["mpi4py", "gloo"])
def test_sixteen_bits(backend: str) -> None:
    """Of two ranks the sums are the same bits with ZeRO-1. ZeRO-2 adds the micro-batches in another order: Adam's
    step may then turn where a gradient is near zero, by at most 2 lr a step, which few elements do. BF16 messages round
    every gradient by 2^-9: as much as it moves ten steps of lr, on the mean."""
    start = one.train_on_one_process(MODELS["tied"]).initial
    for found in run_ranks(sixteen_bits, 2, start, backend=backend):
        assert found["1"] == 0
        assert found["2"] < 0.01 * one.LR * one.STEPS
        assert all(off < 0.05 * one.LR * one.STEPS for off in found.values()), found


def check_rank_order(world: World) -> None:
    """BF16 pieces are summed in FP32: 256 + 1 + 1 + 1 is not 256."""
    for zero in (1, 2):
        param = nn.Parameter(torch.zeros(96, 64, dtype=torch.bfloat16))
        mesh = make_mesh(world)
        flat = FlatParameters([("p", param)], mesh=mesh, zero=zero)
        dp = DataParallel(flat, mesh, dtype=torch.bfloat16)
        for i in range(2):
            with dp.accumulate(last=i == 1):
                (param * (256.0 if world.rank == 0 else 1.0)).sum().backward()
        dp.finish()
        (part,) = flat.groups[0].parts
        assert part.grad.unique().tolist() == [2 * (255 + world.size)]


def test_sums_of_sixteen_bits_are_in_fp32() -> None:
    run_ranks(check_rank_order, 3)


def check_on_nodes(world: World) -> None:
    mesh = make_mesh(world)
    values = torch.arange(40_960, dtype=torch.float64)
    for zero in (1, 2):
        param = nn.Parameter(values.clone())
        flat = FlatParameters([("p", param)], master_dtype=torch.float64, mesh=mesh, zero=zero)
        dp = DataParallel(flat, mesh)
        with dp.accumulate(last=True):
            (param * values * (world.rank + 1)).sum().backward()
        dp.finish()
        (part,) = flat.groups[0].parts
        assert torch.equal(part.grad, 10 * values[part.start : part.stop])
        part.master.mul_(2)
        flat.master_to_model()
        assert torch.equal(param.detach(), 2 * values)


def test_slices_on_two_nodes() -> None:
    """Sums and values come by way of the node's other rank, and go to the same owners."""
    run_ranks(check_on_nodes, 4, env={"PYJPLLM_RANKS_PER_NODE": "2"})


def test_zero_two_refuses_gradients_of_some_parameters() -> None:
    flat = FlatParameters([("p", nn.Parameter(torch.zeros(2, 2)))], zero=2)
    with pytest.raises(ValueError, match="not those of some"), DataParallel(flat).accumulate(last=True, names={"p"}):
        pass


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), st.data())
def test_rectangles_make_up_the_range(shape: tuple[int, ...], data: st.DataObject) -> None:
    whole = torch.arange(math.prod(shape)).view(shape)
    start = data.draw(st.integers(0, whole.numel()))
    stop = data.draw(st.integers(start, whole.numel()))
    found = list(rectangles(shape, start, stop))
    elements = [whole[tuple(slice(a, b) for a, b in ranges)].flatten() for ranges in found]
    assert torch.cat([whole.new_empty(0), *elements]).tolist() == list(range(start, stop))
    assert len(found) <= 2 * len(shape) - 1


@given(st.lists(st.integers(0, 700), min_size=1, max_size=9), st.integers(1, 7), st.integers(1, 4000))
def test_slices_make_up_the_buckets(sizes: list[int], shards: int, bucket_bytes: int) -> None:
    named = [(f"p{i}", nn.Parameter(torch.full((size,), float(i)))) for i, size in enumerate(sizes)]
    groups = [
        FlatGroup(
            named,
            weight_decay=False,
            master_dtype=torch.float32,
            model_dtype=torch.bfloat16,
            bucket_bytes=bucket_bytes,
            zero=2,
            shards=shards,
            shard=shard,
        )
        for shard in range(shards)
    ]
    for index, bucket in enumerate(groups[0].buckets):
        parts = [group.parts[index] for group in groups]
        assert {part.stop - part.start for part in parts} == {(bucket.stop - bucket.start) // shards}
        assert all((part.start - bucket.start) % 64 == 0 for part in parts)
        whole = torch.cat([part.master for part in parts])
        assert torch.equal(whole.bfloat16(), groups[-1].model[bucket.start : bucket.stop])
