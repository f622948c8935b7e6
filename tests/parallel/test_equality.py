"""In FP64 every (dp, tp) layout trains to the same numbers as one process, over mpi4py and over gloo.

Loss, z-loss, every gradient, gradient norm, and the weights after ten AdamW steps, within 1e-10. Every model of
`tests.parallel.reference` (tied and not, a vocabulary that no tp divides, or smaller than tp, kv heads split unevenly
or replicated, biases, head norms), sequence parallelism on and off, unevenly counted tokens, two micro-batches a step.
The tests leave some of the models out on gloo, to save time; ``python -m tests.parallel.test_equality``, which prints
the table of docs/parallelism.md, leaves out none.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pytest
import torch

from pyjpllm import ops
from pyjpllm.distributed import Mesh, World, collectives, make_mesh
from pyjpllm.errors import UserError
from pyjpllm.model import Transformer
from pyjpllm.parallel import (
    DataParallel,
    FlatParameters,
    TensorParallel,
    global_grad_norm,
    head_ranges,
    layout_of,
)
from tests.mpi import run_ranks
from tests.parallel import reference as one
from tests.parallel.reference import MODELS, Reference

TOLERANCE = 1e-10
MICRO_BATCHES = 2
LAYOUTS = {1: [(1, 1)], 2: [(2, 1), (1, 2)], 4: [(2, 2), (1, 4), (4, 1)]}
BACKENDS = ("mpi4py", "gloo")
# gloo is slow on small messages and is here as a control of mpi4py.
TESTED = {"mpi4py": tuple(MODELS), "gloo": ("untied", "tied", "2 kv heads, qk-norm, tied")}


@dataclass
class Differences:
    """The largest differences from the reference on any rank."""

    loss: float = 0.0
    gradients: float = 0.0
    norm: float = 0.0
    weights: float = 0.0

    @property
    def worst(self) -> float:
        return max(asdict(self).values())


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    dp: int
    tp: int
    sequence: bool
    model: str


def cases(size: int, models: Sequence[str]) -> list[Case]:
    """All the cases of a world: a model whose heads tp cannot share has none there."""
    found = []
    for (dp, tp), name in itertools.product(LAYOUTS[size], models):
        config = MODELS[name]
        try:
            head_ranges(config.num_heads, config.num_kv_heads, TensorParallel(size=tp))
        except UserError:
            continue
        found += [Case(dp, tp, sequence, name) for sequence in ((False, True) if tp > 1 else (False,))]
    return found


def build(case: Case, mesh: Mesh, start: dict[str, torch.Tensor], dtype: torch.dtype) -> Transformer:
    """This rank's part of the model, with its slices of the reference's weights."""
    model = Transformer(MODELS[case.model], tp=TensorParallel.from_mesh(mesh, case.sequence), dtype=dtype)
    # Some of the cases compute each block again in backward: collectives inside it too.
    model.activation_checkpointing = "bias" in case.model
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(start[name][layout_of(param).index])
    return model


def train(
    case: Case, mesh: Mesh, expected: Reference, *, dtype: torch.dtype, overlap: bool = True
) -> tuple[FlatParameters, Differences]:
    """Ten steps as the trainer takes them."""
    model = build(case, mesh, expected.initial, dtype)
    master_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    flat = FlatParameters(model.named_parameters(), master_dtype=master_dtype, bucket_bytes=8000)
    dp = DataParallel(flat, dp_group=mesh.group("dp"), overlap=overlap)
    moments = [(torch.zeros_like(group.grad), torch.zeros_like(group.grad)) for group in flat.groups]
    found = Differences()
    micro = one.SEQUENCES // (case.dp * MICRO_BATCHES)
    for step in range(one.STEPS):
        batch = one.global_batch(MODELS[case.model], step)
        first = mesh.rank("dp") * micro * MICRO_BATCHES
        mine = [slice(first + i * micro, first + (i + 1) * micro) for i in range(MICRO_BATCHES)]
        counted = torch.stack([(batch.targets_BS[rows] != -100).sum() for rows in mine]).sum()
        collectives.all_reduce(counted, mesh.group("dp"))
        assert int(counted) == expected.counts[step]
        flat.zero_grad()
        sums = torch.zeros(3, dtype=torch.float64)
        for i, rows in enumerate(mine):
            with dp.accumulate(last=i == MICRO_BATCHES - 1):
                out = model.loss(
                    batch.tokens_BS[rows],
                    batch.targets_BS[rows],
                    positions_BS=batch.positions_BS[rows],
                    document_ids_BS=batch.document_ids_BS[rows],
                    z_loss=one.Z_LOSS,
                )
                ((out.loss + out.z_loss) / int(counted)).backward()
            sums += torch.stack([value.detach().double() for value in out])
        dp.finish()
        norm = global_grad_norm(flat, mesh)
        if not step:
            found.gradients = difference(flat, expected.gradients, [group.grad for group in flat.groups])
        for group, (exp_avg, exp_avg_sq) in zip(flat.groups, moments, strict=True):
            ops.adamw_step(
                group.master,
                group.grad,
                exp_avg,
                exp_avg_sq,
                lr=one.LR,
                beta1=one.BETAS[0],
                beta2=one.BETAS[1],
                eps=one.EPS,
                weight_decay=one.WEIGHT_DECAY if group.weight_decay else 0.0,
                step=step + 1,
                grad_scale=min(1.0, one.CLIP / norm),
                model_param=None if group.master is group.model else group.model,
            )
        collectives.all_reduce(sums, mesh.group("dp"))
        assert int(sums[2]) == expected.counts[step]
        loss, z_loss, _ = (sums / int(counted)).tolist()
        found.loss = max(found.loss, abs(loss - expected.losses[step]), abs(z_loss - expected.z_losses[step]))
        found.norm = max(found.norm, abs(norm - expected.norms[step]))
    found.weights = difference(flat, expected.final, [group.master for group in flat.groups])
    return flat, found


def difference(flat: FlatParameters, whole: dict[str, torch.Tensor], buffers: list[torch.Tensor]) -> float:
    """The largest difference between this rank's pieces in ``buffers`` and the whole tensors."""
    worst = 0.0
    names = set()
    for group, buffer in zip(flat.groups, buffers, strict=True):
        for entry in group.entries:
            names.add(entry.name)
            piece = whole[entry.name][entry.layout.index]
            if piece.numel():
                worst = max(worst, float((group.view(buffer, entry) - piece).abs().max()))
    assert names == whole.keys()
    return worst


