"""The loss: log-sum-exp of a linear layer, and the cross-entropy whose gradients forward makes.

Letters: N tokens, D width, V vocabulary. A target outside [0, V) is none.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define, define_gradient, gradient
from pyjpllm.ops.native.tensors import _native, array, check_storage, flat_rows, shapes
from pyjpllm.ops.sums import math_of


def _call_linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and target's logit of each token, [N] each."""
    lse_N, target_logit_N = _fake_linear_logsumexp(hidden_ND, weight_VD, targets_N)
    _native.linear_logsumexp(
        array(hidden_ND),
        array(weight_VD),
        array(targets_N.contiguous()),
        array(lse_N),
        array(target_logit_N),
        torch.get_num_threads(),
        *math_of(hidden_ND.dtype, integers=False),
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
    dhidden_ND, dweight_VD = _gradients(hidden_ND, weight_VD, need_hidden, need_weight)
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
        *math_of(hidden_ND.dtype, integers=False),
    )
    return dhidden_ND, dweight_VD.to(weight_VD.dtype)


def _gradients(hidden: Tensor, weight: Tensor, need_hidden: bool, need_weight: bool) -> tuple[Tensor, Tensor]:
    """Room for the gradients, that of weight in FP32; one that is not needed is an empty tensor."""
    return (
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,), dtype=torch.float32),
    )


def _fake_linear_logsumexp(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    lse, target_logit = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(2))
    return lse, target_logit


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
    dhidden, dweight = _gradients(hidden, weight, need_hidden, need_weight)
    return dhidden, dweight.to(weight.dtype)


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


def _call_summed_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float, need_hidden: bool, need_weight: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and z-loss summed over tokens, and the gradients of their sum, as `_gradients` has them."""
    dhidden_ND, dweight_VD = _gradients(hidden_ND, weight_VD, need_hidden, need_weight)
    sums = _native.linear_cross_entropy(
        array(hidden_ND),
        array(weight_VD),
        array(targets_N.contiguous()),
        z_loss,
        array(dhidden_ND) if need_hidden else None,
        array(dweight_VD) if need_weight else None,
        torch.get_num_threads(),
        *math_of(hidden_ND.dtype, integers=False),
    )
    loss, penalty = (torch.tensor(x, dtype=torch.float32) for x in sums)
    return loss, penalty, dhidden_ND, dweight_VD


def _fake_summed_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, need_hidden: bool, need_weight: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, penalty = (hidden.new_empty((), dtype=torch.float32) for _ in range(2))
    return loss, penalty, *_gradients(hidden, weight, need_hidden, need_weight)


def _call_scale_(x: Tensor, factor: Tensor) -> None:
    """``x *= factor``, contiguous."""
    x_MN = array(flat_rows(x)[0])
    _native.cast(x_MN, x_MN, float(factor), torch.get_num_threads())


def _fake_scale_(x: Tensor, factor: Tensor) -> None:
    return None


def _call_scaled(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """``(factor * x).to(dtype)``, contiguous, rounded once."""
    out = torch.empty_like(x, dtype=dtype)
    x_MN, out_MN = map(array, flat_rows(x, out))
    _native.cast(x_MN, out_MN, float(factor), torch.get_num_threads())
    return out


def _fake_scaled(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


def _keep_summed_cross_entropy(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, ctx.z_loss, *ctx.made = inputs
    ctx.save_for_backward(hidden, weight, targets)
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)
    ctx.gradients = output[2:]


def _summed_cross_entropy_backward(
    ctx: Any, dloss: Tensor | None, dpenalty: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
    hidden, weight, targets = ctx.saved_tensors
    none = (None, None, None, None)
    if dloss is None and (dpenalty is None or ctx.z_loss == 0):
        return None, None, *none
    if dloss is None or (dpenalty is not dloss and ctx.z_loss != 0):
        return *_unequal_gradients(ctx, dloss, dpenalty), *none
    # Scaled in place, so a second backward through the graph makes them again.
    gradients, ctx.gradients = ctx.gradients, None
    if gradients is None:
        gradients = OPS.summed_cross_entropy(hidden, weight, targets, ctx.z_loss, *ctx.made)[2:]
    scaled = (
        _scale(gradient, dloss, x.dtype) if made else None
        for gradient, x, made in zip(gradients, (hidden, weight), ctx.made, strict=True)
    )
    return *scaled, *none  # type: ignore[return-value]


def _scale(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    if gradient.dtype != dtype or torch.is_grad_enabled():  # enabled: a second derivative may be asked for, and refused
        return cast(Tensor, OPS.scaled(gradient, factor, dtype))
    OPS.scale_(gradient, factor)
    return gradient


def _unequal_gradients(ctx: Any, dloss: Tensor | None, dpenalty: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Where loss and z-loss count with different factors: a fourth product makes the logits again."""
    hidden, weight, targets = ctx.saved_tensors
    lse_N = OPS.linear_logsumexp(hidden, weight, targets)[0]
    counts_N = (targets >= 0) & (targets < weight.shape[0])
    zero = lse_N.new_zeros(())
    of_loss, of_penalty = (zero if d is None else d for d in (dloss, dpenalty))
    dlse_N = torch.where(counts_N, of_loss + of_penalty * (2 * ctx.z_loss) * lse_N, zero)
    dtarget_N = torch.where(counts_N, -of_loss, zero)
    gradients = OPS.linear_logsumexp_backward(hidden, weight, targets, lse_N, dlse_N, dtarget_N, *ctx.made)
    dhidden, dweight = (gradient if made else None for gradient, made in zip(gradients, ctx.made, strict=True))
    return dhidden, dweight


