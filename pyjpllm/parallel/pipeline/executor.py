"""Runs a schedule: this rank's row of the table, with the messages that it needs."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as dist

from pyjpllm.parallel.deferred import WeightGradients
from pyjpllm.parallel.pipeline.table import Action, Kind, Message, Schedule
from pyjpllm.parallel.pipeline.timeline import Event

AHEAD = 2
"""Receives that are posted before they are needed, so that a message travels while this rank computes."""


class Stages(Protocol):
    """What a rank computes; chunks are counted by depth over the whole model, micro-batches over the step."""

    def forward(self, chunk: int, micro_batch: int, x: Tensor | None) -> Tensor:
        """The output of a chunk, with autograd. x is the output of the chunk before, None for the first; the last chunk
        returns the scalar to be differentiated."""

    def receive_into(self, micro_batch: int) -> Tensor:
        """An empty tensor like what chunks send to each other of this micro-batch (gradients have the same shape)."""


Around = Callable[[int, bool], contextlib.AbstractContextManager[None]]


def run(
    schedule: Schedule,
    stages: Stages,
    group: dist.ProcessGroup | None,
    *,
    around: Around | None = None,
    record: list[Event] | None = None,
) -> None:
    """One step: every action of this rank's row. Afterwards each parameter has its gradient, summed over micro-batches.

    Where gradients are off, of a schedule that has forwards only, nothing is kept.

    Args:
        schedule: with as many ranks as ``group`` has.
        stages: this rank's part of the model and its micro-batches.
        group: the ranks of the pipeline, by place; None for a pipeline of one.
        around: called with a chunk, and whether it is the chunk's last, for each action that makes gradients, which
            then runs inside of what it returns.
        record: takes what this rank did when, in seconds of `time.monotonic`; waiting for messages is in no event.
    """
    size, rank = (1, 0) if group is None else (group.size(), group.rank())
    if schedule.ranks != size:
        raise ValueError(f"{schedule.name} is for {schedule.ranks} ranks, the pipeline has {size}")
    _Row(schedule, rank, stages, group, around, record).run()


class _Row:
    """The state of one rank in one step."""

    def __init__(
        self,
        schedule: Schedule,
        rank: int,
        stages: Stages,
        group: dist.ProcessGroup | None,
        around: Around | None,
        record: list[Event] | None,
    ) -> None:
        self.around, self.record = around, record
        self.schedule, self.row, self.stages, self.group = schedule, schedule.rows[rank], stages, group
        messages = list(schedule.messages())
        self.leaving = {message.made_by: message for message in messages if message.source == rank}
        arriving = {message.needed_by: message for message in messages if message.target == rank}
        self.expected = deque(arriving[action] for action in self.row if action in arriving)
        self.posted: deque[tuple[Message, Tensor, Any]] = deque()
        self.here: dict[tuple[bool, int, int], Tensor] = {}  # between chunks of this rank
        self.kept: dict[tuple[int, int], tuple[Tensor | None, Tensor]] = {}
        self.put_off: dict[tuple[int, int], WeightGradients] = {}
        self.sent: list[tuple[Any, Tensor]] = []
        self.split = {action[1:] for action in self.row if action.kind is Kind.B}
        self.ends = {action.chunk: action for action in self.row if action.kind is not Kind.F}

    def run(self) -> None:
        for action in self.row:
            while self.expected and len(self.posted) < AHEAD:
                self._post(self.expected.popleft())
            taken = self._take(action) if self._needs_data(action) else None
            start = time.monotonic()
            if action.kind is Kind.F:
                self._forward(action, taken)
            else:
                with self._around(action):
                    self._make_gradients(action, taken)
            end = time.monotonic()
            taken = None
            self.sent = [(work, data) for work, data in self.sent if not work.is_completed()]
            if self.record is not None:
                self.record.append(Event(action, start, end))
        for work, _ in self.sent:
            work.wait()

    def _needs_data(self, action: Action) -> bool:
        """Whether an action goes on with what another chunk has made: all but at the ends of the model."""
        if action.kind is Kind.F:
            return action.chunk > 0
        return action.kind is not Kind.W and action.chunk + 1 < self.schedule.chunks

    def _forward(self, action: Action, x: Tensor | None) -> None:
        _, chunk, micro_batch = action
        if x is not None and torch.is_grad_enabled():
            x.requires_grad_()
        with self._deferring(chunk, micro_batch):
            out = self.stages.forward(chunk, micro_batch, x)
        if torch.is_grad_enabled():
            self.kept[chunk, micro_batch] = x, out
        if chunk + 1 < self.schedule.chunks:
            self._give(action, chunk + 1, out.detach())

    def _around(self, action: Action) -> contextlib.AbstractContextManager[None]:
        if self.around is None:
            return contextlib.nullcontext()
        return self.around(action.chunk, self.ends[action.chunk] == action)

    def _make_gradients(self, action: Action, gradient: Tensor | None) -> None:
        kind, chunk, micro_batch = action
        if kind is Kind.W:
            self.put_off.pop((chunk, micro_batch)).make()
            return
        x, out = self.kept.pop((chunk, micro_batch))
        with self._deferring(chunk, micro_batch):
            torch.autograd.backward([out], None if gradient is None else [gradient])
        if x is not None:
            assert x.grad is not None
            self._give(action, chunk - 1, x.grad)

    @contextlib.contextmanager
    def _deferring(self, chunk: int, micro_batch: int) -> Iterator[None]:
        """Weight gradients are put off where the table has a W for them."""
        if (chunk, micro_batch) not in self.split:
            yield
            return
        with self.put_off.setdefault((chunk, micro_batch), WeightGradients()).put_off():
            yield

    def _give(self, action: Action, chunk: int, data: Tensor) -> None:
        """To the chunk that goes on with it: on another rank, or on this one."""
        message = self.leaving.get(action)
        if message is None:
            self.here[action.kind is Kind.F, chunk, action.micro_batch] = data
            return
        data = data.contiguous()
        work = dist.isend(data, group=self.group, group_dst=message.target, tag=self._tag(message))
        self.sent.append((work, data))

    def _take(self, action: Action) -> Tensor:
        """What was given to this action, once it is here."""
        local = self.here.pop((action.kind is Kind.F, action.chunk, action.micro_batch), None)
        if local is not None:
            return local
        if not self.posted:
            self._post(self.expected.popleft())
        message, data, work = self.posted.popleft()
        assert message.needed_by == action
        work.wait()
        return data

    def _post(self, message: Message) -> None:
        data = self.stages.receive_into(message.needed_by.micro_batch)
        work = dist.irecv(data, group=self.group, group_src=message.source, tag=self._tag(message))
        self.posted.append((message, data, work))

    def _tag(self, message: Message) -> int:
        kind, chunk, micro_batch = message.needed_by
        return (micro_batch * self.schedule.chunks + chunk) * 2 + (kind is Kind.F)
