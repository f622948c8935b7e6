"""Whether the presets decide as the installed packages do, document by document.

    python -m benchmarks.corpus_agreement --work work --peers PEERS/bin/python [--write docs/corpus-rules.md]

Documents: the pages of Debian's packages (benchmarks.corpus.documents). `hojichar` beside HojiChar's own filters, with
its word lists in place of ours; `fineweb2-ja` beside datatrove's three filters with FineWeb2's thresholds. datatrove
takes minutes: what the packages decide is kept in WORK/peers-*.jsonl by a hash of the text and of their versions.

"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpus.documents import documents, spread, texts, write
from benchmarks.corpus.peers import Peer
from benchmarks.ranks import write_between
from pyjpllm.corpus import Document
from pyjpllm.corpus.rules import RulesConfig, RulesStage
from pyjpllm.corpus.rules.stage import Finding

KINDS = {"hojichar": "hojichar", "fineweb2": "fineweb2-ja"}
BATCH = 50


@dataclass(frozen=True)
class Disagreement:
    """A document that one keeps and the other drops; who drops it, and why."""

    name: str
    ours: str
    theirs: str
    cause: str


def decisions(kind: str, python: Path, work: Path, found: list[tuple[str, str]]) -> tuple[list[list[str]], Any]:
    """For each document the reasons of the package's filters that drop it; and what the package says of itself."""
    cache = work / f"peers-{kind}.jsonl"
    part = work / f"agreement-{kind}.jsonl"
    write(part, found)
    known: dict[str, list[str]] = {}
    if cache.exists():
        known = dict(json.loads(line) for line in cache.read_text(encoding="utf-8").splitlines())
    with Peer(python, kind, part) as peer, cache.open("a", encoding="utf-8") as out:
        about = peer.about()
        keys = [hashlib.sha256((json.dumps(about["versions"]) + text).encode()).hexdigest() for _, text in found]
        for first in range(0, len(found), BATCH):
            batch = range(first, min(first + BATCH, len(found)))
            if all(keys[i] in known for i in batch):
                continue
            for i, reasons in zip(batch, peer.reasons(batch.start, batch.stop), strict=True):
                if keys[i] not in known:
                    known[keys[i]] = reasons
                    out.write(json.dumps([keys[i], reasons], ensure_ascii=False) + "\n")
            out.flush()
            print(f"{kind}: {batch.stop:,} of {len(found):,}", flush=True)
    return [known[key] for key in keys], about


def cause(findings: list[Finding]) -> str:
    """Why the two may differ, as far as our measures show it."""
    for finding in findings:
        bounds = (finding.rule.at_least, finding.rule.at_most, finding.rule.below)
        if any(bound is not None and abs((finding.value or 0) - bound) < 1e-9 for bound in bounds):
            return f"rounding: {finding.rule.name} lies on its threshold"
    return "unexplained"


def compare(stage: RulesStage, found: list[tuple[str, str]], theirs: list[list[str]]) -> list[Disagreement]:
    """The documents that one keeps and the other drops."""
    out = []
    for (name, text), reasons in zip(found, theirs, strict=True):
        _, findings, _ = stage.judge(Document(text, {}))
        ours = [finding.rule.name for finding in findings if not finding.kept]
        if bool(ours) != bool(reasons):
            why = cause(findings)
            out.append(Disagreement(name, ", ".join(ours) or "kept", ", ".join(reasons) or "kept", why))
    return out


def main() -> None:
    """Compare and print the tables; put them into a page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=5200)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the marks of this page")
    options = parser.parse_args()

    found = spread(texts(documents(options.work)), options.documents)
    rows, listed = [], []
    for kind, preset in KINDS.items():
        theirs, about = decisions(kind, options.peers, options.work, found)
        lists = {name: [path] for name, path in about["lists"].items()}
        stage = RulesConfig.model_validate({"kind": "rules", "preset": preset, "lists": lists}).build()
        differ = compare(stage, found, theirs)
        kept = sum(not reasons for reasons in theirs)
        versions = " ".join(f"{name} {version}" for name, version in about["versions"].items())
        share = 1 - len(differ) / len(found)
        rows.append(f"| `{preset}` | {versions} | {len(found):,} | {kept:,} | {len(differ)} | {share:.2%} |")
        listed += [f"| `{preset}` | {each.name} | {each.ours} | {each.theirs} | {each.cause} |" for each in differ]
        print(Counter(each.cause for each in differ))
    text = "| preset | beside | documents | it keeps | other decisions | agreement |\n|---|---|---|---|---|---|\n"
    text += "\n".join(rows)
    if listed:
        text += "\n\n| preset | document | ours | theirs | cause |\n|---|---|---|---|---|\n" + "\n".join(listed)
    print(text)
    if options.write is not None:
        write_between(options.write, "agreement", text)


if __name__ == "__main__":
    main()
