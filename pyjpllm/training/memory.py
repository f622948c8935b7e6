"""How much memory each rank of a pipeline needs, from the config alone: docs/parallelism.md has the formula.

N tokens of a micro-batch on this rank, D width, H query and K kv heads of this rank, d head width, F feed-forward of
this rank, V vocabulary of this rank, b bytes of an activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyjpllm.config.schema import Config
from pyjpllm.errors import UserError
from pyjpllm.model import Transformer, head_in_layers
from pyjpllm.ops.types import DTYPES
from pyjpllm.parallel import ContextParallel, FlatParameters, TensorParallel, head_ranges, split_sizes
from pyjpllm.parallel.data import UNDER_WAY
from pyjpllm.parallel.pipeline import (
    Costs,
    Kind,
    Part,
    Schedule,
    named,
    simulate,
    steady_bubble,
)
from pyjpllm.parallel.pipeline.executor import AHEAD
from pyjpllm.training.pipeline import parts_for, schedule_of


@dataclass(frozen=True)
class RankMemory:
    """Bytes of the first tensor-parallel rank of one stage, which has the largest share."""

    rank: int
    """Place in the pipeline."""
    layers: tuple[int, ...]
    """Of each of its chunks."""
    parameters: int
    weights: int
    """In the model's type, and the master copy where that is another one; with ZeRO-3 the gathered weights of one block
    come on top while it computes."""
    gradients: int
    optimizer: int
    activations: int
    """The most that is kept for backward at a time, and messages on their way."""

    @property
    def total(self) -> int:
        """All of it. Temporaries of an operation, buffers of MPI and the libraries come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Plan:
    """What a config comes to on a number of ranks."""

    sizes: dict[str, int]
    """Ranks along each axis, by field of ``[parallel]``."""
    micro_batches: int
    schedule: Schedule
    ranks: tuple[RankMemory, ...]
    bubble: float
    """Predicted idle share of one step, the head counted as what it computes and F, B and W of a layer alike."""
    steady_bubble: float
    """The same where ranks do not wait for each other between steps."""


def plan(config: Config, world_size: int) -> Plan:
    """Memory by rank and the pipeline's idle share. Raises UserError for a model with experts, which is not counted.

    The config must have been checked for ``world_size``, with ``model.vocab_size`` set.
    """
    if config.model.moe is not None:
        raise UserError("model.moe: the memory of experts depends on where tokens go; it is not planned yet")
    parallel, train = config.parallel, config.train
    beside = parallel.beside_data
    replicas = world_size
    for size in beside.values():
        replicas //= size
    sizes = {"data": replicas, **beside}
    micro_batches = train.global_batch // replicas // train.micro_batch
    pp = parallel.pipeline
    schedule = schedule_of(config, pp, micro_batches) if pp > 1 else named("1f1b", 1, micro_batches)
    head = head_in_layers(config.model, config.data.sequence_length)
    parts = parts_for(config, schedule)
    times = tuple(float(part.stop - part.start + head * part.last) for part in parts)
    costs = Costs(times, times, times)
    ranks = tuple(_rank(config, sizes, schedule, parts, rank) for rank in range(pp))
    bubbles = simulate(schedule, costs).bubble, steady_bubble(schedule, costs)
    return Plan(sizes, micro_batches, schedule, ranks, *bubbles)


