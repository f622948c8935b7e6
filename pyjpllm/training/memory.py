"""How much memory each rank of a pipeline needs, from the config alone: docs/parallelism.md has the formula.

N tokens of a micro-batch on this rank, D width, H query and K kv heads of this rank, d head width, F feed-forward of
this rank, V vocabulary of this rank, b bytes of an activation; E experts, k experts of a token, m rows for this rank's
experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyjpllm.config.schema import Config, MoEConfig
from pyjpllm.model import Transformer, head_in_layers
from pyjpllm.ops.types import DTYPES
from pyjpllm.parallel import (
    ContextParallel,
    ExpertParallel,
    FlatParameters,
    TensorParallel,
    head_ranges,
    layout_of,
    split_sizes,
)
from pyjpllm.parallel.buckets import bucket_bytes, network_here
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


def plan(config: Config, world_size: int, expert_load: float = 1.0) -> Plan:
    """Memory by rank and the pipeline's idle share.

    ``expert_load``: rows of a rank's experts over those of an even load, which 1 is.
    The config must have been checked for ``world_size``, with ``model.vocab_size`` set.
    """
    parallel, train = config.parallel, config.train
    beside = parallel.beside_data
    replicas = world_size
    for size in beside.values():
        replicas //= size
    sizes = {"data": replicas, **beside}
    # Ranks that share experts read sequences of their own, as data-parallel ones do.
    micro_batches = train.global_batch // (replicas * parallel.expert) // train.micro_batch
    pp = parallel.pipeline
    schedule = schedule_of(config, pp, micro_batches) if pp > 1 else named("1f1b", 1, micro_batches)
    head = head_in_layers(config.model, config.data.sequence_length)
    parts = parts_for(config, schedule)
    times = tuple(float(part.stop - part.start + head * part.last) for part in parts)
    costs = Costs(times, times, times)
    ranks = tuple(_rank(config, sizes, schedule, parts, rank, expert_load) for rank in range(pp))
    bubbles = simulate(schedule, costs).bubble, steady_bubble(schedule, costs)
    return Plan(sizes, micro_batches, schedule, ranks, *bubbles)


def _rank(
    config: Config,
    sizes: dict[str, int],
    schedule: Schedule,
    parts: Sequence[Part],
    rank: int,
    expert_load: float,
) -> RankMemory:
    tp = TensorParallel(None, 0, sizes["tensor"], config.parallel.sequence and sizes["tensor"] > 1)
    mine = [parts[chunk] for chunk in schedule.chunks_of(rank)]
    model = Transformer(config.model, tp=tp, ep=ExpertParallel(None, 0, sizes["expert"]), device="meta", parts=mine)
    count = sum(param.numel() for param in model.parameters())
    activation, master = DTYPES[config.precision.dtype].itemsize, 8 if config.precision.dtype == "fp64" else 4
    length = config.data.sequence_length
    context = ContextParallel(None, 0, sizes["context"], config.parallel.context_kind, length)
    tokens = config.train.micro_batch * context.lengths[0]
    kept = [kept_for_backward(config, part, tp, tokens, expert_load) for part in parts]
    zero, replicas = config.parallel.zero, {"expert_replicas": sizes["data"] * sizes["context"]}
    replicas["replicas"] = replicas["expert_replicas"] * sizes["expert"]
    if zero == 3 and replicas["replicas"] == 1:
        zero = 0
    own = sum(param.numel() // (replicas[layout_of(param).replicas] if zero else 1) for param in model.parameters())
    travelling = 0
    if zero == 2:  # the last buckets of a micro-batch, and their sums, while the next one goes forward
        size = bucket_bytes(
            config.parallel.bucket_mib,
            gradient_bytes=count * master,
            replicas=replicas["replicas"],
            ranks_per_node=1,  # is not known here; where several share a network, buckets are smaller
            network=network_here(),
        )
        flat = FlatParameters(model.named_parameters(), bucket_bytes=size * 4 / master)
        for bucket in flat.buckets[-UNDER_WAY:]:
            sent = bucket.stop - bucket.start
            travelling += (sent + sent // replicas[bucket.group.replicas]) * master
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


def kept_for_backward(
    config: Config, part: Part, tp: TensorParallel, tokens: int, expert_load: float = 1.0
) -> tuple[int, int]:
    """Bytes that one micro-batch of ``tokens`` keeps of a part: from its F to its B, and from its B to its W.

    Counted: what each layer's backward reads. Norms keep their input and one FP32 number a token; attention keeps q,
    k, v, its output and a log-sum-exp a head; the feed-forward its two inputs to SwiGLU. "cheap" makes the outputs of
    norms and of SwiGLU again (norms only where they are not sent under sequence parallelism). A W waits with both sides
    of its products, and what B sent is counted until then as well. ``expert_load`` as in `plan`.
    """
    model, mode = config.model, config.train.activation_checkpointing
    activation, number = _bytes(config)
    residual, width = _residual(config, tp, tokens), tokens * model.hidden_size
    rows = residual // model.hidden_size
    attention, attention_waits = _attention(config, tp, tokens)
    norms = 2 * (activation * residual + number * rows)
    if mode == "none" or tp.sequence:
        norms += 2 * activation * width
    for_backward = for_weights = 0
    for layer in range(part.start, part.stop):
        if model.moe is not None and model.moe.is_sparse(layer):
            mlp, mlp_waits = _experts(config, model.moe, tp, tokens, expert_load)
        else:
            mlp, mlp_waits = _feed_forward(config, model.intermediate_size, tp, tokens)
        for_backward += activation * residual if mode == "full" else attention + mlp + norms
        for_weights += attention_waits + mlp_waits
    for_weights += activation * residual * (not part.first)
    if part.last:
        vocabulary = split_sizes(model.vocab_size, tp.size)[0]
        for_backward += activation * (residual + width) + number * rows
        if tp.size == 1:  # the loss makes its gradients in forward
            for_backward += activation * width + number * vocabulary * model.hidden_size
    elif not (part.first and part.last):
        for_backward += activation * residual  # what was sent, as the executor holds it
    return for_backward, for_weights


def _bytes(config: Config) -> tuple[int, int]:
    """Of an activation, and of what is kept in FP32 (FP64) beside 16-bit ones."""
    return DTYPES[config.precision.dtype].itemsize, 8 if config.precision.dtype == "fp64" else 4


def _attention(config: Config, tp: TensorParallel, tokens: int) -> tuple[int, int]:
    """Bytes from F to B, the norm before it apart, and from B to W."""
    model, (activation, number) = config.model, _bytes(config)
    heads = head_ranges(model.num_heads, model.num_kv_heads, tp)
    q, kv = ((stop - start) * model.head_dim for start, stop in (heads.q, heads.kv))
    kept = activation * tokens * (2 * q + 2 * kv) + number * tokens * (heads.q[1] - heads.q[0])
    if config.parallel.context > 1 and config.parallel.context_kind == "ulysses":
        kept += activation * tokens * q  # attention's output, before tokens come back for heads and after
    # Inputs of the products (what was normed, attention's output) and the gradients of their outputs.
    return kept, activation * tokens * (2 * model.hidden_size + 2 * q + 2 * kv)


def _feed_forward(config: Config, width: int, tp: TensorParallel, tokens: int) -> tuple[int, int]:
    """As `_attention`, of a SwiGLU of ``width``."""
    (activation, _), ffn = _bytes(config), split_sizes(width, tp.size)[0]
    kept = 3 if config.train.activation_checkpointing == "none" else 2
    return activation * tokens * kept * ffn, activation * tokens * (2 * config.model.hidden_size + 3 * ffn)


def _experts(config: Config, moe: MoEConfig, tp: TensorParallel, tokens: int, expert_load: float) -> tuple[int, int]:
    """As `_attention`, of a mixture of experts, whose tokens' rows are ``tokens * k`` and those of this rank's experts
    ``expert_load`` times as many.

    The experts keep their rows and the two inputs to SwiGLU; the sum over a token's experts keeps what came back. The
    router keeps logits and scores, a log-sum-exp and a sum of the losses, the chosen weights, and the way of the rows
    in int64. A gated shared expert keeps its output and the gate.
    """
    (activation, number), D, k = _bytes(config), config.model.hidden_size, moe.experts_per_token
    ffn = split_sizes(moe.intermediate_size, tp.size)[0]
    rows = round(tokens * k * expert_load) if config.parallel.expert > 1 else tokens * k
    inner = 3 if config.train.activation_checkpointing == "none" else 2
    kept = activation * (rows * (D + inner * ffn) + tokens * k * D)
    kept += number * tokens * (2 * moe.num_experts + k + 1) + 8 * 2 * tokens * k
    if moe.router == "sigmoid":
        kept += number * tokens
    if config.parallel.expert > 1:
        kept += 8 * 2 * rows
    waits = activation * rows * (2 * D + 3 * ffn)
    if moe.shared_size:
        shared, shared_waits = _feed_forward(config, moe.shared_size, tp, tokens)
        kept, waits = kept + shared, waits + shared_waits
        if moe.shared_gate:
            kept += activation * tokens * (D + (activation != number)) + number * tokens
    return kept, waits
