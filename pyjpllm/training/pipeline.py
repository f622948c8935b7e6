"""A pipeline in training: which layers each rank holds, and a step's, an evaluation's, a text's way through them.

B micro-batch, S sequence, n this rank's tokens of a micro-batch, D model width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist

from pyjpllm.config.schema import Config, ModelConfig
from pyjpllm.data.batch import Batch
from pyjpllm.distributed import collectives
from pyjpllm.distributed.agreement import on_first_rank
from pyjpllm.distributed.mesh import Mesh
from pyjpllm.errors import UserError
from pyjpllm.model import KVCache, Transformer, head_in_layers
from pyjpllm.parallel import DataParallel, split_sizes
from pyjpllm.parallel.pipeline import (
    Costs,
    Event,
    Kind,
    Part,
    Schedule,
    balanced,
    forward_only,
    named,
    parts_of,
    run,
    search,
    tied_group,
    v_shape,
)
from pyjpllm.training.metrics import Timers
from pyjpllm.training.step import Sums

if TYPE_CHECKING:
    from pyjpllm.parallel.sharded import ShardedDataParallel


@dataclass(frozen=True)
class Pipeline:
    """The chunks of the model over the ranks of ``mesh``'s pp axis, and the order in which they are computed.

    Attributes:
        schedule: of a step's micro-batches.
        parts: the layers of each chunk, by depth.
        tied_group: see `Transformer`.
        events: what this rank did in the last step.
    """

    schedule: Schedule
    parts: tuple[Part, ...]
    mesh: Mesh
    tied_group: dist.ProcessGroup | None
    events: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, config: Config, mesh: Mesh) -> Pipeline | None:
        """As ``config`` says; None where one rank holds all layers. Collective over all ranks.

        Raises UserError where a rank would have no part of the model.
        """
        if mesh.size("pp") == 1:
            return None
        train = config.train
        micro_batches = train.global_batch // mesh.size("batch") // train.micro_batch
        # A search takes seconds; and whatever it finds must be the same table everywhere.
        schedule = on_first_rank(lambda: schedule_of(config, mesh.size("pp"), micro_batches), mesh.world_group)
        parts = parts_for(config, schedule)
        return cls(schedule, parts, mesh, tied_group(schedule, mesh) if config.model.tie_embeddings else None)

    @property
    def mine(self) -> tuple[Part, ...]:
        """This rank's parts of the model, by depth."""
        return tuple(self.parts[chunk] for chunk in self.schedule.chunks_of(self.mesh.rank("pp")))

    @property
    def has_end(self) -> bool:
        """Whether this rank makes the loss."""
        return self.mine[-1].last

    def names(self, model: Transformer) -> dict[int, set[str]]:
        """By chunk of this rank, the parameters whose gradients are whole when the chunk's are."""
        row = self.schedule.rows[self.mesh.rank("pp")]
        ends = list(dict.fromkeys(action.chunk for action in reversed(row) if action.kind is not Kind.F))
        names: dict[int, set[str]] = {}
        for chunk in ends:  # the one that ends last first: a tied embedding is whole with it
            taken: set[str] = set().union(*names.values())
            names[chunk] = model.names_of(self.parts[chunk]) - taken
        return names

    def accumulate_gradients(
        self,
        model: Transformer,
        data_parallel: DataParallel | ShardedDataParallel,
        batches: Sequence[Batch],
        *,
        count: Tensor,
        z_loss: float,
        timers: Timers,
        loss_scale: float = 1.0,
    ) -> Sums:
        """As `pyjpllm.training.step.accumulate_gradients`; the sums are zero on ranks that make no loss."""
        stages = _Stages(model, self.parts, batches, count.device, z_loss, loss_scale / count)
        names = self.names(model)
        self.events.clear()
        start = time.monotonic()
        run(
            self.schedule,
            stages,
            self.mesh.group("pp"),
            around=lambda chunk, last: data_parallel.accumulate(last, names[chunk]),
            record=self.events,
        )
        total = time.monotonic() - start
        forward = sum(end - begin for action, begin, end in self.events if action.kind is Kind.F)
        busy = sum(end - begin for _, begin, end in self.events)
        timers.add("forward", forward)
        timers.add("backward", busy - forward)
        timers.add("bubble", total - busy)
        with timers.phase("communicate"):
            data_parallel.finish()
        return Sums(stages.sums[0], stages.sums[1])

    @torch.no_grad()
    def sum_losses(self, model: Transformer, batches: Sequence[Batch], device: torch.device) -> Tensor:
        """As `pyjpllm.training.step.sum_losses`; zero on ranks that make no loss."""
        one = torch.ones((), dtype=torch.float64, device=device)
        stages = _Stages(model, self.parts, batches, device, 0.0, one)
        run(forward_only(self.schedule), stages, self.mesh.group("pp"))
        return stages.sums[[0, 2]]

    def measured(self) -> dict[str, Any] | None:
        """The last step as it was, for the report; on the first rank of each pipeline, None on others. Collective.

        Times are seconds since the first action of any rank. Ranks' clocks are compared where they leave a barrier.
        """
        group = self.mesh.group("pp")
        collectives.barrier(group)
        now = time.monotonic()
        mine = [(action.kind.value, action.chunk, action.micro_batch, a - now, b - now) for action, a, b in self.events]
        rows = collectives.gather_objects(mine, group)
        if rows is None:
            return None
        start = min(row[0][3] for row in rows)
        return {
            "schedule": self.schedule.name,
            "rank_of": self.schedule.rank_of,
            "micro_batches": self.schedule.micro_batches,
            "layers": [part.stop - part.start for part in self.parts],
            "rows": [[(*key, round(a - start, 6), round(b - start, 6)) for *key, a, b in row] for row in rows],
        }


