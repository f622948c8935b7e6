"""A memory of what was computed from a tensor, so that the layers that share the tensor share the result."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class TensorMemo:
    """Results by (tensor, key). They are dropped with the tensor, and made again once it was written to."""

    def __init__(self) -> None:
        self._results: Any = WeakIdKeyDictionary()

    def get(self, tensor: Tensor, key: Hashable, make: Callable[[], Any]) -> Any:
        """``make()``, or what it gave before for this very tensor (not a copy of it), unchanged since, and ``key``."""
        if tensor.is_inference() or torch.is_inference_mode_enabled():  # no count of writes; unfit for autograd
            return make()
        version = tensor._version
        known_version, results = self._results.get(tensor, (None, {}))
        if known_version != version:
            results = {}
            self._results[tensor] = (version, results)
        if key not in results:
            results[key] = make()
        return results[key]
