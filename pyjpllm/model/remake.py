"""Activations that backward makes again from what it has anyway, instead of keeping them: norms and SwiGLU.

A layer that reads such an activation would keep it for its weight gradient. Inside `remade` it keeps the recipe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class _Recipe:
    """How to make one activation, and the result while more readers wait for it."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = make
        self.readers = 0
        self.waiting = 0
        self.made: Tensor | None = None

    def take(self) -> Tensor:
        """The activation, made once for all its readers of one backward."""
        if self.made is None:
            with torch.no_grad():
                self.made, self.waiting = self.make(), self.readers
        made = self.made
        self.waiting -= 1
        if self.waiting == 0:
            self.made = None
        return made


class _Kept:
    """In the place of a saved tensor: a view of the activation, by its shape, strides and offset."""

    def __init__(self, recipe: _Recipe, view: Tensor) -> None:
        self.recipe = recipe
        self.shape, self.stride, self.offset = view.shape, view.stride(), view.storage_offset()


@contextlib.contextmanager
def remade(activation: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """Inside the block, what autograd would save of ``activation`` is made again in backward by ``make()``.

    ``make`` must give the same values in a tensor laid out alike, from tensors that live until then anyway; it runs
    without autograd, once for all the layers of the block in a backward that visits each.
    """
    if not torch.is_grad_enabled():
        yield
        return
    recipe = _Recipe(make)
    # Compared by storage, so that a reshaped view counts as well; holding on to the tensor would defeat the purpose.
    storage = activation.untyped_storage()._cdata

    def pack(t: Tensor) -> Any:
        if t.untyped_storage()._cdata != storage:
            return t
        recipe.readers += 1
        return _Kept(recipe, t)

    def unpack(kept: Any) -> Tensor:
        if not isinstance(kept, _Kept):
            return kept  # type: ignore[no-any-return]
        made = kept.recipe.take()
        return made.as_strided(kept.shape, kept.stride, kept.offset)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
