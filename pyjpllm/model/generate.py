"""Continuing a text, one token at a time, with a key-value cache. B batch, S sequence, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyjpllm import ops
from pyjpllm.config.schema import ModelConfig
from pyjpllm.errors import UserError
from pyjpllm.model.cache import KVCache


class Reader(Protocol):
    """What generation needs of a model: a `Transformer`, or one that lies on several ranks."""

    @property
    def config(self) -> ModelConfig:
        """Its shape."""

    @property
    def device(self) -> torch.device:
        """Where tokens are to be."""

    def linear_weights(self) -> Iterator[Tensor]:
        """This rank's weights of all linear layers."""

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for ``batch`` rows of up to ``capacity`` positions."""

    def next_logits(self, tokens_BS: Tensor, cache: KVCache) -> Tensor:
        """Read the tokens into the cache; logits_BV of what comes after the last."""


def generate(
    model: Reader,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    eos_id: int | None = None,
) -> list[int]:
    """The ids that follow ``prompt_ids``, ``eos_id`` included where it comes; see `stream`."""
    tokens = stream(
        model,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        eos_id=eos_id,
    )
    with ops.prepacked(model.linear_weights(), rows=1):
        return list(tokens)


def stream(
    model: Reader,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    eos_id: int | None = None,
) -> Iterator[int]:
    """Yield the ids that follow ``prompt_ids`` as they come, at most ``max_new_tokens``, ending with ``eos_id``.

    Args:
        temperature: 0 takes the likeliest token; logits are divided by it otherwise.
        top_k: only the k likeliest tokens are drawn.
        top_p: only the fewest likeliest tokens that reach this probability are drawn (Holtzman et al., 2020).
        seed: of the draws. The same seed gives the same tokens, on every rank of tensor parallelism.

    Raises UserError for an empty prompt, ids outside of the vocabulary and settings out of range.
    """
    _check(model, prompt_ids, max_new_tokens, temperature, top_k, top_p)
    return _stream(model, prompt_ids, max_new_tokens, temperature, top_k, top_p, seed, eos_id)


def _stream(
    model: Reader,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    eos_id: int | None,
) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    device = model.device
    cache = model.new_cache(1, len(prompt_ids) + max_new_tokens)
    tokens_1S = torch.tensor([list(prompt_ids)], dtype=torch.int64, device=device)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits_V = model.next_logits(tokens_1S, cache)[0].double().cpu()
        token = choose(logits_V, temperature, top_k, top_p, generator)
        yield token
        if token == eos_id:
            return
        tokens_1S = torch.tensor([[token]], device=device)


def choose(
    logits_V: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> int:
    """One token drawn from FP64 logits on the CPU."""
    if temperature == 0:
        return int(logits_V.argmax())
    sorted_V, tokens_V = torch.sort(logits_V / temperature, descending=True, stable=True)
    if top_k is not None:
        sorted_V, tokens_V = sorted_V[:top_k], tokens_V[:top_k]
    probs_V = torch.softmax(sorted_V, 0)
    if top_p is not None:
        before_V = probs_V.cumsum(0) - probs_V
        probs_V = probs_V[before_V < top_p]
    reached_V = probs_V.cumsum(0)
    draw = torch.rand((), generator=generator, dtype=torch.float64) * reached_V[-1]
    at = torch.searchsorted(reached_V, draw, right=True).clamp(max=len(probs_V) - 1)
    return int(tokens_V[at])


def _check(
    model: Reader,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    vocab_size = model.config.vocab_size
    if not prompt_ids:
        raise UserError("the prompt has no tokens: give some text, or begin with the tokenizer's bos or eos")
    wrong = next((token for token in prompt_ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise UserError(f"token {wrong} of the prompt is outside of the model's vocabulary of {vocab_size}")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens = {max_new_tokens} is negative")
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature = {temperature} is not a number from 0 up")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k = {top_k} keeps no token; the least is 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p = {top_p} is not within (0, 1]")
