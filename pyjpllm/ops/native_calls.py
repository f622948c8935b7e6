"""Calls of the compiled kernels with torch tensors: views as rows, makes outputs, passes addresses and strides.

These functions know nothing of autograd (`pyjpllm.ops.native_library` adds it). All tensors are on the CPU and FP32.
Letters: M rows, I inputs, O outputs, D width, N tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

try:
    from pyjpllm import _native
except ImportError as error:
    if str(error).startswith("JPLLM_ISA"):
        raise
    raise ImportError(
        f"the native kernels are not built for this Python ({error}); `pip install .` in the source tree builds them"
    ) from error

_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int64: "int64",
    torch.int32: "int32",
}


def array(t: Tensor) -> _native.Array:
    """What the compiled module takes for an array; it holds the tensor, which may be a copy made for the call."""
    return t.data_ptr(), t.shape, t.stride(), _NAMES.get(t.dtype, str(t.dtype)), t


def rows(x: Tensor) -> Tensor:
    """x [..., D] as a matrix [M, D]; a copy only where its strides cannot say so. One dimension is one row."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def rows_in_line(x: Tensor) -> Tensor:
    """`rows` whose elements lie side by side, as the kernels that walk rows want them."""
    x_MD = rows(x)
    return x_MD if x_MD.shape[1] <= 1 or x_MD.stride(1) == 1 else x_MD.contiguous()


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``: [..., I] -> [..., O]."""
    y = x.new_empty((*x.shape[:-1], weight_OI.shape[0]))
    bias = None if bias_O is None else array(bias_O.contiguous())
    _native.gemm(array(rows(x)), array(weight_OI.t()), array(rows(y)), bias, False, torch.get_num_threads())
    return y


def linear_grad_input(dy: Tensor, weight_OI: Tensor) -> Tensor:
    """``dy @ weight``: [..., O] -> [..., I]."""
    dx = dy.new_empty((*dy.shape[:-1], weight_OI.shape[1]))
    _native.gemm(array(rows(dy)), array(weight_OI), array(rows(dx)), None, False, torch.get_num_threads())
    return dx


def linear_grad_weight(dy: Tensor, x: Tensor) -> Tensor:
    """``dy.T @ x`` over all rows: [..., O] and [..., I] -> [O, I]."""
    dweight_OI = x.new_empty((dy.shape[-1], x.shape[-1]))
    _native.gemm(array(rows(dy).t()), array(rows(x)), array(dweight_OI), None, False, torch.get_num_threads())
    return dweight_OI


def linear_grad_bias(dy: Tensor) -> Tensor:
    """Sum of dy over all rows: [..., O] -> [O]."""
    dbias_O = dy.new_empty(dy.shape[-1])
    _native.column_sum(array(rows_in_line(dy)), array(dbias_O), torch.get_num_threads())
    return dbias_O


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of each row [..., D], and 1 / sqrt(mean(x^2) + eps) of each row [M] for the backward."""
    x_MD = rows_in_line(x)
    y = x.new_empty(x.shape)
    rstd_M = x.new_empty(x_MD.shape[0])
    weight = array(weight_D.contiguous())
    _native.rms_norm(array(x_MD), weight, eps, array(rows(y)), array(rstd_M), torch.get_num_threads())
    return y, rstd_M


def rms_norm_backward(dy: Tensor, x: Tensor, weight_D: Tensor, rstd_M: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of weight."""
    dx, dweight_D = x.new_empty(x.shape), weight_D.new_empty(weight_D.shape)
    _native.rms_norm_backward(
        array(rows_in_line(dy)),
        array(rows_in_line(x)),
        array(weight_D.contiguous()),
        array(rstd_M),
        array(rows(dx)),
        array(dweight_D),
        torch.get_num_threads(),
    )
    return dx, dweight_D


def _flat_rows(*tensors: Tensor) -> list[Tensor]:
    """Elementwise operands as matrices: one long row where all are contiguous, so that threads split it evenly."""
    if all(t.is_contiguous() for t in tensors):
        size = tensors[0].numel()
        width = next((w for w in (1024, 256, 64) if size % w == 0), max(tensors[0].shape[-1], 1))
        return [t.view(size // width, width) for t in tensors]
    return [rows_in_line(t) for t in tensors]


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    y = gate.new_empty(gate.shape)
    gate_MD, up_MD, y_MD = _flat_rows(gate, up, y)
    _native.swiglu(array(gate_MD), array(up_MD), array(y_MD), torch.get_num_threads())
    return y


def swiglu_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and of up."""
    dgate, dup = gate.new_empty(gate.shape), up.new_empty(up.shape)
    dy_MD, gate_MD, up_MD, dgate_MD, dup_MD = map(array, _flat_rows(dy, gate, up, dgate, dup))
    _native.swiglu_backward(dy_MD, gate_MD, up_MD, dgate_MD, dup_MD, torch.get_num_threads())
    return dgate, dup


def linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
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


def linear_logsumexp_backward(
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


def adamw_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    model_param: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float,
) -> None:
    """One step in place on flat buffers."""
    _native.adamw_step(
        array(param),
        array(grad),
        array(exp_avg),
        array(exp_avg_sq),
        None if model_param is None else array(model_param),
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        step,
        grad_scale,
        torch.get_num_threads(),
    )