def schedule_of(config: Config, ranks: int, micro_batches: int) -> Schedule:
    """The table that ``[parallel]`` asks for."""
    parallel = config.parallel
    if parallel.pipeline_schedule != "searched":
        return named(parallel.pipeline_schedule, ranks, micro_batches, parallel.pipeline_chunks)
    chunks = 2 * ranks
    forward, gradient, weight = (time / 2 for time in parallel.pipeline_times)
    costs = Costs((forward,) * chunks, (gradient,) * chunks, (weight,) * chunks, memory=(0.5,) * chunks)
    return search(v_shape(ranks), micro_batches, costs, parallel.pipeline_memory or float(ranks))


def parts_for(config: Config, schedule: Schedule) -> tuple[Part, ...]:
    """The layers of each chunk, as ``[parallel]`` lists them or balanced; UserError where a rank would have nothing."""
    model, ranks = config.model, schedule.ranks
    head = head_in_layers(model, config.data.sequence_length)
    layers = config.parallel.pipeline_layers or balanced(model.num_layers, schedule.chunks, head=head)
    parts = parts_of(layers)
    for rank in range(ranks):
        mine = [parts[chunk] for chunk in schedule.chunks_of(rank)]
        if not any(part.stop > part.start or part.first or part.last for part in mine):
            raise UserError(
                f"parallel.pipeline = {ranks}: rank {rank} of the pipeline would have nothing to do "
                f"({list(layers)} layers in the pieces of {schedule.name}); "
                "write other parallel.pipeline_layers, or fewer ranks"
            )
    return parts


class _Stages:
    """This rank's chunks and micro-batches, as the executor calls them."""

    def __init__(
        self,
        model: Transformer,
        parts: Sequence[Part],
        batches: Sequence[Batch],
        device: torch.device,
        z_loss: float,
        factor: Tensor,
    ) -> None:
        """``factor``: on the loss before backward."""
        self.model, self.parts, self.batches, self.device = model, parts, batches, device
        self.z_loss, self.factor = z_loss, factor
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def forward(self, chunk: int, micro_batch: int, x: Tensor | None) -> Tensor:
        batch, part = self.batches[micro_batch].to(self.device), self.parts[chunk]
        out = self.model.through(part, x, batch.tokens_BS, batch.positions_BS, batch.document_ids_BS)
        if not part.last:
            return out
        found = self.model.loss_of(out, batch.targets_BS, z_loss=self.z_loss)
        self.sums += torch.stack([value.detach().double() for value in found])
        return (found.loss + found.z_loss) * self.factor

    def receive_into(self, micro_batch: int) -> Tensor:
        tokens, tp = self.batches[micro_batch].tokens_BS.numel(), self.model.tp
        if tp.sequence:
            tokens = split_sizes(tokens, tp.size)[tp.rank]
        weight = next(self.model.parameters())
        return torch.empty(tokens, self.model.config.hidden_size, dtype=weight.dtype, device=self.device)


class PipelinedReader:
    """A model that lies on the ranks of a pipeline, as `pyjpllm.model.generate` reads with it: chunk after chunk."""

    def __init__(self, model: Transformer, pipeline: Pipeline) -> None:
        self.model, self.pipeline = model, pipeline

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def linear_weights(self) -> Iterator[Tensor]:
        """This rank's."""
        return self.model.linear_weights()

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """Of this rank's layers."""
        return self.model.new_cache(batch, capacity)

    @cached_property
    def _group(self) -> dist.ProcessGroup | None:
        return self.pipeline.mesh.group("pp")

    def next_logits(self, tokens_BS: Tensor, cache: KVCache) -> Tensor:
        """Read the tokens into the cache; logits_BV of what comes after the last, on every rank."""
        schedule, rank = self.pipeline.schedule, self.pipeline.mesh.rank("pp")
        positions_S = torch.arange(cache.length, cache.length + tokens_BS.shape[1], device=tokens_BS.device)
        positions_BS = positions_S.expand(tokens_BS.shape)
        nothing = Batch(tokens_BS, tokens_BS, positions_BS, None)
        one = torch.ones((), device=tokens_BS.device)
        stages = _Stages(self.model, self.pipeline.parts, [nothing], tokens_BS.device, 0.0, one)
        x_nD: Tensor | None = None
        for chunk, (part, holder) in enumerate(zip(self.pipeline.parts, schedule.rank_of, strict=True)):
            before = schedule.rank_of[chunk - 1] if chunk else holder
            if before != holder and rank == before:
                assert x_nD is not None
                dist.send(x_nD.contiguous(), group=self._group, group_dst=holder)
            if rank != holder:
                continue
            if before != holder:
                x_nD = stages.receive_into(0)
                dist.recv(x_nD, group=self._group, group_src=before)
            x_nD = self.model.through(part, x_nD, tokens_BS, positions_BS, None, cache)
        cache.advance(tokens_BS.shape[1])
        weight = next(self.model.parameters())
        logits_BV = torch.empty(tokens_BS.shape[0], self.config.vocab_size, dtype=weight.dtype, device=self.device)
        if self.pipeline.has_end:
            assert x_nD is not None
            logits_BV = self.model.last_logits(x_nD, tokens_BS).contiguous()
        return collectives.broadcast(logits_BV, self._group, schedule.rank_of[-1])
