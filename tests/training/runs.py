"""Runs on many layouts of ranks that share two launches, and the run on one process that all of them must equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyjpllm.distributed import World
from pyjpllm.errors import UserError
from pyjpllm.model.huggingface import export
from pyjpllm.training import latest, load_model, read_model_state, train
from tests.mpi import run_ranks
from tests.training.small import data_folder, small_config

DEEP = ("precision.dtype=fp64", "train.micro_batch=1", "train.global_batch=4", "model.num_layers=4")
COMMON = (*DEEP, "train.steps=4")
TEXTS = ('log.sample_prompts=["計算機の"]', "log.sample_tokens=4", "train.eval_interval=2")
CONSTANT = (*DEEP, "schedule.kind=constant")
HALF, ULYSSES = "parallel.pipeline=2", "parallel.context_kind=ulysses"

# By the number of ranks and by name.
PIPELINES: dict[int, dict[str, tuple[str, ...]]] = {
    2: {"zb-v": (HALF,)},
    4: {
        "1f1b, tensor 2": (HALF, "parallel.pipeline_schedule=1f1b", "parallel.tensor=2"),
        "searched, data 2": (HALF, "parallel.pipeline_schedule=searched"),
        "4 ranks, by list": ("parallel.pipeline=4", "parallel.pipeline_layers=[0,1,1,1,0,0,1,0]"),
    },
}
CONTEXTS: dict[int, dict[str, tuple[str, ...]]] = {
    2: {"ring": ("parallel.context=2",), "ulysses": ("parallel.context=2", ULYSSES)},
    4: {
        "ring, tensor 2": ("parallel.context=2", "parallel.tensor=2", "parallel.sequence=true"),
        "ulysses, pipeline 2": ("parallel.context=2", ULYSSES, HALF),
        "ring, data 2": ("parallel.context=2", "train.activation_checkpointing=full"),
    },
}
REFUSED = {
    "no layers": (*COMMON, HALF, "parallel.pipeline_layers=[4,0,0,0]"),
    "one layer": (*COMMON[:3], "train.steps=4", HALF, "model.num_layers=1"),
}


class Runs(NamedTuple):
    """All of them, in folders named as they are; ``one`` is that on one process."""

    folder: Path
    one: Path
    said: dict[str, list[Any]]
    """By name: what each rank's call gave, the last loss or the mistake."""


def train_all(world: World, data: str, folder: str, jobs: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """One rank of one run after the other."""
    found: dict[str, Any] = {}
    for name, overrides in jobs.items():
        try:
            found[name] = train(small_config(Path(data), *overrides), Path(folder) / name, world=world).loss
        except UserError as error:
            found[name] = str(error)
    return found


def make_all(folder: Path) -> Runs:
    """Make them: on one process, then on four ranks, then on two, which go on with a run of the four's."""
    one, said = folder / "one process", {}
    train(small_config(data_folder(), *COMMON, *TEXTS), one)
    newest = latest(one)
    assert newest is not None
    export(dict(read_model_state(newest)), load_model(newest).config, folder / "hf")
    started = (*CONSTANT, "train.steps=1", f"model.init_from={folder / 'hf'}", HALF)
    others: dict[int, dict[str, tuple[str, ...]]] = {
        4: {"changed": (*CONSTANT, HALF, "train.steps=2")},
        2: {
            "changed": (*CONSTANT, HALF, "train.steps=3", "parallel.pipeline_schedule=zb-h1"),
            "from Hugging Face": started,
            **REFUSED,
        },
    }
    for size in (4, 2):
        same = {**PIPELINES[size], **CONTEXTS[size]}
        jobs = {**{name: (*COMMON, *TEXTS, *overrides) for name, overrides in same.items()}, **others[size]}
        results = run_ranks(train_all, size, str(data_folder()), str(folder), jobs, timeout=500)
        for name in jobs:
            said[name if name != "changed" else f"changed on {size}"] = [result[name] for result in results]
    return Runs(folder, one, said)
