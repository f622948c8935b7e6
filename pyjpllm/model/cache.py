"""Keys and values of the positions a model has read, for generation.

B batch, T positions, K this rank's kv heads, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Room for ``capacity`` positions of each of ``layers``, which are by their numbers in the model.

    Layers fill it in turn, `advance` then moves all on.
    Made by `Transformer.new_cache`.
    """

    def __init__(
        self,
        layers: Sequence[int],
        batch: int,
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self._place = {layer: place for place, layer in enumerate(layers)}
        shape = (len(layers), batch, capacity, num_kv_heads, head_dim)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, k_BSKd: Tensor, v_BSKd: Tensor) -> tuple[Tensor, Tensor]:
        """Put the next positions of ``layer`` in; all its keys and values so far, [B, T, K, d] each."""
        stop = self.length + k_BSKd.shape[1]
        if stop > self.capacity:
            raise ValueError(f"the key-value cache has room for {self.capacity} positions, {stop} are needed")
        keys, values = (kept[self._place[layer]] for kept in (self._keys, self._values))
        keys[:, self.length : stop] = k_BSKd
        values[:, self.length : stop] = v_BSKd
        return keys[:, :stop], values[:, :stop]

    def advance(self, positions: int) -> None:
        """Count ``positions`` as read by all layers."""
        self.length += positions
