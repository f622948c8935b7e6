"""Memory by rank of weights, gradients, optimizer and activations: measured beside the formula.

    python -m benchmarks.memory [--write docs/parallelism-measured.md]

Real ranks take two steps of a small model in each layout. Every storage that an operation makes is followed from its
allocation to its end; what is alive after each action of a step, beyond what was there before it, are the activations.
Where tokens go to experts, the formula is given the load that the rank's experts had: their rows over an even share.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.ranks import on_ranks, write_between
from pyjpllm import distributed
from pyjpllm.config.schema import Config
from pyjpllm.data.batch import Batch
from pyjpllm.distributed import collectives, make_mesh
from pyjpllm.model import Transformer
from pyjpllm.ops import use_backend
from pyjpllm.parallel import FlatParameters
from pyjpllm.parallel.pipeline import Event
from pyjpllm.training.build import build
from pyjpllm.training.memory import plan
from pyjpllm.training.metrics import Timers
from pyjpllm.training.optimizer import AdamW
from pyjpllm.training.pipeline import Pipeline
from pyjpllm.training.step import accumulate_gradients

BASE: dict[str, Any] = {
    "model": {
        "hidden_size": 96, "num_layers": 8, "num_heads": 8, "num_kv_heads": 4, "head_dim": 12,
        "intermediate_size": 256, "vocab_size": 1000,
    },
    "data": {"train": [{"path": "none"}], "tokenizer": "none", "sequence_length": 128},
    "train": {"steps": 1, "global_batch": 8, "micro_batch": 1},
}  # fmt: skip
MOE: dict[str, Any] = {"num_experts": 8, "experts_per_token": 2, "intermediate_size": 96}
# Of four ranks each; what is not said is one.
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp 4": {},
    "dp 4, checkpointing none": {"train": {"activation_checkpointing": "none"}},
    "dp 4, checkpointing full": {"train": {"activation_checkpointing": "full"}},
    "tp 4": {"parallel": {"tensor": 4}},
    "dp 2 x tp 2": {"parallel": {"tensor": 2}},
    "dp 2 x tp 2, sequence": {"parallel": {"tensor": 2, "sequence": True}},
    "pp 4, 1f1b": {"parallel": {"pipeline": 4, "pipeline_schedule": "1f1b"}},
    "pp 4, gpipe, full": {
        "parallel": {"pipeline": 4, "pipeline_schedule": "gpipe"},
        "train": {"activation_checkpointing": "full"},
    },
    "pp 4, interleaved": {"parallel": {"pipeline": 4, "pipeline_schedule": "interleaved"}},
    "pp 4, zb-h1": {"parallel": {"pipeline": 4, "pipeline_schedule": "zb-h1"}},
    "pp 4, zb-v": {"parallel": {"pipeline": 4}},
    "pp 2, zb-v x dp 2": {"parallel": {"pipeline": 2}},
    "pp 2, zb-v x tp 2, sequence": {"parallel": {"pipeline": 2, "tensor": 2, "sequence": True}},
    "pp 2, zb-h1 x tp 2, bf16": {
        "parallel": {"pipeline": 2, "pipeline_schedule": "zb-h1", "tensor": 2},
        "precision": {"dtype": "bf16"},
    },
    "dp 4, zero 1": {"parallel": {"zero": 1}},
    "dp 4, zero 1, bf16": {"parallel": {"zero": 1}, "precision": {"dtype": "bf16"}},
    "dp 2 x tp 2, zero 2": {"parallel": {"tensor": 2, "zero": 2, "bucket_mib": 0.25}},
    "dp 4, zero 3": {"parallel": {"zero": 3}},
    "dp 2 x tp 2, zero 3, bf16": {"parallel": {"tensor": 2, "zero": 3}, "precision": {"dtype": "bf16"}},
    "pp 2, zb-v x dp 2, zero 1": {"parallel": {"pipeline": 2, "zero": 1}},
    "cp 4": {"parallel": {"context": 4}},
    "pp 2, zb-v x cp 2, ulysses": {"parallel": {"pipeline": 2, "context": 2, "context_kind": "ulysses"}},
    "dp 4, bf16": {"precision": {"dtype": "bf16"}},
    "ep 4": {"model": {"moe": MOE}, "parallel": {"expert": 4}},
    "ep 4, checkpointing full": {
        "model": {"moe": MOE}, "parallel": {"expert": 4}, "train": {"activation_checkpointing": "full"},
    },
    "ep 2 x dp 2, zero 1": {"model": {"moe": MOE}, "parallel": {"expert": 2, "zero": 1}},
    "ep 2 x dp 2, zero 3": {"model": {"moe": MOE}, "parallel": {"expert": 2, "zero": 3}},
    "ep 2 x tp 2, sequence, gated shared expert, none": {
        "model": {"moe": {**MOE, "router": "sigmoid", "shared_size": 96, "shared_gate": True}},
        "parallel": {"expert": 2, "tensor": 2, "sequence": True},
        "train": {"activation_checkpointing": "none"},
    },
    "pp 2, zb-v x ep 2": {"model": {"moe": MOE}, "parallel": {"expert": 2, "pipeline": 2}},
    "pp 2, 1f1b x ep 2, shared expert, bf16, zero 1": {
        "model": {"moe": {**MOE, "shared_size": 96, "layer_step": 2}},
        "parallel": {"expert": 2, "pipeline": 2, "pipeline_schedule": "1f1b", "zero": 1},
        "precision": {"dtype": "bf16"},
    },
    "cp 2 x ep 2, zero 2": {
        "model": {"moe": MOE}, "parallel": {"context": 2, "expert": 2, "zero": 2, "bucket_mib": 0.25},
    },
}  # fmt: skip


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations inside it have made and that are still alive, and the most that
    were at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._follow((args, kwargs), new=False)  # a view of what was there before is nothing new
        out = func(*args, **(kwargs or {}))
        self._follow(out, new=True)
        return out

    def _follow(self, values: Any, *, new: bool) -> None:
        for tensor in tree_leaves(values):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known[storage._cdata] = size = storage.nbytes() if new else 0
                self.bytes += size
                self.most = max(self.most, self.bytes)
                weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key: int) -> None:
        self.bytes -= self._known.pop(key)


class Highest(list[Event]):
    """In the place of the executor's record: takes the live bytes after each action."""

    def __init__(self, live: LiveBytes) -> None:
        super().__init__()
        self.live, self.bytes = live, 0

    def append(self, event: Event) -> None:
        """An action has ended."""
        super().append(event)
        self.bytes = max(self.bytes, self.live.bytes)