def assert_copies_are_equal(flat: FlatParameters, mesh: Mesh) -> None:
    """Every piece is the same to the last bit on all ranks that hold it: over dp, and copies over tp."""
    for group in flat.groups:
        for entry in group.entries:
            piece = group.view(group.master, entry)
            assert_equal(piece, mesh.group("dp"))
            if entry.layout.copies == mesh.size("tp"):
                assert_equal(piece, mesh.group("tp"))
            elif entry.layout.copies > 1:
                assert_equal(piece, entry.layout.grad_group)


def assert_equal(piece: torch.Tensor, group: torch.distributed.ProcessGroup | None) -> None:
    first = collectives.broadcast(piece.clone(), group)
    assert torch.equal(piece, first)


def walk(world: World, references: dict[str, Reference]) -> dict[Case, Differences]:
    """All the cases of this world's size, one after the other."""
    results = {}
    meshes = {(dp, tp): make_mesh(world, dp=dp, tp=tp) for dp, tp in LAYOUTS[world.size]}
    for case in cases(world.size, tuple(references)):
        mesh = meshes[case.dp, case.tp]
        flat, results[case] = train(case, mesh, references[case.model], dtype=torch.float64)
        assert_copies_are_equal(flat, mesh)
    return results


@functools.cache
def references() -> dict[str, Reference]:
    return {name: one.train_on_one_process(config) for name, config in MODELS.items()}


def table(size: int, backend: str, models: Sequence[str]) -> dict[Case, Differences]:
    """The worst of all ranks, by case."""
    known = {name: references()[name] for name in models}
    ranks = run_ranks(walk, size, known, backend=backend, timeout=500)
    return {case: largest([rank[case] for rank in ranks]) for case in cases(size, models)}


def largest(found: Sequence[Differences]) -> Differences:
    return Differences(*(max(values) for values in zip(*(asdict(d).values() for d in found), strict=True)))


def line(case: Case, backend: str, found: Differences) -> str:
    values = (f"{value:.1e}" for value in asdict(found).values())
    sequence = "yes" if case.sequence else "no"
    return f"| {case.dp} | {case.tp} | {sequence} | {backend} | {case.model} | " + " | ".join(values) + " |"


def test_the_reference_runs_clip_some_steps_and_not_others() -> None:
    for name, run in references().items():
        assert min(run.norms) < one.CLIP < max(run.norms), name
        assert len(set(run.counts)) > 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", LAYOUTS)
def test_equals_one_process(size: int, backend: str) -> None:
    found = table(size, backend, TESTED[backend])
    for case, differences in found.items():
        print(line(case, backend, differences))
    wrong = [line(c, backend, d) for c, d in found.items() if not d.worst < TOLERANCE]
    assert not wrong, "\n".join(wrong)


def test_the_cases_are_those_that_were_promised() -> None:
    every = [case for size in LAYOUTS for case in cases(size, tuple(MODELS))]
    for dp, tp in [(1, 1), (2, 1), (1, 2), (2, 2), (1, 4), (4, 1)]:
        for sequence in (False, True) if tp > 1 else (False,):
            models = {c.model for c in every if (c.dp, c.tp, c.sequence) == (dp, tp, sequence)}
            assert models == MODELS.keys()


def summary() -> str:
    """The worst of every layout over the models, as a table in Markdown."""
    lines = [
        "| dp | tp | sequence | backend | models | loss | gradients | norm | weights after 10 steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size, backend in itertools.product(LAYOUTS, BACKENDS):
        found = table(size, backend, tuple(MODELS))
        for key in dict.fromkeys((c.dp, c.tp, c.sequence) for c in found):
            same = [d for c, d in found.items() if (c.dp, c.tp, c.sequence) == key]
            lines.append(line(Case(*key, str(len(same))), backend, largest(same)))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(summary() + "\n")
