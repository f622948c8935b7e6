"""Ring attention: keys and values go round the ranks while each computes with what it holds (Liu et al., 2023).

B sequences, s this rank's tokens and t another's, H query heads, K key/value heads, d head width. Which tokens a rank
has is in `pyjpllm.parallel.context`. Messages travel while blocks are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from pyjpllm import ops

if TYPE_CHECKING:
    from pyjpllm.parallel.context import ContextParallel

_KEYS, _GRADIENTS = 0, 1  # tags


def ring_attention(
    q_BsHd: Tensor, k_BsKd: Tensor, v_BsKd: Tensor, ids: list[Tensor] | None, cp: ContextParallel
) -> Tensor:
    """Causal attention of whole sequences to this rank's queries; ``ids``: every rank's document ids [B, t].

    Results of blocks are put together, and gradients added up and sent, in FP32 (FP64 for FP64).
    """
    out: Tensor = _Ring.apply(q_BsHd, k_BsKd, v_BsKd, ids, cp)  # type: ignore[no-untyped-call]
    return out


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BsHd: Tensor, k_BsKd: Tensor, v_BsKd: Tensor, ids: list[Tensor] | None, cp: ContextParallel
    ) -> Tensor:
        ring = _Neighbours(cp)
        total: _Total | None = None
        for source, keys in ring.all_keys(torch.stack((k_BsKd, v_BsKd))):
            block = _Block(cp, source, ids)
            if block.empty:
                continue
            k, v = keys[:, :, block.keys]
            part = ops.attention_block(
                q_BsHd[:, block.queries],
                k,
                v,
                causal=block.causal,
                document_ids_BS=block.ids,
                key_document_ids_BT=block.key_ids,
            )
            if total is None:  # the rank's own tokens, which come first
                total = _Total(*part)
            else:
                total.add(block.queries, *part)
        assert total is not None
        out_BsHd = total.out_BsHd.to(q_BsHd.dtype)
        ctx.save_for_backward(q_BsHd, k_BsKd, v_BsKd, out_BsHd, total.lse_BHs)
        ctx.ids, ctx.cp = ids, cp
        return out_BsHd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BsHd: Tensor) -> tuple[Tensor | None, ...]:
        q_BsHd, k_BsKd, v_BsKd, out_BsHd, lse_BHs = ctx.saved_tensors
        cp: ContextParallel = ctx.cp
        ring = _Neighbours(cp)
        wide = torch.promote_types(q_BsHd.dtype, torch.float32)
        dq_BsHd = torch.zeros_like(q_BsHd, dtype=wide)
        own = torch.zeros((2, *k_BsKd.shape), dtype=wide, device=k_BsKd.device)
        arriving: tuple[Tensor, list[Any]] | None = None
        for source, keys in ring.all_keys(torch.stack((k_BsKd, v_BsKd))):
            block = _Block(cp, source, ctx.ids)
            dkeys = own if source == cp.rank else torch.zeros_like(keys, dtype=wide)
            if not block.empty:
                rows = block.queries
                k, v = keys[:, :, block.keys]
                dq, dk, dv = ops.attention_block_backward(
                    dout_BsHd[:, rows],
                    q_BsHd[:, rows],
                    k,
                    v,
                    out_BsHd[:, rows],
                    lse_BHs[:, :, rows],
                    causal=block.causal,
                    document_ids_BS=block.ids,
                    key_document_ids_BT=block.key_ids,
                )
                dq_BsHd[:, rows] += dq
                dkeys[0, :, block.keys] += dk
                dkeys[1, :, block.keys] += dv
            if source == cp.rank:
                continue
            if arriving is not None:  # what the ranks before have made for the same tokens
                dkeys += _arrived(arriving)
            # The last rank of the way is the one before the tokens' own: what comes to this rank then is its own.
            arriving = ring.pass_on(dkeys, (source - 1) % cp.size, _GRADIENTS)
        assert arriving is not None
        own += _arrived(arriving)
        return dq_BsHd.to(q_BsHd.dtype), own[0].to(k_BsKd.dtype), own[1].to(v_BsKd.dtype), None, None


class _Neighbours:
    """The rank after this one, to which it sends, and the one before, from which it receives."""

    def __init__(self, cp: ContextParallel) -> None:
        self.cp = cp
        self.after, self.before = (cp.rank + 1) % cp.size, (cp.rank - 1) % cp.size

    def all_keys(self, own: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(rank, its keys and values [2, B, t, K, d]) for this rank and those before it, one after the other; the next
        travel while these are used."""
        held = own
        for step in range(self.cp.size):
            source = (self.cp.rank - step) % self.cp.size
            last = step + 1 == self.cp.size
            arriving = None if last else self.pass_on(held, (source - 1) % self.cp.size, _KEYS)
            yield source, held
            if arriving is not None:
                held = _arrived(arriving)

    def pass_on(self, held: Tensor, source: int, tag: int) -> tuple[Tensor, list[Any]]:
        """Send ``held`` and receive its like for the tokens of ``source``: what arrives, once it is waited for."""
        made = held.new_empty((*held.shape[:2], self.cp.lengths[source], *held.shape[3:]))
        group = self.cp.group
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, held, group=group, group_peer=self.after, tag=tag),
                dist.P2POp(dist.irecv, made, group=group, group_peer=self.before, tag=tag),
            ]
        )
        return made, works


