"""Parameters in flat buffers: the model's values, their FP32 (FP64) master copy and gradient sum, and buckets of them.

One group decays (matrices), one does not (norms, biases); experts, and parameters whose gradients are summed over other
ranks first, have groups of their own. In each, parameters lie in reverse order of registration, so that backward
completes a buffer roughly from its front, and a bucket is one contiguous range. With ZeRO every bucket is cut into as
many slices as there are replicas, and a rank keeps master values and optimizer state of its slices alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from pyjpllm.distributed import Mesh
from pyjpllm.parallel.layout import Layout, layout_of
from pyjpllm.parallel.zero import ValueGather

ALIGNMENT_BYTES = 256
"""Every parameter starts at a multiple of this in its buffer: whole cache lines (256 bytes on A64FX) and vectors."""


class FlatEntry(NamedTuple):
    """One parameter's place: elements ``start`` to ``stop`` of each buffer of its group."""

    name: str
    param: Tensor
    start: int
    stop: int
    layout: Layout


class Part(NamedTuple):
    """Elements ``start`` to ``stop`` of a group, which this rank steps: the whole of it, or its slice of a bucket.

    Attributes:
        entries: parameters, those that have elements in this range among them.
        master: their values in the master type.
        grad: the sum of their gradients, over all ranks after ``DataParallel.finish``.
        model: their values in the model's type; ``master`` itself when the types are equal.
    """

    start: int
    stop: int
    entries: Sequence[FlatEntry]
    master: Tensor
    grad: Tensor
    model: Tensor

    def overlaps(self) -> Iterator[tuple[FlatEntry, int, int]]:
        """The parameters that have elements in this part, each with the range of them in the group's buffers."""
        for entry in self.entries:
            start, stop = max(self.start, entry.start), min(self.stop, entry.stop)
            if start < stop:
                yield entry, start, stop


class Group(Protocol):
    """Parameters that are stepped alike: `FlatGroup`, `ShardedGroup`."""

    weight_decay: bool
    replicas: str

    @property
    def parts(self) -> Sequence[Part]: ...


class Parameters(Protocol):
    """What the optimizer and checkpoints know of a rank's parameters: `FlatParameters`, `ShardedParameters`.

    Attributes:
        zero: the stage of ZeRO.
        values: the model's values on their way after a step.
    """

    @property
    def zero(self) -> int: ...
    @property
    def groups(self) -> Sequence[Group]: ...
    @property
    def values(self) -> ValueGather: ...
    @property
    def device(self) -> torch.device: ...
    def entries(self) -> Iterator[tuple[Group, FlatEntry]]: ...
    def zero_grad(self) -> None: ...
    def master_to_model(self) -> None: ...
    def remove_hooks(self) -> None: ...


