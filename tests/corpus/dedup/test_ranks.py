"""Ranks decide what one process decides, of every kind of copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus import kills
from benchmarks.planted import Planter
from pyjpllm.cli.exchange import MPIExchange
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import CorpusConfig, load_corpus_config
from pyjpllm.corpus.dedup import CopiesStep, MinHasher, NearCopiesStep, RepeatedSubstringsStep, RepeatedUnitsStep
from pyjpllm.corpus.stage import GlobalStep
from tests.cli.test_exchange import talk
from tests.corpus.dedup import test_components
from tests.corpus.dedup.shards import merged, run_alone, write_shards
from tests.mpi import run_ranks


def work(world: Any, steps: Sequence[GlobalStep], shards: Sequence[Path], folder: Path, piece_bytes: int) -> Any:
    from mpi4py import MPI

    exchange = MPIExchange(MPI, MPI.COMM_WORLD.Dup(), piece_bytes)
    assert (exchange.rank, exchange.size) == (world.rank, world.size)
    decisions = [step(shards, exchange, folder / str(number)) for number, step in enumerate(steps)]
    return talk(exchange), test_components.on_ranks(exchange), decisions


def corpus() -> list[str]:
    """Copies, near copies, paragraphs and passages that come again, mixed."""
    planter = Planter(6)
    texts = [planter.text(120) + "\n\n" + planter.text(150) + "\n\n" + planter.text(80) for _ in range(80)]
    texts += texts[:15]
    texts += [planter.edited(text, 0.03) for text in texts[10:40]]
    texts += [planter.text(100) + "\n\n" + text.split("\n\n")[1] for text in texts[30:50]]
    texts += [planter.text(30) + text[130:240] + planter.text(40) for text in texts[50:70]]
    return planter.shuffled(texts)[0]


@pytest.mark.parametrize(("ranks", "piece_bytes"), [(2, 1 << 28), (4, 1000)])
def test_ranks_decide_the_same(ranks: int, piece_bytes: int, tmp_path: Path) -> None:
    shards = write_shards(tmp_path, corpus(), 7)  # more than ranks, and not a multiple of them
    hasher = MinHasher(5, 20, 5)
    steps: list[GlobalStep] = [
        CopiesStep("exact"),
        NearCopiesStep("near", keep="longest", hasher=hasher),
        NearCopiesStep("first", keep="earliest", hasher=hasher, save=str(tmp_path / "saved")),
        NearCopiesStep("against", against=(str(tmp_path / "saved"),), hasher=hasher),
        NearCopiesStep("verified", hasher=hasher, verify=0.8),
        RepeatedUnitsStep("paragraphs"),
        RepeatedSubstringsStep("substrings"),
    ]
    alone = [run_alone(step, shards) for step in steps]
    assert all(alone)
    assert sum(map(len, alone[4].values())) < sum(map(len, alone[1].values()))
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    talks, parts, decided = zip(*run_ranks(work, ranks, steps, shards, tmp_path / "work", piece_bytes), strict=True)
    for number, decisions in enumerate(alone):
        assert merged([rank[number] for rank in decided]) == decisions
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == saved
    assert list(talks) == [[True, True, True]] * ranks
    for number, pairs in enumerate(test_components.graphs()):
        assert sorted(pair for rank in parts for pair in rank[number]) == test_components.searched(pairs)


def build(world: Any, config: CorpusConfig, run: Path) -> Any:
    from mpi4py import MPI

    return build_corpus(config, run, exchange=MPIExchange(MPI, MPI.COMM_WORLD.Dup()))


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_pipeline_on_ranks_writes_the_same_bytes(ranks: int, tmp_path: Path) -> None:
    """All four dedup steps between broken lines and masked numbers: shards more than ranks."""
    kills.make(tmp_path, 600, files=5)
    config = load_corpus_config(tmp_path / "1.toml")
    report = build_corpus(config, tmp_path / "alone")
    assert all(report["stages"][step]["changed"] or report["stages"][step]["dropped"] for step in (1, 2, 3, 4))
    assert report["set_aside"] == {"not-json": 5}
    reports = run_ranks(build, ranks, config, tmp_path / "ranks")
    assert all(report == reports[0] for report in reports)
    assert kills.contents(tmp_path / "ranks") == kills.contents(tmp_path / "alone")