define(
    "summed_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, float z_loss, bool need_hidden, "
    "bool need_weight) -> (Tensor, Tensor, Tensor, Tensor)",
    _call_summed_cross_entropy,
    _fake_summed_cross_entropy,
)
gradient("summed_cross_entropy", _summed_cross_entropy_backward, _keep_summed_cross_entropy)
define("scale_(Tensor(a!) x, Tensor factor) -> ()", _call_scale_, _fake_scale_)
define_gradient("scaled(Tensor x, Tensor factor, ScalarType dtype) -> Tensor", _call_scaled, _fake_scaled)


def linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """(log-sum-exp [N], target's logit [N]) of ``hidden @ weight.T``; see `pyjpllm.ops.api.linear_logsumexp`."""
    check_storage("linear_logsumexp", hidden=hidden_ND, weight=weight_VD)
    fits = hidden_ND.ndim == 2 and weight_VD.ndim == 2 and hidden_ND.shape[1] == weight_VD.shape[1]
    fits = fits and targets_N.shape == hidden_ND.shape[:1]
    shapes("linear_logsumexp", "hidden [N, D], weight [V, D] and targets [N]", fits, hidden_ND, weight_VD, targets_N)
    return cast("tuple[Tensor, Tensor]", OPS.linear_logsumexp(hidden_ND, weight_VD, targets_N))


def summed_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, valid_N: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Loss and z-loss of `pyjpllm.ops.api.linear_cross_entropy`; forward makes the gradients of their sum.

    Backward scales them where both sums have one factor, and makes all again where they have two.
    """
    check_storage("linear_cross_entropy", hidden=hidden_ND, weight=weight_VD)
    fits = hidden_ND.ndim == 2 and weight_VD.ndim == 2 and hidden_ND.shape[1] == weight_VD.shape[1]
    fits = fits and targets_N.shape == valid_N.shape == hidden_ND.shape[:1]
    shapes(
        "linear_cross_entropy", "hidden [N, D], weight [V, D] and targets [N]", fits, hidden_ND, weight_VD, targets_N
    )
    wanted = torch.is_grad_enabled()
    targets_N = torch.where(valid_N, targets_N, -1)
    loss, penalty, _, _ = OPS.summed_cross_entropy(
        *(hidden_ND, weight_VD, targets_N, z_loss),
        *(wanted and hidden_ND.requires_grad, wanted and weight_VD.requires_grad),
    )
    return loss, penalty
