"""ZeRO's messages: a bucket's gradients on their way to the ranks that step them, and the new values on their way back.

Rajbhandari et al., 2020, arXiv:1910.02054. Stage 0, where every rank steps all, is the case of a bucket that has no
``part``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed as dist
from torch import nn

from pyjpllm.distributed import collectives

if TYPE_CHECKING:
    from pyjpllm.parallel.flat import Bucket


class GradientSum:
    """The gradients of ``bucket`` on their way: after ``wait`` they are summed over ``group`` where they are stepped.

    Args:
        group: the replicas; None with one.
        dtype: a 16-bit type to send them in, or None for their own. Slices are then summed in their own type, in rank
            order; without ZeRO the sum travels in 16 bits as well.
    """

    def __init__(self, bucket: Bucket, group: dist.ProcessGroup | None, dtype: torch.dtype | None) -> None:
        self.bucket = bucket
        grad, part = bucket.grad, bucket.part
        bucket.drop_grad()
        self._sent = grad if dtype is None or group is None else grad.to(dtype)
        self._work: Any = None
        self._arrive: Callable[[], object] | None = None
        if part is None:
            self._work = collectives.all_reduce(self._sent, group, async_op=True)
            if self._sent is not grad:
                self._arrive = lambda: grad.copy_(self._sent)
            return
        total = part.grad
        put = total.add_ if bucket.group.zero == 2 else total.copy_
        if group is None:
            self._arrive = lambda: put(grad)
        elif self._sent is grad:
            mine, self._work = collectives.start_reduce_scatter(grad, group)
            self._arrive = lambda: put(mine)
        else:
            got = torch.empty_like(self._sent)
            self._work = collectives.start_all_to_all(got, self._sent, group)

            def sum_in_rank_order() -> None:
                first, *others = got.chunk(group.size())
                put(first)
                for piece in others:
                    total.add_(piece)

            self._arrive = sum_in_rank_order

    def wait(self) -> None:
        """Until this rank has what it steps."""
        if self._work is not None:
            self._work.wait()
        if self._arrive is not None:
            self._arrive()


class ValueGather:
    """The model's values on their way from the ranks that stepped them to all replicas, in the order of forward.

    Args:
        buckets: in the order of backward, each with the ranks that share its parts (None: this rank alone).
    """

    def __init__(self, buckets: Sequence[tuple[Bucket, dist.ProcessGroup | None]]) -> None:
        self._cut = [
            (bucket, group) for bucket, group in reversed(buckets) if bucket.part is not None and group is not None
        ]
        self._under_way: dict[int, Any] = {}
        self._hooks: list[Any] = []

    def start(self) -> None:
        """Send this rank's parts; until :meth:`wait`, or a hook of :meth:`overlap`, the others' values are old."""
        self.wait()
        for index, (bucket, group) in enumerate(self._cut):
            assert bucket.part is not None
            self._under_way[index] = collectives.start_all_gather(bucket.model, bucket.part.model, group)
        if not self._hooks:
            self.wait()

    def overlap(self, rooms: Iterable[tuple[nn.Module, Iterable[str]]]) -> None:
        """From now on :meth:`start` returns at once, and ``forward`` waits for what it reads.

        ``rooms``: modules, each with the names of the parameters that are read after its call begins and before the
        next one's.
        """
        indices = {entry.name: index for index, (bucket, _) in enumerate(self._cut) for entry in bucket.entries}
        for module, names in rooms:
            wanted = sorted({indices[name] for name in names if name in indices})
            if wanted:
                self._hooks.append(module.register_forward_pre_hook(self._hook(wanted)))

    def _hook(self, wanted: list[int]) -> Callable[[nn.Module, Any], None]:
        def wait(_module: nn.Module, _inputs: Any) -> None:
            self._wait_for(wanted)

        return wait

    def _wait_for(self, wanted: Iterable[int]) -> None:
        for index in wanted:
            work = self._under_way.pop(index, None)
            if work is not None:
                work.wait()

    def wait(self) -> None:
        """Until all values are there: before anything but ``forward`` reads them."""
        self._wait_for(list(self._under_way))

    def remove_hooks(self) -> None:
        """Wait, and let forward wait no longer."""
        self.wait()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
