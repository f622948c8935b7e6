"""What a rank trains: its part of the model, its parameters as they are stepped, and what sums their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from pyjpllm.config.schema import Config
from pyjpllm.distributed.collectives import all_reduce
from pyjpllm.distributed.mesh import Mesh
from pyjpllm.model import Transformer, initialize
from pyjpllm.model.huggingface import load_weights
from pyjpllm.ops.types import DTYPES
from pyjpllm.parallel import ContextParallel, DataParallel, ExpertParallel, FlatParameters, TensorParallel
from pyjpllm.parallel.buckets import bucket_bytes, network_here
from pyjpllm.parallel.flat import Parameters
from pyjpllm.training.pipeline import Pipeline

if TYPE_CHECKING:
    from pyjpllm.parallel.sharded import ShardedDataParallel


class Built(NamedTuple):
    """One rank's."""

    model: Transformer
    parameters: Parameters
    data_parallel: DataParallel | ShardedDataParallel


def build(
    config: Config, mesh: Mesh, device: torch.device, *, weights: bool, pipeline: Pipeline | None = None
) -> Built:
    """What ``config`` says; ``weights``: initialised, or read from ``model.init_from``, else still to be filled in.

    With ``parallel.zero = 3`` and several replicas a rank never holds more of the weights than its shards.
    """
    dtype = DTYPES[config.precision.dtype]
    master = torch.float64 if dtype == torch.float64 else torch.float32
    gradients = dtype if config.parallel.gradient_dtype == "model" else None
    if config.parallel.zero == 3 and mesh.size("replicas") > 1:
        from pyjpllm.parallel.sharded import ShardedDataParallel, ShardedParameters  # torch's part of it takes a second

        model = _model(config, mesh, torch.device("meta"), master, pipeline)
        sharded = ShardedParameters(model, mesh, device, dtype=dtype, gradients=gradients)
        if weights:
            _fill(model, config)
        return Built(model, sharded, ShardedDataParallel(sharded))
    model = _model(config, mesh, device, master, pipeline)
    if weights:
        _fill(model, config)
    flat = FlatParameters(
        model.named_parameters(),
        master_dtype=master,
        model_dtype=dtype,
        bucket_bytes=_bucket_bytes(config, mesh, sum(param.numel() for param in model.parameters()) * master.itemsize),
        mesh=mesh,
        zero=config.parallel.zero if config.parallel.zero < 3 else 0,  # one replica has nobody to share with
    )
    flat.values.overlap(model.reading_order())
    return Built(model, flat, DataParallel(flat, mesh, dtype=gradients))


def _bucket_bytes(config: Config, mesh: Mesh, gradient_bytes: int) -> int:
    """The same on all ranks: the largest, for stages differ, and nodes may."""
    size = bucket_bytes(
        config.parallel.bucket_mib,
        gradient_bytes=gradient_bytes,
        replicas=mesh.size("replicas"),
        ranks_per_node=mesh.ranks_per_node,
        network=network_here(),
    )
    largest = torch.tensor(size, device=None if mesh.device_mesh is None else mesh.device_mesh.device_type)
    all_reduce(largest, mesh.world_group, "max")
    return int(largest)


def _model(
    config: Config, mesh: Mesh, device: torch.device, dtype: torch.dtype, pipeline: Pipeline | None
) -> Transformer:
    """This rank's part of the model, empty."""
    parts, tied_group = (None, None) if pipeline is None else (pipeline.mine, pipeline.tied_group)
    model = Transformer(
        config.model,
        tp=TensorParallel.from_mesh(mesh, config.parallel.sequence),
        ep=ExpertParallel.from_mesh(mesh),
        dtype=dtype,
        device=device,
        parts=parts,
        tied_group=tied_group,
        context=ContextParallel.from_mesh(mesh, config.parallel.context_kind, config.data.sequence_length),
    )
    model.activation_checkpointing = config.train.activation_checkpointing
    return model


def _fill(model: Transformer, config: Config) -> None:
    if config.model.init_from is not None:
        load_weights(model, Path(config.model.init_from))
    else:
        initialize(model, config.train.seed)