class WatchingTimers(Timers):
    """Takes the live bytes after each phase, and those of weights that ZeRO-3 has gathered."""

    def __init__(self, live: LiveBytes, model: Transformer) -> None:
        super().__init__(torch.device("cpu"))
        self.live, self.bytes, self.model, self.gathered = live, 0, model, 0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """As its parent's."""
        with super().phase(name):
            yield
        self.bytes = max(self.bytes, self.live.bytes)
        if self.model.gathered_dtype is not None:
            here = [_bytes(param) for param in self.model.parameters() if not isinstance(param, DTensor)]
            self.gathered = max(self.gathered, sum(here))


def config_of(fields: dict[str, Any]) -> Config:
    """The base with a layout's own fields."""
    return Config.model_validate({**BASE, **{name: {**BASE.get(name, {}), **some} for name, some in fields.items()}})


def measure(config: Config, world: distributed.World) -> tuple[dict[str, int], float]:
    """Bytes on this rank, and the load of its experts."""
    parallel = config.parallel
    mesh = make_mesh(world, tp=parallel.tensor, pp=parallel.pipeline, cp=parallel.context, ep=parallel.expert)
    pipeline = Pipeline.of(config, mesh)
    cpu = torch.device("cpu")
    model, parameters, data_parallel = build(config, mesh, cpu, weights=True, pipeline=pipeline)
    optimizer = AdamW(parameters, config.optimizer)
    count = config.train.global_batch // mesh.size("batch") // config.train.micro_batch
    shape = (config.train.micro_batch, config.data.sequence_length)
    ids_BS = torch.randint(config.model.vocab_size, shape)
    fields = (ids_BS, ids_BS, torch.arange(shape[1]).expand(shape))
    batches = [Batch(*map(model.context.take, fields), None)] * count
    found = 0
    for _ in range(2):  # the first step makes what lives on: tables of the rotation
        parameters.zero_grad()
        with LiveBytes() as live:
            timers = WatchingTimers(live, model)
            if pipeline is not None:
                highest = Highest(live)
                object.__setattr__(pipeline, "events", highest)
            accumulate = accumulate_gradients if pipeline is None else pipeline.accumulate_gradients
            accumulate(
                model, data_parallel, batches, count=torch.ones((), dtype=torch.float64), z_loss=0.0, timers=timers
            )
            found = timers.bytes if pipeline is None else highest.bytes
    if isinstance(parameters, FlatParameters):
        weights = [buffer for g in parameters.groups for buffer in {g.model, g.master}]
        gradients = [group.grad for group in parameters.groups]
    else:
        parts = [part for group in parameters.groups for part in group.parts]
        weights, gradients = [part.master for part in parts], [part.grad for part in parts]
    sizes = {
        "weights": sum(map(_bytes, weights)) + timers.gathered,
        "gradients": sum(map(_bytes, gradients)),
        "optimizer": sum(map(_bytes, (*optimizer.exp_avg, *optimizer.exp_avg_sq))),
        "activations": found,
    }
    parameters.remove_hooks()
    return sizes, _load(model)


