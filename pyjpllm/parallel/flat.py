"""Parameters in flat buffers: the model's values, their FP32 (FP64) master copy and gradient sum, and buckets of them.

One group decays (matrices), one does not (norms, biases); experts have groups of their own. In each, parameters lie in
reverse order of registration, so that backward completes a buffer roughly from its front, and a bucket is one
contiguous range.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from pyjpllm.parallel.layout import Layout, layout_of

ALIGNMENT_BYTES = 256
"""Every parameter starts at a multiple of this in its buffer: whole cache lines (256 bytes on A64FX) and vectors."""


class FlatEntry(NamedTuple):
    """One parameter's place: elements ``start`` to ``stop`` of each buffer of its group."""

    name: str
    param: nn.Parameter
    start: int
    stop: int
    layout: Layout


class FlatGroup:
    """Parameters of one kind in flat buffers of one length.

    Between the parameters lie a few elements of padding: zero in every buffer, and AdamW leaves them zero.

    Attributes:
        weight_decay: whether these parameters decay.
        replicas: the axis of the mesh along which ranks hold the same pieces, as their layouts say.
        model: values in the model's type; each ``param.data`` is a view into it.
        master: values in the master type; this very ``model`` when the types are equal.
        grad: the sum of gradients since ``zero_grad``, in the master type.
        entries: the parameters and their places, in the order of the buffer.
    """

    def __init__(
        self,
        named: list[tuple[str, nn.Parameter]],
        *,
        weight_decay: bool,
        master_dtype: torch.dtype,
        model_dtype: torch.dtype,
    ) -> None:
        self.weight_decay = weight_decay
        self.replicas = layout_of(named[0][1]).replicas
        first = named[0][1]
        align = max(1, ALIGNMENT_BYTES // max(model_dtype.itemsize, master_dtype.itemsize))
        self.entries: list[FlatEntry] = []
        end = 0
        for name, param in named:
            start = -(-end // align) * align
            end = start + param.numel()
            self.entries.append(FlatEntry(name, param, start, end, layout_of(param)))
        self.master = torch.zeros(end, dtype=master_dtype, device=first.device)
        self.model = self.master if model_dtype == master_dtype else self.master.to(model_dtype)
        with torch.no_grad():
            for entry in self.entries:
                # The master takes the parameter's exact value, the model's rounded one comes after.
                self.view(self.master, entry).copy_(entry.param)
                view = self.view(self.model, entry)
                view.copy_(entry.param)
                entry.param.data = view
        self.grad = torch.zeros(end, dtype=master_dtype, device=first.device)

    def view(self, buffer: torch.Tensor, entry: FlatEntry) -> torch.Tensor:
        """The piece of ``entry`` in a buffer of this group (``grad``, a moment), in the parameter's shape."""
        return buffer[entry.start : entry.stop].view(entry.param.shape)


class Bucket(NamedTuple):
    """A contiguous range of a group's gradients that travels as one message."""

    group: FlatGroup
    start: int
    stop: int
    entries: tuple[FlatEntry, ...]

    @property
    def grad(self) -> torch.Tensor:
        """The range of the group's gradient buffer."""
        return self.group.grad[self.start : self.stop]

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
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        master_dtype: torch.dtype = torch.float32,
        model_dtype: torch.dtype | None = None,
        bucket_bytes: float = 25 * 2**20,
    ) -> None:
        registered: dict[nn.Parameter, str] = {}
        for name, param in named_parameters:
            if param.requires_grad:
                registered.setdefault(param, name)
        if not registered:
            raise ValueError("no parameter needs a gradient")
        kinds = {(param.dtype, param.device) for param in registered}
        if len(kinds) > 1:
            raise ValueError(f"parameters are of several types or devices: {sorted(map(str, kinds))}")
        own_dtype = next(iter(registered)).dtype
        reverse = [(name, param) for param, name in reversed(registered.items())]
        order = {name: index for index, (name, _) in enumerate(reverse)}
        self.groups: list[FlatGroup] = []
        for replicas, decays in itertools.product(("replicas", "expert_replicas"), (True, False)):
            named = [
                (name, param)
                for name, param in reverse
                if layout_of(param).replicas == replicas and (len(layout_of(param).global_shape) >= 2) == decays
            ]
            if named:
                self.groups.append(
                    FlatGroup(
                        named,
                        weight_decay=decays,
                        master_dtype=master_dtype,
                        model_dtype=own_dtype if model_dtype is None else model_dtype,
                    )
                )
        buckets = [bucket for group in self.groups for bucket in _cut(group, bucket_bytes)]
        # By the parameter that backward is expected to complete last: the order in which they will fill.
        self.buckets: tuple[Bucket, ...] = tuple(sorted(buckets, key=lambda b: order[b.entries[-1].name]))
        self._listener: Callable[[FlatEntry], None] | None = None
        self._hooks = [
            entry.param.register_post_accumulate_grad_hook(self._hook(group, entry))  # type: ignore[no-untyped-call]
            for group in self.groups
            for entry in group.entries
        ]

    def _hook(self, group: FlatGroup, entry: FlatEntry) -> Callable[[torch.Tensor], None]:
        view = group.view(group.grad, entry)

        def add(param: torch.Tensor) -> None:
            assert param.grad is not None
            view.add_(param.grad)
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
                group.model.copy_(group.master)

    def model_to_master(self) -> None:
        """Write the master's values from the model's (after weights were read into the model)."""
        for group in self.groups:
            if group.master is not group.model:
                group.master.copy_(group.model)

    def remove_hooks(self) -> None:
        """Let go of the parameters' gradients: backward leaves them in ``param.grad`` again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _cut(group: FlatGroup, bucket_bytes: float) -> Iterator[Bucket]:
    """The group's buckets: each is closed by the parameter that brings it to ``bucket_bytes``."""
    limit = bucket_bytes / group.grad.element_size()
    entries: list[FlatEntry] = []
    for entry in group.entries:
        entries.append(entry)
        if entry.stop - entries[0].start >= limit:
            yield Bucket(group, entries[0].start, entry.stop, tuple(entries))
            entries = []
    if entries:
        yield Bucket(group, entries[0].start, entries[-1].stop, tuple(entries))
