"""Contiguous stand-ins for tensors that MPI cannot read or write as they are."""

from __future__ import annotations

import torch

from pyjpllm.distributed.engine import Steps


class Staging:
    """The stand-ins of one operation: filled on the caller's thread, copied back when the operation is done."""

    def __init__(self) -> None:
        self._back: list[tuple[torch.Tensor, torch.Tensor]] = []

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor with the content of ``x``: itself where possible."""
        x = dense_cpu(x)
        return x if _as_is(x) else x.resolve_conj().resolve_neg().contiguous()

    def write(self, x: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor whose content ends up in ``x``; its content before is undefined."""
        x = dense_cpu(x)
        if _as_is(x):
            return x
        stand_in = torch.empty(x.shape, dtype=x.dtype)
        self._back.append((x, stand_in))
        return stand_in

    def update(self, x: torch.Tensor) -> torch.Tensor:
        """Both, for operations in place."""
        stand_in = self.write(x)
        if self._back and self._back[-1][1] is stand_in:
            stand_in.copy_(self._back[-1][0])
        return stand_in

    def around(self, steps: Steps) -> Steps:
        """``steps``, and then the copying back."""
        yield from steps
        for x, stand_in in self._back:
            x.copy_(stand_in)


def dense_cpu(x: torch.Tensor) -> torch.Tensor:
    """``x`` without autograd; ValueError unless it is a dense CPU tensor."""
    if not x.is_cpu or x.layout is not torch.strided:
        raise ValueError(f"mpi4py: needs dense CPU tensors, not {x.layout} on {x.device}")
    return x.detach() if x.requires_grad else x


def _as_is(x: torch.Tensor) -> bool:
    return x.is_contiguous() and not x.is_conj() and not x.is_neg()
