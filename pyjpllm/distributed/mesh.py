"""The one mesh of ranks: axes pp, dp, cp, ep, tp, with tp innermost (neighbouring ranks, inside a node).

Ranks along ep have micro-batches of their own, as those along dp have; ranks along cp share sequences. So some things
concern several axes together, which have a name as well (`JOINT_AXES`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from pyjpllm.distributed.launch import World, new_group
from pyjpllm.errors import UserError, nearest_divisor

AXES = ("pp", "dp", "cp", "ep", "tp")
JOINT_AXES = {
    # Ranks that read different samples.
    "batch": ("dp", "ep"),
    # Ranks that hold the same piece of a parameter and see different tokens: its gradient is their sum.
    "replicas": ("dp", "cp", "ep"),
    # The same of an expert's parameters, which are split over ep.
    "expert_replicas": ("dp", "cp"),
}
# The name a user writes in [parallel] for each axis.
FIELD_OF_AXIS = {"pp": "pipeline", "dp": "data", "cp": "context", "ep": "expert", "tp": "tensor"}


@dataclass(frozen=True)
class Mesh:
    """Sizes, this process's coordinates, and one process group an axis; an axis may be one of `JOINT_AXES`.

    ``device_mesh`` is torch's view of the same thing (None in a world of one). ``ranks_per_node``: how many ranks of
    the job are on this rank's node.
    """

    sizes: dict[str, int]
    coordinates: dict[str, int]
    device_mesh: DeviceMesh | None
    world_group: dist.ProcessGroup | None
    _groups: dict[str, dist.ProcessGroup] = field(default_factory=dict, repr=False)
    ranks_per_node: int = 1

    def group(self, axis: str) -> dist.ProcessGroup | None:
        """The ranks that differ from this one in ``axis`` only, or None when the axis has size 1."""
        return self._groups.get(axis) if self.size(axis) > 1 else None

    def along(self, axis: str) -> DeviceMesh:
        """torch's one-dimensional view of ``axis``, also where it has one rank; not in a world of one."""
        if self.device_mesh is None:
            raise ValueError("a world of one has no process groups")
        return DeviceMesh.from_group(self._groups[axis], self.device_mesh.device_type)

    def rank(self, axis: str) -> int:
        """This process's place along ``axis``; of a joint one the last of its axes counts fastest."""
        place = 0
        for part in JOINT_AXES.get(axis, (axis,)):
            place = place * self.sizes[part] + self.coordinates[part]
        return place

    def size(self, axis: str) -> int:
        """How many ranks ``axis`` has."""
        return math.prod(self.sizes[part] for part in JOINT_AXES.get(axis, (axis,)))

    def is_first(self, axis: str) -> bool:
        """Whether this process is at place 0 along ``axis``."""
        return self.rank(axis) == 0


def make_mesh(world: World, *, dp: int = -1, tp: int = 1, pp: int = 1, cp: int = 1, ep: int = 1) -> Mesh:
    """Lay ``world`` out as pp x dp x cp x ep x tp ranks; ``dp=-1`` takes what the others leave.

    Collective over all ranks. Raises ``UserError`` naming the field when the sizes do not make up the world.
    """
    sizes = _sizes(world.size, {"pp": pp, "dp": dp, "cp": cp, "ep": ep, "tp": tp})
    coordinates: dict[str, int] = {}
    rest = world.rank
    for axis in reversed(AXES):
        rest, coordinates[axis] = divmod(rest, sizes[axis])
    if world.size == 1:
        return Mesh(sizes, coordinates, None, None)
    ranks = torch.arange(world.size, dtype=torch.int).view([sizes[axis] for axis in AXES])
    groups = {axis: _group(ranks, axis, (axis,), coordinates) for axis in AXES}
    device = "cuda" if world.backend == "nccl" else "cpu"
    device_mesh = DeviceMesh.from_group(list(groups.values()), device, mesh=ranks, mesh_dim_names=AXES)
    made = dict(groups)
    for name, parts in JOINT_AXES.items():
        same = next((group for other, group in made.items() if _split(other, sizes) == _split(name, sizes)), None)
        made[name] = _group(ranks, name, parts, coordinates) if same is None else same
    return Mesh(sizes, coordinates, device_mesh, dist.group.WORLD, made, world.local_size)


def _split(name: str, sizes: dict[str, int]) -> tuple[str, ...]:
    """The axes of a name that have more than one rank."""
    return tuple(axis for axis in JOINT_AXES.get(name, (name,)) if sizes[axis] > 1)


def _group(ranks: torch.Tensor, name: str, axes: tuple[str, ...], coordinates: dict[str, int]) -> dist.ProcessGroup:
    """The group of this process along ``axes``; only its members take part, whatever the size of the world."""
    index = tuple(slice(None) if axis in axes else coordinates[axis] for axis in AXES)
    members: list[int] = ranks[index].flatten().tolist()
    return new_group(members, f"mesh_{name}")


def _sizes(world_size: int, asked: dict[str, int]) -> dict[str, int]:
    for axis, size in asked.items():
        if size < 1 and not (axis == "dp" and size == -1):
            raise UserError(
                f"parallel.{FIELD_OF_AXIS[axis]} = {size}: must be at least 1" + (", or -1" * (axis == "dp"))
            )
    left = world_size
    for axis in ("tp", "pp", "cp", "ep"):  # the innermost first: it is the one to blame last
        if left % asked[axis]:
            others = world_size // left
            beside = f" (beside {others} of other axes)" if others > 1 else ""
            raise UserError(
                f"parallel.{FIELD_OF_AXIS[axis]} = {asked[axis]} does not divide the {world_size} ranks of this job"
                f"{beside}; the nearest that does is {nearest_divisor(asked[axis], left)}"
            )
        left //= asked[axis]
    sizes = dict(asked)
    if asked["dp"] == -1:
        sizes["dp"] = left
    elif asked["dp"] != left:
        product = math.prod(asked.values())
        raise UserError(
            f"parallel.data = {asked['dp']}: the parallel sizes multiply to {product}, this job has {world_size} "
            f"ranks; the one that fits is {left} (or -1, which takes what the others leave)"
        )
    return sizes
