"""The loss: log-sum-exp of a linear layer. Letters: N tokens, D width, V vocabulary."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define, define_gradient, gradient
from pyjpllm.ops.native.tensors import _native, array, check, shapes


def _call_linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and target's logit of each token, [N] each."""
    lse_N, target_logit_N = hidden_ND.new_empty(hidden_ND.shape[0]), hidden_ND.new_empty(hidden_ND.shape[0])
    _native.linear_logsumexp(
        array(hidden_ND),
        array(weight_VD),
        array(targets_N.contiguous()),
        array(lse_N),
        array(target_logit_N),
        torch.get_num_threads(),
    )
    return lse_N, target_logit_N


def _call_linear_logsumexp_backward(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    lse_N: Tensor,
    dlse_N: Tensor,
    dtarget_logit_N: Tensor,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden and weight; one that is not needed is an empty tensor."""
    dhidden_ND = hidden_ND.new_empty(hidden_ND.shape if need_hidden else (0,))
    dweight_VD = weight_VD.new_empty(weight_VD.shape if need_weight else (0,))
    _native.linear_logsumexp_backward(
        array(hidden_ND),
        array(weight_VD),
        array(targets_N.contiguous()),
        array(lse_N),
        array(dlse_N.contiguous()),
        array(dtarget_logit_N.contiguous()),
        array(dhidden_ND) if need_hidden else None,
        array(dweight_VD) if need_weight else None,
        torch.get_num_threads(),
    )
    return dhidden_ND, dweight_VD


def _fake_linear_logsumexp(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape[0]), hidden.new_empty(hidden.shape[0])


def _fake_linear_logsumexp_backward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    lse: Tensor,
    dlse: Tensor,
    dtarget_logit: Tensor,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    return (
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


def _keep_linear_logsumexp(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[0])


def _linear_logsumexp_backward(
    ctx: Any, dlse: Tensor, dtarget_logit: Tensor
) -> tuple[Tensor | None, Tensor | None, None]:
    hidden, weight, targets, lse = ctx.saved_tensors
    need_hidden, need_weight = ctx.needs_input_grad[:2]
    dhidden, dweight = OPS.linear_logsumexp_backward(
        hidden, weight, targets, lse, dlse, dtarget_logit, need_hidden, need_weight
    )
    return dhidden if need_hidden else None, dweight if need_weight else None, None


define(
    "linear_logsumexp(Tensor hidden, Tensor weight, Tensor targets) -> (Tensor, Tensor)",
    _call_linear_logsumexp,
    _fake_linear_logsumexp,
)
define_gradient(
    "linear_logsumexp_backward(Tensor hidden, Tensor weight, Tensor targets, Tensor lse, Tensor dlse, "
    "Tensor dtarget_logit, bool need_hidden, bool need_weight) -> (Tensor, Tensor)",
    _call_linear_logsumexp_backward,
    _fake_linear_logsumexp_backward,
)
gradient("linear_logsumexp", _linear_logsumexp_backward, _keep_linear_logsumexp)


def linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """(log-sum-exp [N], target's logit [N]) of ``hidden @ weight.T``; see `pyjpllm.ops.api.linear_logsumexp`."""
    check("linear_logsumexp", hidden=hidden_ND, weight=weight_VD)
    fits = hidden_ND.ndim == 2 and weight_VD.ndim == 2 and hidden_ND.shape[1] == weight_VD.shape[1]
    fits = fits and targets_N.shape == hidden_ND.shape[:1]
    shapes("linear_logsumexp", "hidden [N, D], weight [V, D] and targets [N]", fits, hidden_ND, weight_VD, targets_N)
    return cast("tuple[Tensor, Tensor]", OPS.linear_logsumexp(hidden_ND, weight_VD, targets_N))
