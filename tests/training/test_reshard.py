"""A checkpoint of any layout is read on any other: the same bits of weights and optimizer state, for every pair.

Every element of the state has a value of its own, known from its name and place, so that each rank can say alone
whether it has read what it should. Another form of parallelism is another line of `LAYOUTS`.
"""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from pyjpllm.config.schema import ModelConfig, MoEConfig, OptimizerConfig
from pyjpllm.distributed import Mesh, World, make_mesh
from pyjpllm.distributed.mesh import AXES
from pyjpllm.model import Transformer
from pyjpllm.parallel import ExpertParallel, FlatParameters, TensorParallel
from pyjpllm.parallel.pipeline import named, parts_of, tied_group
from pyjpllm.parallel.sharded import ShardedParameters
from pyjpllm.training import checkpoint
from pyjpllm.training.manifest import Manifest
from pyjpllm.training.optimizer import AdamW
from tests.mpi import run_ranks
from tests.parallel.reference import MODELS
from tests.parallel.test_equality import ALONE


class Shape(NamedTuple):
    """Sizes of the axes, and what else decides who has what."""

    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    tp: int = 1
    sequence: bool = False
    zero: int = 0


# On one rank or on four.
LAYOUTS = {
    "dense": [
        Shape(),
        Shape(zero=1),
        Shape(dp=4, zero=1),
        Shape(dp=2, tp=2, sequence=True, zero=2),
        Shape(tp=4, sequence=True),
        Shape(dp=2, cp=2, zero=2),
        Shape(pp=2, dp=2, zero=1),
        Shape(pp=2, tp=2),
        Shape(dp=2, tp=2, sequence=True, zero=3),
    ],
    "experts": [
        Shape(),
        Shape(dp=2, ep=2, zero=1),
        Shape(ep=2, tp=2, zero=2),
        Shape(ep=4),
        Shape(pp=2, ep=2, zero=1),
        Shape(dp=2, ep=2, zero=3),
    ],
}
DENSE = MODELS["2 kv heads, qk-norm, tied"]
EXPERTS = MoEConfig(num_experts=4, experts_per_token=2, intermediate_size=5, shared_size=6)


def config_of(kind: str) -> ModelConfig:
    return DENSE if kind == "dense" else DENSE.model_copy(update={"moe": EXPERTS})


def build(kind: str, shape: Shape, mesh: Mesh, dtype: torch.dtype) -> AdamW:
    config = config_of(kind)
    parts, group = None, None
    if shape.pp > 1:
        schedule = named("1f1b", shape.pp, shape.pp)
        parts = [parts_of([1] * config.num_layers)[mesh.rank("pp")]]
        group = tied_group(schedule, mesh)
    tp, ep = TensorParallel.from_mesh(mesh, shape.sequence), ExpertParallel.from_mesh(mesh)
    if shape.zero == 3:
        cpu = torch.device("cpu")
        empty = Transformer(config, tp=tp, ep=ep, device="meta")
        return AdamW(ShardedParameters(empty, mesh, cpu, dtype=dtype), OptimizerConfig())
    model = Transformer(config, tp=tp, ep=ep, parts=parts, tied_group=group)
    flat = FlatParameters(model.named_parameters(), model_dtype=dtype, bucket_bytes=4000, mesh=mesh, zero=shape.zero)
    return AdamW(flat, OptimizerConfig())


def value(kind: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The whole tensor that ``kind`` of ``name`` is."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{kind}/{name}".encode()))
    return torch.randn(shape, generator=generator)


def save(kind: str, shape: Shape, mesh: Mesh, folder: Path, index: int) -> None:
    optimizer = build(kind, shape, mesh, torch.float32)
    for piece in optimizer.pieces():
        for state, tensor in piece.tensors.items():
            tensor.copy_(value(state, piece.name, piece.layout.global_shape)[piece.layout.index])
    written = checkpoint.save(
        folder, index + 1, optimizer, mesh, state={"index": index}, config={}, keep_last=99, keep_every=0
    )
    if mesh.world_group is None or mesh.world_group.rank() == 0:
        manifest = Manifest.read(written)
        for name, tensor in manifest.tensors.items():  # each element once
            assert sum(volume(piece.slices) for piece in tensor.pieces) == volume([(0, n) for n in tensor.shape]), name


