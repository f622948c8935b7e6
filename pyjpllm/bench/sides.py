"""The two sides of `jpllm bench step`: our training step, and the same step in Hugging Face transformers.

B sequences of a step, S tokens of a sequence, N = B*S. Both start from the same weights, see the same tokens and do
the same work: forward, backward, clipping by the global norm, AdamW with decay on matrices only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyjpllm import ops
from pyjpllm.config.schema import ModelConfig, OptimizerConfig
from pyjpllm.data import Batch
from pyjpllm.distributed import World, make_mesh
from pyjpllm.errors import UserError
from pyjpllm.model import Transformer, initialize
from pyjpllm.model.huggingface import hf_name
from pyjpllm.model.huggingface.config import config_json
from pyjpllm.parallel import DataParallel, FlatParameters, global_grad_norm
from pyjpllm.training.metrics import Timers
from pyjpllm.training.optimizer import AdamW, clip_scale
from pyjpllm.training.step import accumulate_gradients, count_valid

SEED = 1234
OPTIMIZER = OptimizerConfig(lr=1e-4)


@dataclass(frozen=True)
class Work:
    """What both sides are given."""

    model: ModelConfig
    batch: int
    sequence: int
    dtype: str
    """``fp32``, or ``bf16``: our BF16 weights with FP32 masters, autocast on the other side."""

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.sequence

    def data(self) -> tuple[Tensor, Tensor]:
        """tokens_BS and the targets_BS that follow them."""
        generator = torch.Generator().manual_seed(SEED)
        shape = (self.batch, self.sequence + 1)
        ids = torch.randint(self.model.vocab_size, shape, generator=generator)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


class Side(Protocol):
    """One of those compared."""

    name: str

    def step(self) -> float:
        """One whole training step; the mean loss a token before it."""


class Ours:
    """The trainer's own step, with the kernels of one backend."""

    def __init__(self, work: Work, kernels: str) -> None:
        self.name = f"pyjpllm, {kernels} kernels"
        self.kernels = kernels
        self.mesh = make_mesh(World(0, 1, 0, 1, "mpi4py"))
        self.model = Transformer(work.model)
        initialize(self.model, SEED)
        self.flat = FlatParameters(
            self.model.named_parameters(), model_dtype=torch.bfloat16 if work.dtype == "bf16" else torch.float32
        )
        self.data_parallel = DataParallel(self.flat)
        self.optimizer = AdamW(self.flat, OPTIMIZER)
        tokens_BS, targets_BS = work.data()
        positions_BS = torch.arange(work.sequence).expand(work.batch, -1)
        self.batch = Batch(tokens_BS, targets_BS, positions_BS, None)
        self.timers = Timers(torch.device("cpu"))

    def step(self) -> float:
        """One step as the trainer takes it."""
        with ops.use_backend(self.kernels):
            count = count_valid([self.batch], self.mesh, torch.device("cpu"))
            sums = accumulate_gradients(
                self.model, self.data_parallel, [self.batch], count=count, z_loss=0.0, timers=self.timers
            )
            norm = global_grad_norm(self.flat, self.mesh)
            self.optimizer.step(OPTIMIZER.lr, clip_scale(norm, OPTIMIZER.clip_grad_norm))
            self.flat.zero_grad()
        return float(sums.loss / count)


class Theirs:
    """transformers with its fused attention, torch's fused AdamW and clipping; eager, or through torch.compile."""

    def __init__(self, work: Work, *, compiled: bool = False) -> None:
        self.name = "transformers, compiled" if compiled else "transformers, eager"
        self.bf16 = work.dtype == "bf16"
        network = _network(work.model)
        self.params = list(network.parameters())
        decays = [p for p in self.params if p.ndim >= 2]
        others = [p for p in self.params if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decays, "weight_decay": OPTIMIZER.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=OPTIMIZER.lr,
            betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
            eps=OPTIMIZER.eps,
            fused=True,
        )
        self.network: Any = torch.compile(network) if compiled else network
        self.tokens_BS, self.targets_BS = work.data()

    def step(self) -> float:
        """One step as its users write it."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            output = self.network(
                input_ids=self.tokens_BS, labels=self.targets_BS, shift_labels=self.targets_BS, use_cache=False
            )
        output.loss.backward()
        nn.utils.clip_grad_norm_(self.params, OPTIMIZER.clip_grad_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(output.loss.detach())


def _network(config: ModelConfig) -> nn.Module:
    """The transformers model of the same shape with our initial weights."""
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        raise UserError(
            "transformers is not installed: pip install 'pyjpllm[hf]', or compare nothing: --alone"
        ) from None
    table = config_json(config)
    build: Any = AutoModelForCausalLM.from_config
    network: nn.Module = build(
        AutoConfig.for_model(table.pop("model_type"), **table), attn_implementation="sdpa", dtype=torch.float32
    )
    network.train()
    ours = Transformer(config)
    initialize(ours, SEED)
    theirs = dict(network.named_parameters())
    with torch.no_grad():
        for name, param in ours.named_parameters():
            theirs.pop(hf_name(name)).copy_(param)
    if theirs:
        raise RuntimeError(f"weights of transformers that ours have not: {', '.join(sorted(theirs)[:4])}")
    return network


def make_side(name: str, work: Work) -> Side:
    """``transformers``, ``transformers-compiled``, or the name of a backend of ours."""
    if name.startswith("transformers"):
        return Theirs(work, compiled=name.endswith("-compiled"))
    return Ours(work, name)
