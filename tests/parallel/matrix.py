"""Every layout of up to eight ranks, built from a config as the trainer builds it, against one process in FP64.

A layout is (pp, dp, cp, ep, tp). What else there is goes round by turns over the layouts: schedules, stages of ZeRO,
the two kinds of context parallelism, sequence parallelism, activation checkpointing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyjpllm.config import ConfigError, check_config
from pyjpllm.config.schema import Config, ModelConfig
from pyjpllm.data.batch import Batch
from pyjpllm.distributed import Mesh, World, collectives, make_mesh
from pyjpllm.model import Transformer
from pyjpllm.parallel import global_grad_norm, pieces_of
from pyjpllm.training.build import build
from pyjpllm.training.experts import balance, weigh_losses
from pyjpllm.training.metrics import Timers
from pyjpllm.training.optimizer import AdamW, clip_scale
from pyjpllm.training.pipeline import Pipeline
from pyjpllm.training.step import accumulate_gradients
from tests.parallel import reference as one
from tests.parallel.reference import Reference
from tests.parallel.test_equality import Differences

CPU = torch.device("cpu")
MODELS: dict[str, ModelConfig] = {
    "dense": one.MODELS["untied"].model_copy(update={"num_layers": 4}),
    "tied, vocabulary of 37": one.MODELS["2 kv heads, qk-norm, tied"].model_copy(update={"num_layers": 4}),
    "experts": one.MIXTURES["shared, sigmoid, biases"],
}
SCHEDULES = ("zb-v", "1f1b", "interleaved", "zb-h1", "searched", "gpipe")
KINDS = ("ring", "ulysses")
CHECKPOINTING = ("cheap", "full", "none")


@dataclass(frozen=True)
class Case:
    """One way to train."""

    model: str
    pp: int
    dp: int
    cp: int
    ep: int
    tp: int
    schedule: str
    zero: int
    kind: str
    sequence: bool
    checkpointing: str

    @property
    def layout(self) -> tuple[int, int, int, int, int]:
        """Ranks along each axis."""
        return self.pp, self.dp, self.cp, self.ep, self.tp

    def __str__(self) -> str:
        sizes = zip(("pp", "dp", "cp", "ep", "tp"), self.layout, strict=True)
        words = [f"{axis} {size}" for axis, size in sizes if size > 1] or ["one rank"]
        words += [self.schedule] * (self.pp > 1) + [self.kind] * (self.cp > 1) + ["sequence"] * self.sequence
        return f"{self.model}: {' '.join(words)}, zero {self.zero}, checkpointing {self.checkpointing}"

    def config(self) -> Config:
        """What a user would write."""
        replicas = self.dp * self.ep
        sizes: dict[str, Any] = {"data": self.dp, "tensor": self.tp, "pipeline": self.pp}
        sizes |= {"context": self.cp, "expert": self.ep, "context_kind": self.kind, "zero": self.zero}
        if self.pp > 1:
            sizes["pipeline_schedule"] = self.schedule
        if self.tp > 1:
            sizes["sequence"] = self.sequence
        return Config.model_validate(
            {
                "model": MODELS[self.model],
                "data": {"train": [{"path": "none"}], "tokenizer": "none", "sequence_length": one.LENGTH},
                "precision": {"dtype": "fp64"},
                "parallel": {**sizes, "bucket_mib": 0.004},
                "optimizer": {
                    "lr": one.LR,
                    "beta1": one.BETAS[0],
                    "beta2": one.BETAS[1],
                    "eps": one.EPS,
                    "weight_decay": one.WEIGHT_DECAY,
                    "clip_grad_norm": one.CLIP,
                },
                "train": {
                    "steps": one.STEPS,
                    "global_batch": one.SEQUENCES,
                    # Four micro-batches through a pipeline, two without one, as far as a rank has so many sequences.
                    "micro_batch": max(1, one.SEQUENCES // replicas // (4 if self.pp > 1 else 2)),
                    "activation_checkpointing": self.checkpointing,
                },
            }
        )


def layouts(size: int) -> Iterator[tuple[int, ...]]:
    """All ways to write ``size`` as pp x dp x cp x ep x tp."""
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    for sizes in itertools.product(divisors, repeat=5):
        if torch.tensor(sizes).prod() == size:
            yield sizes


def cases(size: int) -> list[Case]:
    """Every layout of ``size`` ranks on every model that the config's own check lets through."""
    found: list[Case] = []
    for model in MODELS:
        for sizes in layouts(size):
            turn = len(found)
            pp, *_, tp = sizes
            zero = turn // 2 % 4 if pp == 1 else turn % 2
            schedule, kind = SCHEDULES[turn % len(SCHEDULES)], KINDS[turn % 2]
            checkpointing = CHECKPOINTING[turn % 3]
            for kinds in (kind, KINDS[turn % 2 - 1]):  # the other where one does not fit
                case = Case(model, *sizes, schedule, zero, kinds, tp > 1 and turn % 3 > 0, checkpointing)  # type: ignore[arg-type]
                if fits(case, size):
                    found.append(case)
                    break
    return found


