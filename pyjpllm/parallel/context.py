"""Context parallelism: the tokens of every sequence split over ranks, each of which has all of the model.

B sequences, S tokens of a sequence, s this rank's tokens of it, H query heads and K key/value heads (of this
tensor-parallel rank), d head width. Only attention looks at other tokens; everything else computes on its own s.

The S tokens are cut into 2C blocks for C ranks. Rank r has blocks r and 2C-1-r, so that under a causal mask all ranks
have the same work (the "zigzag" of Megatron-LM and of Zhu's ring-flash-attention). S need not divide by 2C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor
from torch import distributed as dist

from pyjpllm import ops
from pyjpllm.distributed import Mesh, collectives
from pyjpllm.ops.memo import TensorMemo
from pyjpllm.parallel.layout import split_range
from pyjpllm.parallel.ring import ring_attention
from pyjpllm.parallel.ulysses import ulysses_attention

Kind = Literal["ring", "ulysses"]

_gathered_ids = TensorMemo()


@dataclass(frozen=True)
class ContextParallel:
    """The context-parallel ranks as attention sees them; the default is a rank alone.

    Attributes:
        group: their process group; None when ``size`` is 1.
        rank, size: this rank's place, and how many there are.
        kind: "ring": keys and values travel from rank to rank (Liu et al., 2023, arXiv:2310.01889); "ulysses": tokens
            are exchanged for heads (Jacobs et al., 2023, arXiv:2309.14509).
        sequence_length: S.
    """

    group: dist.ProcessGroup | None = None
    rank: int = 0
    size: int = 1
    kind: Kind = "ring"
    sequence_length: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"context parallelism is 'ring' or 'ulysses', got {self.kind!r}")
        if self.size > max(1, self.sequence_length):
            raise ValueError(f"{self.sequence_length} tokens cannot be shared by {self.size} context-parallel ranks")

    @classmethod
    def from_mesh(cls, mesh: Mesh, kind: Kind, sequence_length: int) -> ContextParallel:
        """The cp axis of ``mesh``, for sequences of one length."""
        return cls(mesh.group("cp"), mesh.rank("cp"), mesh.size("cp"), kind, sequence_length)

    def blocks_of(self, rank: int) -> tuple[slice, slice]:
        """The two ranges of tokens that ``rank`` has, in order; the second may be empty."""
        first, second = (
            split_range(self.sequence_length, 2 * self.size, block) for block in (rank, 2 * self.size - 1 - rank)
        )
        return slice(*first), slice(*second)

    @cached_property
    def lengths(self) -> list[int]:
        """How many tokens of a sequence each rank has."""
        return [
            sum(block.stop - block.start for block in self.blocks_of(rank)) if self.size > 1 else self.sequence_length
            for rank in range(self.size)
        ]

    def take(self, x_BS: Tensor) -> Tensor:
        """This rank's tokens of what every context-parallel rank has whole: [B, S, ...] -> [B, s, ...]."""
        if self.size == 1:
            return x_BS
        if x_BS.shape[1] != self.sequence_length:
            raise ValueError(f"sequences of {x_BS.shape[1]} tokens, not the {self.sequence_length} that are shared")
        return torch.cat([x_BS[:, block] for block in self.blocks_of(self.rank)], 1)

    def put_together(self, pieces: Sequence[Tensor]) -> Tensor:
        """The whole [B, S, ...] of the ranks' [B, s, ...], in rank order."""
        whole = pieces[0].new_empty((pieces[0].shape[0], self.sequence_length, *pieces[0].shape[2:]))
        for rank, piece in enumerate(pieces):
            first, second = self.blocks_of(rank)
            split = first.stop - first.start
            whole[:, first], whole[:, second] = piece[:, :split], piece[:, split:]
        return whole

    def gather(self, x_Bs: Tensor) -> list[Tensor]:
        """Every rank's [B, s], in rank order."""
        joined = collectives.all_gather(x_Bs, self.group, dim=1, sizes=self.lengths)
        return list(torch.split(joined, self.lengths, dim=1))

    def attention(
        self,
        q_BsHd: Tensor,
        k_BsKd: Tensor,
        v_BsKd: Tensor,
        *,
        document_ids_Bs: Tensor | None = None,
        window: int | None = None,
    ) -> Tensor:
        """Causal `ops.attention` of whole sequences, of which each rank has and gets its tokens: -> [B, s, H, d].

        A collective over the group, in backward too. A window that hides something needs "ulysses".
        """
        if self.size == 1:
            return ops.attention(q_BsHd, k_BsKd, v_BsKd, document_ids_BS=document_ids_Bs, window=window)
        if q_BsHd.shape[1] != self.lengths[self.rank]:
            raise ValueError(
                f"context-parallel rank {self.rank} of {self.size} has {q_BsHd.shape[1]} of {self.sequence_length} "
                f"tokens, not its {self.lengths[self.rank]}"
            )
        ids: list[Tensor] | None = None
        if document_ids_Bs is not None:  # once for all layers
            ids = _gathered_ids.get(document_ids_Bs, (self, "ranks"), lambda: self.gather(document_ids_Bs))
        if self.kind == "ring":
            if window is not None and window < self.sequence_length:
                raise ValueError(f"ring attention has no window, got {window} of {self.sequence_length} tokens")
            return ring_attention(q_BsHd, k_BsKd, v_BsKd, ids, self)
        ids_BS: Tensor | None = None
        if document_ids_Bs is not None and ids is not None:
            gathered = ids
            ids_BS = _gathered_ids.get(document_ids_Bs, (self, "whole"), lambda: self.put_together(gathered))
        return ulysses_attention(q_BsHd, k_BsKd, v_BsKd, ids_BS, window, self)