def _rank(config: Config, sizes: dict[str, int], schedule: Schedule, parts: Sequence[Part], rank: int) -> RankMemory:
    tp = TensorParallel(None, 0, sizes["tensor"], config.parallel.sequence and sizes["tensor"] > 1)
    mine = [parts[chunk] for chunk in schedule.chunks_of(rank)]
    model = Transformer(config.model, tp=tp, device="meta", parts=mine)
    count = sum(param.numel() for param in model.parameters())
    activation, master = DTYPES[config.precision.dtype].itemsize, 8 if config.precision.dtype == "fp64" else 4
    length = config.data.sequence_length
    context = ContextParallel(None, 0, sizes["context"], config.parallel.context_kind, length)
    tokens = config.train.micro_batch * context.lengths[0]
    kept = [kept_for_backward(config, part, tp, tokens) for part in parts]
    zero, replicas = config.parallel.zero, sizes["data"] * sizes["context"] * sizes["expert"]
    if zero == 3 and replicas == 1:
        zero = 0
    own = count // replicas if zero else count
    travelling = 0
    if zero == 2:  # the last buckets of a micro-batch, and their sums, while the next one goes forward
        flat = FlatParameters(model.named_parameters(), bucket_bytes=config.parallel.bucket_mib * 2**20 * 4 / master)
        sent = sum(bucket.stop - bucket.start for bucket in flat.buckets[-UNDER_WAY:])
        travelling = (sent + sent // replicas) * master
    # With ZeRO-3 what is outside blocks stays gathered from forward to the end of backward.
    whole = count - sum(param.numel() for param in model.blocks.parameters()) if zero == 3 else count
    return RankMemory(
        rank,
        tuple(part.stop - part.start for part in mine),
        count,
        whole * activation + (own * master if master != activation or zero == 3 else 0),
        (own if zero >= 2 else count) * master,
        2 * own * master,
        _peak(schedule, rank, kept, activation * _residual(config, tp, tokens)) + travelling,
    )


def _peak(schedule: Schedule, rank: int, kept: Sequence[tuple[int, int]], message: int) -> int:
    """The most bytes that a rank has after any action of its row, room for the next ``AHEAD`` messages among them."""
    needs = {message.needed_by for message in schedule.messages() if message.target == rank}
    to_come = len(needs)
    held = most = 0
    for action in schedule.rows[rank]:
        kind, chunk, _ = action
        room = min(AHEAD, to_come)
        if action in needs:
            to_come, room = to_come - 1, room - 1
        for_backward, for_weights = kept[chunk]
        held += {Kind.F: for_backward, Kind.B: for_weights - for_backward, Kind.W: -for_weights}.get(
            kind, -for_backward
        )
        most = max(most, held + room * message)
    return most


def _residual(config: Config, tp: TensorParallel, tokens: int) -> int:
    """Numbers of the residual stream on a rank."""
    return (split_sizes(tokens, tp.size)[0] if tp.sequence else tokens) * config.model.hidden_size


def kept_for_backward(config: Config, part: Part, tp: TensorParallel, tokens: int) -> tuple[int, int]:
    """Bytes that one micro-batch of ``tokens`` keeps of a part: from its F to its B, and from its B to its W.

    Counted: what each layer's backward reads. Norms keep their input and one FP32 number a token; attention keeps q,
    k, v, its output and a log-sum-exp a head; the feed-forward its two inputs to SwiGLU. "cheap" makes the outputs of
    norms and of SwiGLU again (norms only where they are not sent under sequence parallelism). A W waits with both sides
    of its products, and what B sent is counted until then as well.
    """
    model, mode = config.model, config.train.activation_checkpointing
    activation = DTYPES[config.precision.dtype].itemsize
    number = 8 if config.precision.dtype == "fp64" else 4
    heads = head_ranges(model.num_heads, model.num_kv_heads, tp)
    q, kv = ((stop - start) * model.head_dim for start, stop in (heads.q, heads.kv))
    ffn = split_sizes(model.intermediate_size, tp.size)[0]
    residual, width = _residual(config, tp, tokens), tokens * model.hidden_size
    rows = residual // model.hidden_size

    inside = tokens * (2 * q + 2 * kv + 2 * ffn)
    layer = activation * (2 * residual + inside) + number * (2 * rows + tokens * (heads.q[1] - heads.q[0]))
    if config.parallel.context > 1 and config.parallel.context_kind == "ulysses":
        layer += activation * tokens * q  # attention's output, before tokens come back for heads and after
    if mode == "none" or tp.sequence:
        layer += activation * 2 * width
    if mode == "none":
        layer += activation * tokens * ffn
    if mode == "full":
        layer = activation * residual
    for_backward = (part.stop - part.start) * layer
    # Inputs of the products (normed twice, attention's output, SwiGLU's) and the gradients of their outputs.
    waiting = 2 * width + tokens * (q + ffn) + tokens * (q + 2 * kv + 2 * ffn) + 2 * width
    for_weights = activation * ((part.stop - part.start) * waiting + residual * (not part.first))
    if part.last:
        vocabulary = split_sizes(model.vocab_size, tp.size)[0]
        for_backward += activation * (residual + width) + number * rows
        if tp.size == 1:  # the loss makes its gradients in forward
            for_backward += activation * width + number * vocabulary * model.hidden_size
    elif not (part.first and part.last):
        for_backward += activation * residual  # what was sent, as the executor holds it
    return for_backward, for_weights
