"""A micro-batch of token windows, as the model takes it.

B sequences of a micro-batch   S tokens of a sequence
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """``tokens_BS`` in, ``targets_BS`` out (int64; -100 is not counted).

    ``positions_BS`` int64 are places for the rotary embedding. ``document_ids_BS`` int64 tell which tokens of a row
    belong together (they do not decrease along a row); None when every token may attend to all before it.
    """

    tokens_BS: Tensor
    targets_BS: Tensor
    positions_BS: Tensor
    document_ids_BS: Tensor | None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        ids = self.document_ids_BS
        return Batch(
            self.tokens_BS.to(device),
            self.targets_BS.to(device),
            self.positions_BS.to(device),
            None if ids is None else ids.to(device),
        )


def positions_of(document_ids_BS: Tensor) -> Tensor:
    """Positions that start at 0 with each run of equal document ids, int64 [B, S]."""
    places_BS = torch.arange(document_ids_BS.shape[1], device=document_ids_BS.device).expand_as(document_ids_BS)
    starts_BS = torch.zeros_like(document_ids_BS, dtype=torch.bool)
    starts_BS[:, 1:] = document_ids_BS[:, 1:] != document_ids_BS[:, :-1]
    first_BS = torch.where(starts_BS, places_BS, torch.zeros_like(places_BS)).cummax(dim=1).values
    return places_BS - first_BS
