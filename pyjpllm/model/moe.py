"""A mixture of experts in place of the feed-forward: router, experts, shared expert, and what keeps loads even.

B sequences of S tokens, N = B*S tokens, D model width, E experts (e: this rank's), k experts of a token, M = N k rows
sorted by expert (m: those for this rank's experts), F width of an expert.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pyjpllm import ops
from pyjpllm.config.schema import MoEConfig
from pyjpllm.model.feed_forward import MLP
from pyjpllm.model.remake import remade
from pyjpllm.parallel import (
    Exchange,
    ExpertLinear,
    ExpertParallel,
    Layout,
    TensorParallel,
    set_layout,
    tp_output,
)


class _WideLinear(torch.autograd.Function):
    """x weight^T in FP32 (FP64) from 16-bit operands, of which only those are kept."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_ED: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, weight_ED)
        ctx.wide = torch.promote_types(x_ND.dtype, torch.float32)
        with ops.use_math("exact"):
            return ops.linear(x_ND.to(ctx.wide), weight_ED.to(ctx.wide))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NE: Tensor) -> tuple[Tensor, Tensor]:
        x_ND, weight_ED = ctx.saved_tensors
        with ops.use_math("exact"):
            grad_x_ND = ops.linear_grad_input(grad_NE, weight_ED.to(ctx.wide))
            grad_weight_ED = ops.linear_grad_weight(grad_NE, x_ND.to(ctx.wide))
        return grad_x_ND.to(x_ND.dtype), grad_weight_ED.to(weight_ED.dtype)


class Score(nn.Module):
    """logits_NE = x_ND weight_ED^T in FP32, FP64 for FP64: what a router decides by, whatever type the model has.

    Every tp rank has the whole weight and makes all logits. What follows them is a part of a sum over tp, so each
    rank's gradient is a part as well.
    """

    def __init__(
        self, outputs: int, inputs: int, *, tp: TensorParallel, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype, device=device))
        set_layout(self.weight, Layout.whole((outputs, inputs), copies=tp.size, grad_group=tp.group))

    def forward(self, x_ND: Tensor) -> Tensor:
        logits_NE: Tensor = _WideLinear.apply(x_ND, self.weight)  # type: ignore[no-untyped-call]
        return logits_NE