def _load(model: Transformer) -> float:
    """Rows of this rank's experts over an even share, the mean of its layers; 1 where it has none."""
    loads = []
    for layer in model.moe_layers().values():
        rows_RE = layer.loads_E.view(layer.ep.size, -1).sum(1)
        collectives.all_reduce(rows_RE, layer.ep.group)
        loads.append(float(rows_RE[layer.ep.rank] / rows_RE.mean()))
    return sum(loads) / len(loads) if loads else 1.0


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


KINDS = ("weights", "gradients", "optimizer", "activations")


def rank_main(out: Path) -> None:
    """On each rank: all layouts; rank 0 writes what was found."""
    world = distributed.init("mpi4py")
    torch.set_num_threads(1)
    use_backend("native")
    rows = []
    for name, fields in LAYOUTS.items():
        config = config_of(fields)
        measured, load = measure(config, world)
        planned = plan(config, world.size, load).ranks
        place = world.rank * len(planned) // world.size  # pp is the outermost axis
        pair = [(measured[kind], getattr(planned[place], kind)) for kind in KINDS]
        gathered = collectives.gather_objects((place, pair), torch.distributed.group.WORLD)
        if gathered is not None:
            first = {}  # the formula is of the first tensor-parallel rank
            for stage, figures in gathered:
                first.setdefault(stage, figures)
            rows.append((name, list(first.values())))
    if world.rank == 0:
        out.write_text(json.dumps(rows))


def table(rows: list[Any]) -> str:
    """Markdown: KiB measured of each stage's first rank, and how far the formula is off at most."""
    lines = [
        "| 4 ranks | weights, KiB | gradients | optimizer | activations | formula off: state | activations |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, stages in rows:
        cells = [" / ".join(f"{figures[kind][0] / 1024:,.0f}" for figures in stages) for kind in range(4)]
        off = [[figures[kind][1] / figures[kind][0] - 1 for figures in stages] for kind in range(4)]
        state = max((x for kind in off[:3] for x in kind), key=abs)
        lines.append(f"| {name} | {' | '.join(cells)} | {state:+.1%} | {max(off[3], key=abs):+.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=str(__doc__).splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    parser.add_argument("--rank-out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_out is not None:
        rank_main(options.rank_out)
        return
    text = table(on_ranks("benchmarks.memory", 4))
    print(text)
    if options.write is not None:
        write_between(options.write, "memory", text)


if __name__ == "__main__":
    main()