def _arrived(arriving: tuple[Tensor, list[Any]]) -> Tensor:
    made, works = arriving
    for work in works:
        work.wait()
    return made


class _Block:
    """Which of this rank's queries see which of the keys of the rank ``source``.

    Own keys: causally. Keys of a rank before: all queries see its first block, none its second. Keys of a rank after:
    the queries of the second block see them all, those of the first none.
    """

    def __init__(self, cp: ContextParallel, source: int, ids: list[Tensor] | None) -> None:
        self.queries, self.keys, self.causal = slice(0, cp.lengths[cp.rank]), slice(0, cp.lengths[source]), False
        if source == cp.rank:
            self.causal = True
        elif source < cp.rank:
            first, _ = cp.blocks_of(source)
            self.keys = slice(0, first.stop - first.start)
        else:
            first, _ = cp.blocks_of(cp.rank)
            self.queries = slice(first.stop - first.start, self.queries.stop)
        self.empty = self.queries.start == self.queries.stop or self.keys.start == self.keys.stop
        self.ids: Tensor | None = None
        self.key_ids: Tensor | None = None
        if ids is not None and not self.empty:
            self.ids, self.key_ids = ids[cp.rank][:, self.queries], ids[source][:, self.keys]
            self.empty = _apart(self.ids, self.key_ids)


def _apart(ids_Bs: Tensor, ids_Bt: Tensor) -> bool:
    """Whether it is certain, and cheap to tell, that no document is in both."""
    if not ids_Bs.is_cpu:
        return False
    (low_s, high_s), (low_t, high_t) = (torch.aminmax(ids, dim=1) for ids in (ids_Bs, ids_Bt))
    return not bool(((low_s <= high_t) & (low_t <= high_s)).any())


class _Total:
    """The output of the keys seen so far, by their log-sum-exp."""

    def __init__(self, out_BsHd: Tensor, lse_BHs: Tensor) -> None:
        self.out_BsHd, self.lse_BHs = out_BsHd.to(lse_BHs.dtype), lse_BHs

    def add(self, rows: slice, out_BsHd: Tensor, lse_BHs: Tensor) -> None:
        """Add to the queries ``rows`` what other keys give; all of them have seen a key before."""
        before_BHs = self.lse_BHs[:, :, rows]
        after_BHs = torch.logaddexp(before_BHs, lse_BHs)
        kept_BsH1, new_BsH1 = ((lse - after_BHs).exp_().transpose(1, 2).unsqueeze(-1) for lse in (before_BHs, lse_BHs))
        self.out_BsHd[:, rows].mul_(kept_BsH1).add_(out_BsHd * new_BsH1)
        before_BHs.copy_(after_BHs)