def volume(slices: object) -> int:
    size = 1
    for start, stop in slices:  # type: ignore[attr-defined]
        size *= stop - start
    return size


def load(kind: str, shape: Shape, mesh: Mesh, folder: Path) -> int:
    """Read every checkpoint of ``folder``; how many there were."""
    found = sorted((folder / "checkpoints").iterdir())
    for path in found:
        optimizer = build(kind, shape, mesh, torch.bfloat16)
        assert checkpoint.load(path, optimizer, mesh).step == int(path.name.removeprefix("step-"))
        for piece in optimizer.pieces():
            for state, tensor in piece.tensors.items():
                expected = value(state, piece.name, piece.layout.global_shape)[piece.layout.index]
                assert torch.equal(tensor, expected), (path, piece.name, state)
        for _, entry in optimizer.flat.entries() if shape.zero < 3 else ():  # whose model has no values of its own
            expected = value("master", entry.name, entry.layout.global_shape)[entry.layout.index]
            assert torch.equal(entry.param, expected.bfloat16()), (path, entry.name)
        optimizer.flat.remove_hooks()
    return len(found)


def walk(world: World, kinds: dict[str, str], saves: bool) -> dict[str, list[int]]:
    """All layouts of this many ranks, by kind of model: save each, or load all with each."""
    read = {}
    for kind, folder in kinds.items():
        here = [(i, shape) for i, shape in enumerate(LAYOUTS[kind]) if shape_size(shape) == world.size]
        meshes = {
            shape: make_mesh(world, pp=shape.pp, dp=shape.dp, cp=shape.cp, ep=shape.ep, tp=shape.tp)
            for _, shape in here
        }
        if saves:
            for index, shape in here:
                save(kind, shape, meshes[shape], Path(folder), index)
        else:
            read[kind] = [load(kind, shape, meshes[shape], Path(folder)) for _, shape in here]
    return read


def walk_twice(world: World, kinds: dict[str, str]) -> dict[str, list[int]]:
    walk(world, kinds, saves=True)
    return walk(world, kinds, saves=False)


def shape_size(shape: Shape) -> int:
    return shape.pp * shape.dp * shape.cp * shape.ep * shape.tp


@pytest.mark.parametrize("backend", ["mpi4py", "gloo"])
def test_every_pair(backend: str, tmp_path: Path) -> None:
    kinds = {kind: str(tmp_path / kind) for kind in LAYOUTS}
    walk(ALONE, kinds, saves=True)
    four = run_ranks(walk_twice, 4, kinds, backend=backend)[0]
    alone = walk(ALONE, kinds, saves=False)
    assert {kind: four[kind] + alone[kind] for kind in kinds} == {
        kind: [len(shapes)] * len(shapes) for kind, shapes in LAYOUTS.items()
    }


def in_words(shape: Shape) -> str:
    sizes = [f"{axis} {size}" for axis, size in shape._asdict().items() if axis in AXES and size > 1]
    return ", ".join([*sizes, *(["sequence"] if shape.sequence else []), f"zero {shape.zero}"])


def test_all_forms_are_among_the_pairs() -> None:
    """Every form is saved from and loaded on; `pytest -s` prints the pairs."""
    pairs = {kind: list(itertools.product(shapes, shapes)) for kind, shapes in LAYOUTS.items()}
    for kind, both in pairs.items():
        for saved, loaded in both:
            print(f"{kind}: {in_words(saved)} -> {in_words(loaded)}")
    assert len(pairs["dense"]) + len(pairs["experts"]) >= 100
    assert len(pairs["experts"]) >= 30
    for side in (0, 1):
        shapes = [pair[side] for both in pairs.values() for pair in both]
        assert {shape.zero for shape in shapes} == {0, 1, 2, 3}
        assert all(any(getattr(shape, axis) > 1 for shape in shapes) for axis in AXES)
        assert {shape.zero for shape in LAYOUTS["experts"] if shape.ep > 1} == {0, 1, 2, 3}