class Experts(nn.Module):
    """The feed-forwards of the experts, SwiGLU each, without biases."""

    def __init__(
        self,
        hidden_size: int,
        moe: MoEConfig,
        *,
        tp: TensorParallel,
        ep: ExpertParallel,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        E, D, F = moe.num_experts, hidden_size, moe.intermediate_size
        self.gate = ExpertLinear(E, D, F, split="outputs", ep=ep, tp=tp, dtype=dtype, device=device)
        self.up = ExpertLinear(E, D, F, split="outputs", ep=ep, tp=tp, dtype=dtype, device=device)
        self.down = ExpertLinear(E, F, D, split="inputs", ep=ep, tp=tp, dtype=dtype, device=device)

    def forward(self, x_mD: Tensor, sizes_e: Tensor, remake: bool) -> Tensor:
        gate_mF, up_mF = self.gate(x_mD, sizes_e), self.up(x_mD, sizes_e)
        hidden_mF = ops.swiglu(gate_mF, up_mF)
        with remade(hidden_mF, lambda: ops.swiglu(gate_mF, up_mF)) if remake else nullcontext():
            y_mD: Tensor = self.down(hidden_mF, sizes_e)
        return y_mD


class MoE(nn.Module):
    """``sum over the chosen experts of weight * expert(x)``, and the shared expert's output where there is one.

    Attributes:
        loss_weight: what the router's losses, summed over sequences, are multiplied with in backward: 1 / sequences
            of the global batch (times the loss scale) makes them a mean over all of these.
        bias_E: added to the scores for the choice alone, moved by `pyjpllm.training.experts`; FP32, no parameter.
        loads_E: rows of each expert in the backwards since it last moved, of this rank's tokens.
        losses_2: the balance loss and router z-loss, summed over the sequences of the same backwards; under context
            parallelism this rank's part of them.
    """

    bias_E: Tensor
    loads_E: Tensor
    losses_2: Tensor

    def __init__(
        self,
        hidden_size: int,
        moe: MoEConfig,
        *,
        tp: TensorParallel,
        ep: ExpertParallel,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.moe, self.tp, self.ep = moe, tp, ep
        self.loss_weight = 1.0
        self.router = Score(moe.num_experts, hidden_size, tp=tp, dtype=dtype, device=device)
        self.experts = Experts(hidden_size, moe, tp=tp, ep=ep, dtype=dtype, device=device)
        self.shared: MLP | None = None
        self.shared_gate: Score | None = None
        if moe.shared_size:
            self.shared = MLP(hidden_size, moe.shared_size, tp=tp, dtype=dtype, device=device)
            if moe.shared_gate:
                self.shared_gate = Score(1, hidden_size, tp=tp, dtype=dtype, device=device)
        zeros_E = torch.zeros(moe.num_experts, dtype=torch.float64, device=device)
        self.register_buffer("bias_E", zeros_E.float(), persistent=False)
        self.register_buffer("loads_E", zeros_E, persistent=False)
        self.register_buffer("losses_2", zeros_E.new_zeros(2), persistent=False)

    def forward(self, x_ND: Tensor, sequences: int, remake: bool = False) -> Tensor:
        """x_ND, the tokens of ``sequences`` equal sequences -> y_nD."""
        moe = self.moe
        logits_NE = self.router(x_ND)
        bias_E = self.bias_E if moe.balance_bias_rate else None
        experts_Nk, weights_Nk = ops.route(
            logits_NE, moe.experts_per_token, scoring=moe.router, normalize=moe.normalize_weights, bias_E=bias_E
        )
        order = ops.sort_by_expert(experts_Nk, moe.num_experts)
        if torch.is_grad_enabled():
            losses_2 = self._losses(logits_NE, experts_Nk, sequences)
            weights_Nk = _Attached.apply(weights_Nk, losses_2, order.sizes_E, self)  # type: ignore[no-untyped-call]
        exchange = Exchange(order.sizes_E, self.ep)
        rows_mD = exchange.send(ops.dispatch(x_ND, order))
        rows_MD = exchange.back(self.experts(rows_mD, exchange.sizes_e, remake))
        y_ND = ops.combine(rows_MD, order, weights_Nk)
        if self.shared is not None:
            shared_ND = self.shared(x_ND, remake, part=True)
            if self.shared_gate is not None:
                shared_ND = shared_ND * self.shared_gate(x_ND).sigmoid().to(shared_ND.dtype)
            y_ND = y_ND + shared_ND
        return tp_output(y_ND, self.tp)

    def _losses(self, logits_NE: Tensor, experts_Nk: Tensor, sequences: int) -> Tensor:
        """The balance loss and the router z-loss, each summed over sequences and times its coefficient: [2].

        A sequence's balance loss is ``sum over experts of f P``: f is the share of the sequence's rows that went to
        the expert, times E; P is the mean of its score, over the sum of the token's scores (Fedus et al., 2021,
        arXiv:2101.03961; by sequence: DeepSeek-AI, 2024, arXiv:2412.19437). The z-loss is the mean over its tokens of
        ``logsumexp(logits)^2`` (Zoph et al., 2022, arXiv:2202.08906).
        """
        moe = self.moe
        E = moe.num_experts
        rows_BE = logits_NE.new_zeros(sequences, E)
        chosen_BM = experts_Nk.reshape(sequences, -1)
        rows_BE.scatter_add_(1, chosen_BM, torch.ones_like(chosen_BM, dtype=rows_BE.dtype))
        self.ep.sum_over_sequence(rows_BE)
        total_B1 = rows_BE.sum(1, keepdim=True)
        tokens_B1 = total_B1 / moe.experts_per_token
        if moe.router == "softmax":
            scores_NE = logits_NE.softmax(-1)
        else:
            scores_NE = logits_NE.sigmoid()
            scores_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
        mean_BE = scores_NE.view(sequences, -1, E).sum(1) / tokens_B1
        balance = moe.balance_loss * (E * rows_BE / total_B1 * mean_BE).sum()
        squares_BS = logits_NE.logsumexp(-1).square().view(sequences, -1)
        return torch.stack([balance, moe.router_z_loss * (squares_BS / tokens_B1).sum()])


class _Attached(torch.autograd.Function):
    """Forward: the carrier as it is. Backward: also the gradient of the router's losses, which are then on record.

    So the losses are reached through the output of a layer alone, in a pipeline too; and they are counted once for
    each backward, not for forwards that activation checkpointing repeats.
    """

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, losses_2: Tensor, sizes_E: Tensor, layer: MoE) -> Tensor:
        ctx.layer, ctx.losses_2, ctx.sizes_E = layer, losses_2.detach(), sizes_E
        return carrier.view_as(carrier)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        layer: MoE = ctx.layer
        layer.loads_E += ctx.sizes_E
        layer.losses_2 += ctx.losses_2
        # The gradient of the logits is a sum over tp: one rank adds the losses'.
        weight = layer.loss_weight if layer.tp.rank == 0 else 0.0
        return grad, torch.full_like(ctx.losses_2, weight), None, None