class FlatGroup:
    """Parameters of one kind in flat buffers of one length.

    Between the parameters lie a few elements of padding: zero in every buffer, and AdamW leaves them zero.

    Attributes:
        weight_decay: whether these parameters decay.
        replicas: the axis of the mesh along which ranks hold the same pieces, as their layouts say.
        grad_group: the ranks whose gradients are summed before those of the replicas, as their layouts say.
        zero: the stage of ZeRO; at most 1 where there is a ``grad_group``. From 2 on ``grad`` holds the rank's slices
            alone.
        model: values in the model's type; each ``param.data`` is a view into it.
        master: values in the master type: ``model`` itself when the types are equal; with ZeRO the rank's slices alone
            are kept up to date, and where the types differ it holds nothing else.
        grad: the sum of gradients since ``zero_grad``, in the master type.
        entries: the parameters and their places, in the order of the buffer.
        buckets: contiguous ranges that cover it.
        parts: what this rank steps.
    """

    def __init__(
        self,
        named: list[tuple[str, nn.Parameter]],
        *,
        weight_decay: bool,
        master_dtype: torch.dtype,
        model_dtype: torch.dtype,
        bucket_bytes: float,
        zero: int = 0,
        shards: int = 1,
        shard: int = 0,
    ) -> None:
        first = named[0][1]
        self.weight_decay = weight_decay
        self.replicas: str = layout_of(first).replicas
        self.grad_group = layout_of(first).grad_group
        self.zero = zero if self.grad_group is None else min(zero, 1)
        align = max(1, ALIGNMENT_BYTES // max(model_dtype.itemsize, master_dtype.itemsize))
        self.entries: list[FlatEntry] = []
        self.buckets: list[Bucket] = []
        end, opened = 0, 0
        for index, (name, param) in enumerate(named):
            start = -(-end // align) * align
            end = start + param.numel()
            self.entries.append(FlatEntry(name, param, start, end, layout_of(param)))
            inside = self.entries[opened:]
            if (end - inside[0].start) * master_dtype.itemsize >= bucket_bytes or index == len(named) - 1:
                if zero:  # slices of one length, each from a multiple of the alignment on
                    unit = align * shards
                    end = inside[0].start + -(-(end - inside[0].start) // unit) * unit
                self.buckets.append(Bucket(self, inside[0].start, end, tuple(inside)))
                opened = index + 1
        own: list[tuple[tuple[int, int], Sequence[FlatEntry]]] = [((0, end), self.entries)]
        if zero:
            own = [(bucket.slice_of(shard, shards), bucket.entries) for bucket in self.buckets]
        owned = sum(stop - start for (start, stop), _ in own)

        def zeros(numel: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(numel, dtype=dtype, device=first.device)

        self.model = zeros(end, model_dtype)
        self.master = self.model if model_dtype == master_dtype else zeros(owned, master_dtype)
        self.grad = zeros(owned if self.zero == 2 else end, master_dtype)
        self.parts: list[Part] = []
        place = 0
        for (start, stop), entries in own:
            # Where a buffer holds the rank's slices alone, they lie one behind the other.
            packed = slice(place, place + stop - start)
            place = packed.stop
            master = self.master[slice(start, stop) if self.master is self.model else packed]
            grad = self.grad[packed if self.zero == 2 else slice(start, stop)]
            model = master if self.master is self.model else self.model[start:stop]
            self.parts.append(Part(start, stop, entries, master, grad, model))
        if zero:
            for bucket, part in zip(self.buckets, self.parts, strict=True):
                bucket.part = part
        with torch.no_grad():
            if self.master is not self.model:
                # The master takes the parameters' exact values, the model's rounded ones come after.
                for part in self.parts:
                    for entry, start, stop in part.overlaps():
                        values = entry.param.reshape(-1)[start - entry.start : stop - entry.start]
                        part.master[start - part.start : stop - part.start].copy_(values)
            for entry in self.entries:
                view = self.view(self.model, entry)
                view.copy_(entry.param)
                entry.param.data = view

    def view(self, buffer: Tensor, entry: FlatEntry) -> Tensor:
        """The piece of ``entry`` in a whole buffer of this group (``grad``, a moment), in the parameter's shape."""
        return buffer[entry.start : entry.stop].view(entry.param.shape)


class Bucket:
    """A contiguous range of a group's gradients that travels as one message.

    Attributes:
        part: with ZeRO this rank's slice of it.
    """

    def __init__(self, group: FlatGroup, start: int, stop: int, entries: tuple[FlatEntry, ...]) -> None:
        self.group, self.start, self.stop, self.entries = group, start, stop, entries
        self.part: Part | None = None
        self._temporary: Tensor | None = None

    def slice_of(self, shard: int, shards: int) -> tuple[int, int]:
        """The range in the group's buffers of one of ``shards`` slices of one length."""
        length = (self.stop - self.start) // shards
        return self.start + shard * length, self.start + (shard + 1) * length

    @property
    def grad(self) -> Tensor:
        """The bucket's gradients: a range of the group's buffer; from ZeRO-2 on a buffer made when it is asked for."""
        if self.group.zero < 2:
            return self.group.grad[self.start : self.stop]
        if self._temporary is None:
            self._temporary = self.group.grad.new_zeros(self.stop - self.start)
        return self._temporary

    def drop_grad(self) -> None:
        """Let go of a buffer of the bucket's own."""
        self._temporary = None

    @property
    def model(self) -> Tensor:
        """The bucket's values in the model's type."""
        return self.group.model[self.start : self.stop]

    def __str__(self) -> str:
        first, last = self.entries[0].name, self.entries[-1].name
        return first if first == last else f"{first} .. {last}"


class FlatParameters:
    """All parameters of a model in flat buffers, their gradients summed in the master type as backward makes them.

    A hook adds each ``param.grad`` to the flat sum and drops it, so 16-bit gradients take no memory after use. A
    parameter used twice (tied embeddings) is held once.

    Args:
        named_parameters: ``model.named_parameters()``; all of one dtype and device. Parameters that need no gradient
            are left out.
        master_dtype: type of master values and gradient sums: FP32, or FP64 for an FP64 model.
        model_dtype: type the parameters are turned into; None keeps the one they have. A model built in FP32 and
            turned into BF16 here keeps the exact FP32 values in its master.
        bucket_bytes: a bucket is closed when its gradients reach this size.
        mesh: the ranks; None with one.
        zero: the stage of ZeRO (Rajbhandari et al., 2020, arXiv:1910.02054): with 1 a rank keeps master values and
            optimizer state of 1 / replicas of the elements, with 2 also their gradient sum alone.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        master_dtype: torch.dtype = torch.float32,
        model_dtype: torch.dtype | None = None,
        bucket_bytes: float = 25 * 2**20,
        mesh: Mesh | None = None,
        zero: int = 0,
    ) -> None:
        registered: dict[nn.Parameter, str] = {}
        for name, param in named_parameters:
            if param.requires_grad:
                registered.setdefault(param, name)
        if not registered:
            raise ValueError("no parameter needs a gradient")
        dtypes = {(param.dtype, param.device) for param in registered}
        if len(dtypes) > 1:
            raise ValueError(f"parameters are of several types or devices: {sorted(map(str, dtypes))}")
        own_dtype = next(iter(registered)).dtype
        reverse = [(name, param) for param, name in reversed(registered.items())]
        order = {name: index for index, (name, _) in enumerate(reverse)}
        kinds: dict[tuple[dist.ProcessGroup | None, str, bool], list[tuple[str, nn.Parameter]]] = {}
        for name, param in reverse:
            layout = layout_of(param)
            kind = (layout.grad_group, layout.replicas, len(layout.global_shape) >= 2)
            kinds.setdefault(kind, []).append((name, param))
        self.zero = zero
        self.groups = [
            FlatGroup(
                named,
                weight_decay=decays,
                master_dtype=master_dtype,
                model_dtype=own_dtype if model_dtype is None else model_dtype,
                bucket_bytes=bucket_bytes,
                zero=zero,
                shards=1 if mesh is None else mesh.size(replicas),
                shard=0 if mesh is None else mesh.rank(replicas),
            )
            # Matrices before vectors, experts after others, what is summed over other ranks first at the end.
            for (_, replicas, decays), named in sorted(
                kinds.items(), key=lambda kind: (kind[0][0] is not None, kind[0][1] != "replicas", not kind[0][2])
            )
        ]
        buckets = [bucket for group in self.groups for bucket in group.buckets]
        # By the parameter that backward is expected to complete last: the order in which they will fill. Those that
        # other ranks' gradients are to be added to first can't leave before backward ends.
        self.buckets: tuple[Bucket, ...] = tuple(
            sorted(buckets, key=lambda b: (b.group.grad_group is not None, order[b.entries[-1].name]))
        )
        self.values = ValueGather(
            [(bucket, None if mesh is None else mesh.group(bucket.group.replicas)) for bucket in self.buckets]
        )
        self._listener: Callable[[FlatEntry], None] | None = None
        self._hooks = [
            entry.param.register_post_accumulate_grad_hook(self._hook(bucket, entry))  # type: ignore[no-untyped-call]
            for bucket in self.buckets
            for entry in bucket.entries
        ]

    def _hook(self, bucket: Bucket, entry: FlatEntry) -> Callable[[Tensor], None]:
        place = slice(entry.start - bucket.start, entry.stop - bucket.start)

        def add(param: Tensor) -> None:
            assert param.grad is not None
            bucket.grad[place].view(param.shape).add_(param.grad)
            param.grad = None
            if self._listener is not None:
                self._listener(entry)

        return add

    def listen(self, listener: Callable[[FlatEntry], None] | None) -> None:
        """Call ``listener(entry)`` whenever a parameter's gradient of one backward has been added to the sum."""
        self._listener = listener

    def entries(self) -> Iterator[tuple[FlatGroup, FlatEntry]]:
        """Every parameter with its group."""
        for group in self.groups:
            for entry in group.entries:
                yield group, entry

    @property
    def device(self) -> torch.device:
        """Where the buffers are."""
        return self.groups[0].grad.device

    def zero_grad(self) -> None:
        """Start the gradient sums anew."""
        for group in self.groups:
            group.grad.zero_()

    def master_to_model(self) -> None:
        """Write the model's values from the master's (after a checkpoint was read into the master)."""
        for group in self.groups:
            if group.master is not group.model:
                for part in group.parts:
                    part.model.copy_(part.master)
        self.values.start()
        self.values.wait()

    def model_to_master(self) -> None:
        """Write the master's values from the model's (after weights were read into the model)."""
        for group in self.groups:
            if group.master is not group.model:
                for part in group.parts:
                    part.master.copy_(part.model)

    def remove_hooks(self) -> None:
        """Let go of the parameters' gradients: backward leaves them in ``param.grad`` again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.values.remove_hooks()
