"""Layouts: which sizes make up a world, where a rank stands, which ranks share a group."""

from __future__ import annotations

import datetime
import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.distributed import AXES, World, launch, make_mesh
from pyjpllm.distributed.mesh import JOINT_AXES, _sizes
from pyjpllm.errors import UserError
from tests.mpi import run_ranks

ALONE = World(0, 1, 0, 1, "mpi4py")


def test_a_world_of_one_has_no_groups():
    mesh = make_mesh(ALONE)
    assert mesh.device_mesh is None
    assert mesh.world_group is None
    for axis in AXES:
        assert mesh.group(axis) is None
        assert (mesh.rank(axis), mesh.size(axis), mesh.is_first(axis)) == (0, 1, True)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tp": 3}, "parallel.tensor = 3 does not divide the 8 ranks of this job; the nearest that does is 2"),
        ({"tp": 4, "pp": 4}, r"parallel.pipeline = 4 does not divide the 8 ranks .*\(beside 4 of other axes\).* is 2"),
        ({"cp": 5}, "parallel.context = 5 .* is 4"),
        ({"ep": 16}, "parallel.expert = 16 .* is 8"),
        ({"dp": 3}, r"parallel.data = 3: .* multiply to 3, this job has 8 ranks; the one that fits is 8 \(or -1"),
        ({"dp": 2, "tp": 2}, "parallel.data = 2: .* multiply to 4, .* is 4"),
        ({"tp": 0}, "parallel.tensor = 0: must be at least 1$"),
        ({"dp": 0}, "parallel.data = 0: must be at least 1, or -1"),
        ({"pp": -1}, "parallel.pipeline = -1: must be at least 1$"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, message):
    with pytest.raises(UserError, match=message):
        _sizes(8, {"dp": -1, "tp": 1, "pp": 1, "cp": 1, "ep": 1, **sizes})


@given(st.lists(st.integers(1, 4), min_size=5, max_size=5))
def test_any_sizes_make_up_their_product(values):
    asked = dict(zip(AXES, values, strict=True))
    world = math.prod(values)
    assert _sizes(world, asked) == asked
    assert _sizes(world, {**asked, "dp": -1}) == asked


def walk(world):
    """tp innermost: neighbours share a tp group; every axis's group differs from this rank in that axis only."""
    mesh = make_mesh(world, tp=2, pp=2)
    where = [None] * world.size
    dist.all_gather_object(where, mesh.coordinates)
    for axis in AXES:
        group = mesh.group(axis)
        assert (group is None) == (mesh.size(axis) == 1)
        if group is None:
            continue
        members = [None] * group.size()
        dist.all_gather_object(members, mesh.coordinates, group=group)
        assert [m[axis] for m in members] == list(range(mesh.size(axis)))
        assert all({**m, axis: 0} == {**mesh.coordinates, axis: 0} for m in members)
        assert group.rank() == mesh.rank(axis)
    assert mesh.device_mesh.mesh_dim_names == AXES
    assert mesh.device_mesh["tp"].size() == 2
    assert mesh.device_mesh.get_group("tp") is mesh.group("tp")
    assert mesh.world_group is dist.group.WORLD
    total = torch.ones(1)
    dist.all_reduce(total, group=mesh.device_mesh["pp"].get_group())
    assert total.item() == 2
    for sizes in ({"dp": 2, "ep": 2}, {"dp": 2, "cp": 2}, {"cp": 2, "ep": 2}, {"pp": 2, "ep": 2}):
        joint = make_mesh(world, **sizes)
        for name, parts in JOINT_AXES.items():
            size = math.prod(joint.size(axis) for axis in parts)
            assert joint.size(name) == size
            members = [None] * size
            if size == 1:
                assert joint.group(name) is None
                continue
            dist.all_gather_object(members, (joint.rank(name), joint.coordinates), group=joint.group(name))
            assert [rank for rank, _ in members] == list(range(size))
            others = [axis for axis in AXES if axis not in parts]
            assert all(place[axis] == joint.rank(axis) for _, place in members for axis in others)
    data = make_mesh(world)
    assert (data.size("dp"), data.rank("dp")) == (4, world.rank)
    return where


@pytest.mark.parametrize("backend", ["mpi4py", "gloo"])
def test_groups_on_four_ranks(backend):
    (where, *_) = run_ranks(walk, 4, backend=backend)
    assert [w["tp"] for w in where] == [0, 1, 0, 1]
    assert [w["pp"] for w in where] == [0, 0, 1, 1]


def time_limits(world):
    launch._timeout = datetime.timedelta(seconds=77)  # as init keeps it
    mesh = make_mesh(world, tp=2)
    return mesh.group("tp")._timeout_s


def test_groups_have_the_time_limit_of_the_world():
    assert run_ranks(time_limits, 2, fresh=True) == [77.0, 77.0]
