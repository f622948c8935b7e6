"""Predicted time of a whole training step: the operations of one micro-batch on one rank, a CMG of 12 cores.

What is in it: every matrix product forward and backward, attention, norms, activations, rotary or position work, the
loss, AdamW. What is not: communication, the pipeline's bubble, reading data, recomputation, anything of Python.
Legend: S tokens of the micro-batch, D hidden, F feed-forward, V vocabulary, L layers, T tensor-parallel ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.a64fx import roofline
from benchmarks.a64fx.calibration import Calibration
from benchmarks.a64fx.machine import A64FX, Machine
from benchmarks.a64fx.roofline import AttentionLoops, Blocking, Prediction, Step


@dataclass(frozen=True)
class Model:
    """A decoder: `gated` has three feed-forward matrices (SwiGLU), else two (GELU)."""

    name: str
    layers: int
    hidden: int
    heads: int
    feed_forward: int
    vocabulary: int
    sequence: int
    tensor_parallel: int = 1
    gated: bool = False
    micro_batches: int = 64

    @property
    def weights(self) -> int:
        """Weights that are multiplied: those of the layers and the head."""
        per_layer = 4 * self.hidden**2 + (3 if self.gated else 2) * self.hidden * self.feed_forward
        return self.layers * per_layer + self.vocabulary * self.hidden

    @property
    def flop_per_token(self) -> float:
        """6 a weight and, for the half of attention that the mask leaves, 6 L S D (docs/models.md)."""
        return 6.0 * self.weights + 6.0 * self.layers * (self.sequence + 1) * self.hidden


# The GPT models of the published runs (hidden sizes of GPT-2 small, GPT-3 XL, Fugaku-LLM 13B); tokens a sequence 2048.
MODELS = (
    Model("124M", 12, 768, 12, 3072, 50304, 2048),
    Model("1.3B", 24, 2048, 16, 8192, 50304, 2048, tensor_parallel=4),
    Model("13B", 40, 5184, 36, 20736, 50304, 2048, tensor_parallel=4),
)


@dataclass(frozen=True)
class Passes:
    """llvm-mca's cycles a 64-byte vector of the loops that are no products (forward, backward)."""

    norm: tuple[float, float]
    activation: tuple[float, float]
    rotary: tuple[float, float]
    loss: tuple[float, float]
    adamw: float


@dataclass(frozen=True)
class StepPrediction:
    """Seconds of each part of a micro-batch on one rank, its model flop on that rank, and the error bar of the time
    (a share of it)."""

    model: Model
    seconds: dict[str, float]
    flop: float
    error: float
    machine: Machine = A64FX

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def tokens_per_cmg(self) -> float:
        """Tokens a second; the T ranks of a tensor-parallel group share each token."""
        return self.model.sequence / self.total / self.model.tensor_parallel

    @property
    def share(self) -> float:
        """Model FLOPs over the FP32 peak of the CMG."""
        return self.flop / self.total / self.machine.peak_cmg


def products(model: Model) -> list[tuple[str, int, int, int, int]]:
    """(name, M, N, K, how many) of a micro-batch's products on one rank: y = x W^T, dx = dy W, dW += dy^T x.

    Tensor parallel splits the columns of the first and the rows of the second matrix of each pair.
    """
    s, d, t = model.sequence, model.hidden, model.tensor_parallel
    linears = [
        ("qkv", 3 * d // t, d, model.layers),
        ("out", d, d // t, model.layers),
        ("up", (2 if model.gated else 1) * model.feed_forward // t, d, model.layers),
        ("down", d, model.feed_forward // t, model.layers),
        ("head", math.ceil(model.vocabulary / t), d, 1),
    ]
    found = []
    for name, out, inner, count in linears:
        found += [
            (f"{name} forward", s, out, inner, count),
            (f"{name} input gradient", s, inner, out, count),
            (f"{name} weight gradient", out, inner, s, count),
        ]
    return found


def predict(
    model: Model,
    *,
    step: Step,
    blocking: Blocking,
    calibration: Calibration,
    loops: AttentionLoops,
    passes: Passes,
    streamed: float,
    cores: int = 12,
    machine: Machine = A64FX,
) -> StepPrediction:
    """The prediction for one micro-batch of one sequence on a rank of `cores` cores."""
    seconds: dict[str, float] = {}
    spread: dict[str, float] = {}

    def add(name: str, prediction: Prediction, count: float = 1) -> None:
        took = prediction.seconds * count
        seconds[name] = seconds.get(name, 0.0) + took
        relative = prediction.error / prediction.share if prediction.flop else prediction.error
        # Errors of one kind of operation go together; those of different kinds are taken as independent.
        spread[name] = spread.get(name, 0.0) + took * relative

    for name, m, n, k, count in products(model):
        part = "head" if name.startswith("head") else "products"
        add(
            part,
            roofline.gemm(m, n, k, step=step, blocking=blocking, calibration=calibration, cores=cores, machine=machine),
            count,
        )
    heads, width = model.heads // model.tensor_parallel, model.hidden // model.heads
    for backward in (False, True):
        attention = roofline.attention(
            heads, model.sequence, width, loops=loops, calibration=calibration, streamed=streamed,
            backward=backward, cores=cores, machine=machine,
        )  # fmt: skip
        add("attention", attention, model.layers)
    for name, took in _passes(model, passes, cores, machine):
        add(name, took)
    error = math.sqrt(sum(value**2 for value in spread.values())) / sum(seconds.values())
    flop = model.flop_per_token * model.sequence / model.tensor_parallel
    return StepPrediction(model, seconds, flop, error, machine)


def _passes(model: Model, passes: Passes, cores: int, machine: Machine) -> list[tuple[str, Prediction]]:
    """The memory-bound operations of a micro-batch; vectors are of 16 FP32.

    With sequence parallelism a rank has S / T rows of the residual stream, and D, F and heads are split elsewhere: the
    same number of elements either way.
    """
    rows = model.sequence / model.tensor_parallel * model.layers / 16
    d, f = model.hidden, model.feed_forward

    def stream(vectors: float, arithmetic: float, reads: float, updates: float = 0, fresh: float = 0) -> Prediction:
        return roofline.stream(vectors, arithmetic, reads, updates, fresh, cores=cores, machine=machine)

    logits = model.sequence / model.tensor_parallel * model.vocabulary / 16
    adamw = model.weights / model.tensor_parallel / 16 / model.micro_batches
    activation = (2, 3) if model.gated else (1, 2)
    return [
        ("norms", stream(2 * rows * d, passes.norm[0], 1, 1, 1)),
        ("norms", stream(2 * rows * d, passes.norm[1], 2, 1, 1)),
        ("activations", stream(rows * f, passes.activation[0], activation[0], 0, 1)),
        ("activations", stream(rows * f, passes.activation[1], activation[1], 0, activation[0])),
        ("rotary", stream(2 * rows * d, passes.rotary[0], 0, 1)),
        ("rotary", stream(2 * rows * d, passes.rotary[1], 0, 1)),
        ("loss", stream(logits, passes.loss[0], 1)),
        ("loss", stream(logits, passes.loss[1], 0, 1)),
        ("AdamW", stream(adamw, passes.adamw, 1, 3)),
    ]
