"""Rows of an embedding table. Letters: N tokens, V rows of the table, D width."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define, define_gradient, gradient
from pyjpllm.ops.native.tensors import _native, array, check_storage, rows, rows_in_line, shapes


def _call_embedding(ids: Tensor, weight_VD: Tensor) -> Tensor:
    """Rows of weight by ids [...]: [..., D]."""
    y = weight_VD.new_empty((*ids.shape, weight_VD.shape[1]))
    ids_N = ids.reshape(-1)
    try:
        _native.embedding(array(ids_N), array(rows_in_line(weight_VD)), array(rows(y)), torch.get_num_threads())
    except IndexError:
        low, high = int(ids_N.min()), int(ids_N.max())
        raise IndexError(f"embedding: ids {low}..{high} of a table of {weight_VD.shape[0]} rows") from None
    return y


def _call_embedding_backward(dy: Tensor, ids: Tensor, vocabulary: int) -> Tensor:
    """Gradient [V, D] of the table: each row summed in FP32, in the order of the tokens."""
    dweight_VD = dy.new_empty((vocabulary, dy.shape[-1]))
    ids_N = array(ids.reshape(-1))
    _native.embedding_backward(ids_N, array(rows_in_line(dy)), array(dweight_VD), torch.get_num_threads())
    return dweight_VD


def _fake_embedding(ids: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty((*ids.shape, weight.shape[1]))


def _fake_embedding_backward(dy: Tensor, ids: Tensor, vocabulary: int) -> Tensor:
    return dy.new_empty((vocabulary, dy.shape[-1]))


def _keep_embedding(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ids, weight = inputs
    ctx.vocabulary = weight.shape[0]
    ctx.save_for_backward(ids)


def _embedding_backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor]:
    return None, OPS.embedding_backward(dy, *ctx.saved_tensors, ctx.vocabulary)


define("embedding(Tensor ids, Tensor weight) -> Tensor", _call_embedding, _fake_embedding)
define_gradient(
    "embedding_backward(Tensor dy, Tensor ids, SymInt vocabulary) -> Tensor",
    _call_embedding_backward,
    _fake_embedding_backward,
)
gradient("embedding", _embedding_backward, _keep_embedding)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [V, D] by ids [...] (int64) -> [..., D]; an id outside [0, V) raises IndexError."""
    check_storage("embedding", weight=weight)
    if ids.dtype != torch.int64:
        raise ValueError(f"embedding: ids are int64, got {str(ids.dtype).removeprefix('torch.')}")
    shapes("embedding", "ids [...] and weight [V, D]", weight.ndim == 2, ids, weight)
    return cast(Tensor, OPS.embedding(ids, weight))
