"""Rules beside HojiChar and datatrove, in one run: documents a second of CPU time on one pinned core.

    python -m benchmarks.corpus_rules --work work --peers PEERS/bin/python [--write docs/performance.md]

Documents: the pages of Debian's packages (benchmarks.corpus.documents), spread over all packages; fewer for datatrove,
which is slow. Ours and the peer's rounds take turns over the same documents, and the best
of each counts. A preset keeps or drops as `jpllm corpus build` does: a document that a rule drops is measured no
further, as in the peers' pipelines; `all_measures` measures each to the end. Swallow's `quality.py` is not in any
registry: its figure is the one of the project's plan, measured there on 6,109 documents of the same packages.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.corpus.documents import documents, spread, texts, write
from benchmarks.corpus.peers import Peer
from benchmarks.ranks import write_between
from pyjpllm.corpus import Document
from pyjpllm.corpus.rules import RulesConfig, RulesStage

SWALLOW = (104.0, 0.69)  # documents/s and MB/s of quality.py
# preset: its peer, documents at most
RUNS = {"swallow-v1": (None, 3000), "hojichar": ("hojichar", 1000), "fineweb2-ja": ("fineweb2", 250)}


def build(preset: str, *, whole: bool) -> RulesStage:
    return RulesConfig.model_validate({"kind": "rules", "preset": preset, "all_measures": whole}).build()


def seconds(stage: RulesStage, batch: list[Document]) -> float:
    started = time.process_time()
    stage(batch)
    return time.process_time() - started


def measure(preset: str, found: list[tuple[str, str]], peer: Peer | None, repeat: int) -> list[list[str]]:
    """Rows of the table: who, documents/s, MB/s, times the first peer."""
    batch = [Document(text, {}) for _, text in found]
    size = sum(len(text.encode()) for _, text in found) / 1e6
    ways = {"as `build`": build(preset, whole=False), "`all_measures`": build(preset, whole=True)}
    best: dict[str, float] = {}
    for _ in range(repeat):
        for name, stage in ways.items():
            best[name] = min(best.get(name, float("inf")), seconds(stage, batch))
        if peer is not None:
            best["peer"] = min(best.get("peer", float("inf")), peer.seconds(0, len(found)))
    rates = {name: (len(found) / took, size / took) for name, took in best.items()}
    versions = (
        "`quality.py`, as planned with"
        if peer is None
        else " ".join(f"{name} {version}" for name, version in peer.about()["versions"].items())
    )
    base = SWALLOW if peer is None else rates.pop("peer")
    rows = [
        [f"`{preset}`, {name}", f"{len(found):,}", f"{rate[0]:,.0f}", f"{rate[1]:.2f}",
         f"{rate[0] / base[0]:.1f}", f"{rate[1] / base[1]:.1f}"]
        for name, rate in rates.items()
    ]  # fmt: skip
    return [*rows, [versions, f"{len(found):,}" if peer else "6,109", f"{base[0]:,.1f}", f"{base[1]:.2f}", "1", "1"]]


def main() -> None:
    """Measure and print the table; put it into a page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    options = parser.parse_args()

    found = texts(documents(options.work))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows: list[list[str]] = []
    for preset, (kind, most) in RUNS.items():
        chosen = spread(found, most)
        part = options.work / f"rules-{preset}.jsonl"
        write(part, chosen)
        with ExitStack() as open_peers:
            peer = None if kind is None else open_peers.enter_context(Peer(options.peers, kind, part))
            rows += measure(preset, chosen, peer, options.repeat)
    heads = ["rules", "documents", "documents/s", "MB/s", "times its documents/s", "times its MB/s"]
    lines = [heads, ["---"] * len(heads), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(text)
    if options.write is not None:
        write_between(options.write, "corpus-rules", text)


if __name__ == "__main__":
    main()
