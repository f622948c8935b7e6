"""Nothing in a training step is CPU-only: the step runs on torch's meta device, which refuses a stray CPU tensor."""

from __future__ import annotations

import pytest
import torch

from pyjpllm import ops
from pyjpllm.config.schema import ModelConfig, MoEConfig, OptimizerConfig
from pyjpllm.data import Batch
from pyjpllm.distributed import World, make_mesh
from pyjpllm.model import Transformer
from pyjpllm.parallel import DataParallel, FlatParameters
from pyjpllm.training.metrics import Timers
from pyjpllm.training.optimizer import AdamW
from pyjpllm.training.step import accumulate_gradients, sum_losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("experts", [None, {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 24}])
def test_a_training_step_runs_on_the_meta_device(
    dtype: torch.dtype, recompute: bool, experts: dict[str, int] | None
) -> None:
    meta = torch.device("meta")
    shape = ModelConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=48,
        vocab_size=101,
        qk_norm=True,
        qkv_bias=True,
        moe=None if experts is None else MoEConfig(**experts, shared_size=16),
    )
    with ops.use_backend("torch"):
        model = Transformer(shape, dtype=torch.float32, device=meta)
        model.activation_checkpointing = "full" if recompute else "none"
        flat = FlatParameters(
            model.named_parameters(), master_dtype=torch.float32, model_dtype=dtype, bucket_bytes=1 << 12
        )
        data_parallel = DataParallel(flat)
        optimizer = AdamW(flat, OptimizerConfig())
        ids = torch.zeros(2, 16, dtype=torch.int64)
        batch = Batch(tokens_BS=ids, targets_BS=ids, positions_BS=ids, document_ids_BS=ids)
        count = torch.ones((), dtype=torch.float64, device=meta)
        sums = accumulate_gradients(model, data_parallel, [batch, batch], count=count, z_loss=1e-4, timers=Timers(meta))
        assert sums.loss.is_meta
        assert all(group.grad.is_meta for group in flat.groups)
        optimizer.step(1e-3, 0.5)
        flat.zero_grad()
        assert sum_losses(model, [batch], meta).is_meta
        assert make_mesh(World(0, 1, 0, 1, "mpi4py")).group("dp") is None