def fits(case: Case, size: int) -> bool:
    """Whether a user could train so."""
    try:
        check_config(case.config(), size, machine=False, files=False)
    except ConfigError:
        return False
    return True


def micro_batches(config: Config, mesh: Mesh, model: Transformer, step: int) -> list[Batch]:
    """This rank's own of the global batch."""
    whole = one.global_batch(config.model, step)
    per_rank, micro = one.SEQUENCES // mesh.size("batch"), config.train.micro_batch
    first = mesh.rank("batch") * per_rank
    found = []
    for start in range(first, first + per_rank, micro):
        fields = (whole.tokens_BS, whole.targets_BS, whole.positions_BS, whole.document_ids_BS)
        found.append(Batch(*(model.context.take(field[start : start + micro]) for field in fields)))
    return found


def train(case: Case, mesh: Mesh, expected: Reference, steps: int) -> Differences:
    """Steps as the trainer takes them. Gradients are read from the first moments after the first step."""
    config = case.config()
    pipeline = Pipeline.of(config, mesh)
    model, parameters, data_parallel = build(config, mesh, CPU, weights=False, pipeline=pipeline)
    for name, piece, layout in pieces_of(model):
        piece.copy_(expected.initial[name][layout.index])
    optimizer = AdamW(parameters, config.optimizer)
    weigh_losses(model, 1 / one.SEQUENCES)
    accumulate = accumulate_gradients if pipeline is None else pipeline.accumulate_gradients
    found = Differences()
    for step in range(steps):
        count = expected.counts[step]
        sums = accumulate(
            model,
            data_parallel,
            micro_batches(config, mesh, model, step),
            count=torch.tensor(float(count), dtype=torch.float64),
            z_loss=one.Z_LOSS,
            timers=Timers(CPU),
        )
        norm = global_grad_norm(parameters, mesh)
        scale = clip_scale(norm, one.CLIP)
        optimizer.step(one.LR, scale)
        parameters.zero_grad()
        totals = torch.stack([sums.loss, sums.z_loss]) * mesh.is_first("tp")
        collectives.all_reduce(totals, mesh.world_group)
        loss, z_loss = (totals / count).tolist()
        found.loss = max(found.loss, abs(loss - expected.losses[step]), abs(z_loss - expected.z_losses[step]))
        found.norm = max(found.norm, abs(norm - expected.norms[step]))
        if config.model.moe is not None:
            assert balance(model, mesh, sequences=one.SEQUENCES).load_max == expected.loads[step].load_max
        if not step:
            for piece in optimizer.pieces():
                gradient = piece.tensors["exp_avg"] / ((1 - one.BETAS[0]) * scale)
                found.gradients = max(
                    found.gradients, off(gradient, expected.gradients[piece.name][piece.layout.index])
                )
    parameters.values.wait()
    if steps == one.STEPS:
        for piece in optimizer.pieces():
            whole = expected.final[piece.name][piece.layout.index]
            found.weights = max(found.weights, off(piece.tensors["master"], whole))
        for name, piece, layout in pieces_of(model):
            found.weights = max(found.weights, off(piece, expected.final[name][layout.index]))
    parameters.remove_hooks()
    return found


def off(piece: Tensor, expected: Tensor) -> float:
    """The largest difference."""
    return float((piece - expected).abs().max()) if piece.numel() else 0.0


def walk(world: World, chosen: list[Case], references: dict[str, Reference], steps: int) -> list[Differences]:
    """All the cases of one launch; all ranks have the same."""
    torch.set_num_threads(1)
    meshes: dict[tuple[int, ...], Mesh] = {}
    found = []
    for case in chosen:
        if case.layout not in meshes:
            pp, dp, cp, ep, tp = case.layout
            meshes[case.layout] = make_mesh(world, pp=pp, dp=dp, cp=cp, ep=ep, tp=tp)
        found.append(train(case, meshes[case.layout], references[case.model], steps))
    return found
