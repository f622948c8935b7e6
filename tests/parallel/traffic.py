"""What docs/parallelism.md says travels, counted: every collective of one forward and backward of a transformer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pyjpllm.config.schema import ModelConfig
from pyjpllm.distributed import World, collectives, make_mesh
from pyjpllm.model import Transformer, initialize
from pyjpllm.parallel import DataParallel, FlatParameters, TensorParallel
from pyjpllm.parallel.flat import ALIGNMENT_BYTES

LAYERS, D, VOCABULARY, TOKENS = 2, 12, 11, 15
CONFIG = ModelConfig(
    hidden_size=D,
    num_layers=LAYERS,
    num_heads=6,
    num_kv_heads=3,
    head_dim=4,
    intermediate_size=7,
    vocab_size=VOCABULARY,
)


@contextmanager
def counted() -> Iterator[Counter[tuple[str, int]]]:
    """How often each (collective, elements of the whole tensor) is called."""
    calls: Counter[tuple[str, int]] = Counter()
    originals = {name: getattr(collectives, name) for name in ("all_reduce", "all_gather", "reduce_scatter")}

    def counting(name: str) -> Any:
        def call(tensor: torch.Tensor, group: Any, *args: Any, **kwargs: Any) -> Any:
            result = originals[name](tensor, group, *args, **kwargs)
            if group is not None:
                calls[name, (result if name == "all_gather" else tensor).numel()] += 1
            return result

        return call

    for name in originals:
        setattr(collectives, name, counting(name))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(collectives, name, original)


def check_traffic(world: World) -> None:
    mesh = make_mesh(world, tp=world.size)
    whole = TOKENS * D
    ids = torch.arange(TOKENS).view(3, 5) % VOCABULARY
    for sequence in (False, True):
        model = Transformer(CONFIG, tp=TensorParallel.from_mesh(mesh, sequence))
        initialize(model, seed=1)
        flat = FlatParameters(model.named_parameters())
        dp = DataParallel(flat)
        with counted() as calls:
            with dp.accumulate(last=True):
                model.loss(ids, ids).loss.backward()
            dp.finish()
        loss = {("all_reduce", TOKENS): 1, ("all_reduce", 2 * TOKENS): 1}
        if sequence:
            # Blocks: 2 all-gathers and 2 reduce-scatters each way. The embedding scatters and gathers once; so does the
            # loss, the other way round.
            each = 4 * LAYERS + 2
            aligned = -(-D * 4 // ALIGNMENT_BYTES) * ALIGNMENT_BYTES // 4  # they travel as they lie in their buffer
            norms = 2 * LAYERS * aligned + D
            expected = {("all_gather", whole): each, ("reduce_scatter", whole): each, ("all_reduce", norms): 1} | loss
        else:
            # Blocks: 2 all-reduces each way; the embedding's on the way in, the loss's on the way back.
            expected = {("all_reduce", whole): 4 * LAYERS + 2} | loss
        assert dict(calls) == expected, (dict(calls), expected)
