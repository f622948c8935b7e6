"""The experts' part in a step: the weight of their losses, their loads, the biases that even these out.

L layers with experts, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pyjpllm.distributed.collectives import all_reduce, gather_objects
from pyjpllm.distributed.mesh import Mesh
from pyjpllm.errors import UserError
from pyjpllm.model import Transformer

Biases = dict[str, list[float]]
"""By layer, one number an expert: the routers' state, which no optimizer holds."""


class Loads(NamedTuple):
    """What the routers did in one step, over all ranks."""

    load_max: float
    """The largest load of an expert over the mean of its layer, in the worst layer."""
    balance_loss: float
    """Its mean over the sequences of the step, summed over layers, times its coefficient."""
    router_z_loss: float
    """The same of the squared log-sum-exp."""


def weigh_losses(model: Transformer, weight: float) -> None:
    """Make the routers' losses of the backwards to come count ``weight`` a sequence: the loss scale over the sequences
    of the global batch, so that their gradient is that of a mean over it."""
    for layer in model.moe_layers().values():
        layer.loss_weight = weight


@torch.no_grad()
def balance(model: Transformer, mesh: Mesh, *, sequences: int, move: bool = True) -> Loads:
    """Take the loads of the step that has ended from the model; every rank calls it, in a pipeline the stages alike.

    Where ``model.moe.balance_bias_rate`` is set and ``move``, an expert's bias goes up by it if the expert had less
    than the mean load of the step over all ranks, and down if it had more (Wang et al., 2024, arXiv:2408.15664).

    Args:
        sequences: of the global batch.
        move: False for a step that was not taken.
    """
    layers = list(model.moe_layers().values())
    sums_2 = torch.zeros(2, dtype=torch.float64, device=next(model.parameters()).device)
    worst = sums_2.new_zeros(())
    if layers:
        found = torch.stack([torch.cat([layer.loads_E, layer.losses_2]) for layer in layers])
        all_reduce(found, mesh.group("replicas"))
        loads_LE = found[:, :-2]
        sums_2 += found[:, -2:].sum(0)
        mean_L1 = loads_LE.mean(1, keepdim=True)
        worst = (loads_LE / mean_L1).max()
        for layer, error_E in zip(layers, mean_L1 - loads_LE, strict=True):
            if move:
                layer.bias_E += layer.moe.balance_bias_rate * error_E.sign().float()
            layer.loads_E.zero_()
            layer.losses_2.zero_()
    all_reduce(sums_2, mesh.group("pp"))
    all_reduce(worst, mesh.group("pp"), op="max")
    balance_loss, router_z_loss = (sums_2 / sequences).tolist()
    return Loads(float(worst), balance_loss, router_z_loss)


def expert_biases(model: Transformer, mesh: Mesh) -> Biases:
    """The biases of all layers, for a checkpoint; every rank calls it, and rank 0 of the pipeline has them all."""
    mine = {str(layer): moe.bias_E.tolist() for layer, moe in model.moe_layers().items() if moe.moe.balance_bias_rate}
    parts: list[Biases] = gather_objects(mine, mesh.group("pp")) or []
    return {layer: biases for part in parts for layer, biases in part.items()}


def load_expert_biases(model: Transformer, biases: Biases) -> None:
    """Put the biases of a checkpoint into this rank's layers; UserError where the model has others.

    A checkpoint of weights that were trained without any has none: they begin at zero.
    """
    if not biases:
        return
    for layer, moe in model.moe_layers().items():
        if not moe.moe.balance_bias_rate:
            continue
        values = biases.get(str(layer))
        if values is None or len(values) != moe.moe.num_experts:
            raise UserError(f"the checkpoint has not the {moe.moe.num_experts} expert biases of layer {layer}")
        moe.bias_E.copy_(torch.tensor(values, dtype=torch.float32))
