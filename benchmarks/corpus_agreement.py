"""Whether the presets decide as the installed packages do, document by document.

    python -m benchmarks.corpus_agreement --work work --peers PEERS/bin/python [--write docs/corpus-rules.md]

Documents: the pages of Debian's packages (benchmarks.corpus.documents). `hojichar` beside HojiChar's own filters, with
its word lists in place of ours; `fineweb2-ja` beside datatrove's three filters with FineWeb2's thresholds. datatrove
takes minutes: what the packages decide is kept in WORK/peers-*.jsonl by a hash of the text and of their versions.

HojiChar's words are MeCab's, so its two rules of words are compared by themselves as well, over all documents, whatever
the other rules say of them: WORK/agreement-words.md lists each difference with both measures and its cause.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpus import cuts
from benchmarks.corpus.documents import documents, spread, texts, write
from benchmarks.corpus.peers import Peer
from benchmarks.ranks import write_between
from pyjpllm.corpus import Document
from pyjpllm.corpus.rules import RulesConfig, RulesStage
from pyjpllm.corpus.rules.stage import Finding

KINDS = {"hojichar": "hojichar", "fineweb2": "fineweb2-ja"}
BATCH = 50


WORD_RULES = ("nouns", "word_repetition")


@dataclass(frozen=True)
class Judged:
    """What both say of a document; ``theirs`` has the reasons of the package's filters that drop it."""

    place: int
    name: str
    findings: list[Finding]
    theirs: list[str]

    @property
    def ours(self) -> list[str]:
        """The rules that drop it."""
        return [finding.rule.name for finding in self.findings if not finding.kept]

    def otherwise(self, rule: str) -> bool:
        """Whether a rule drops it, by itself, and the package's filter of that name does not, or the reverse."""
        return (rule in self.ours) != (rule in self.theirs)


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


@dataclass(frozen=True)
class Difference:
    """A rule of words that decides otherwise: both measures, the class of the cause, and the cause."""

    document: Judged
    rule: str
    ours: float
    theirs: float
    kind: str
    cause: str


def differences(stage: RulesStage, judged: list[Judged], texts: list[str], peer: Peer) -> list[Difference]:
    """Where HojiChar's rules of words, each by itself, decide otherwise than its filters."""
    out = []
    for each in judged:
        rules = [rule for rule in WORD_RULES if each.otherwise(rule)]
        if not rules:
            continue
        answer, text = peer.words(each.place), texts[each.place]
        for rule in rules:
            finding = next(finding for finding in each.findings if finding.rule.name == rule)
            value = finding.value or 0.0
            why = cuts.cause(rule, value, not finding.kept, text, stage.words_of(text) or [], answer)
            out.append(Difference(each, rule, value, answer[rule], *why))
    return out


def rules_table(judged: list[Judged], found: list[Difference]) -> str:
    """The rules of words, each judged by itself over all documents."""
    rows = [
        "| rule by itself | both drop | only ours | only HojiChar's | agreement | why |",
        "|---|---|---|---|---|---|",
    ]
    for rule in WORD_RULES:
        both = sum(rule in each.ours and rule in each.theirs for each in judged)
        mine = sum(rule in each.ours and rule not in each.theirs for each in judged)
        other = sum(rule not in each.ours and rule in each.theirs for each in judged)
        why = Counter(each.kind for each in found if each.rule == rule)
        said = "; ".join(f"{kind}: {count}" for kind, count in why.most_common())
        rows.append(f"| `{rule}` | {both:,} | {mine} | {other} | {1 - (mine + other) / len(judged):.2%} | {said} |")
    # What no other filter drops is where these two count.
    left = [each for each in judged if not set(each.theirs) - set(WORD_RULES)]
    dropped = [each for each in left if each.theirs]
    same = sum(bool(each.ours) for each in dropped)
    rows.append(
        f"\nOf the {len(left):,} documents that HojiChar's other filters keep, these two drop {len(dropped)}; "
        f"our preset drops {same} of those."
    )
    return "\n".join(rows)


def main() -> None:
    """Compare and print the tables; put them into a page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=5200)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the marks of this page")
    options = parser.parse_args()

    found = spread(texts(documents(options.work)), options.documents)
    rows, listed, by_rule = [], [], ""
    for kind, preset in KINDS.items():
        theirs, about = decisions(kind, options.peers, options.work, found)
        lists = {name: [path] for name, path in about["lists"].items()}
        stage = RulesConfig.model_validate({"kind": "rules", "preset": preset, "lists": lists}).build()
        judged = [
            Judged(i, name, stage.judge(Document(text, {}))[1], reasons)
            for i, ((name, text), reasons) in enumerate(zip(found, theirs, strict=True))
        ]
        causes: dict[int, str] = {}
        if kind == "hojichar":
            with Peer(options.peers, kind, options.work / f"agreement-{kind}.jsonl") as peer:
                words = differences(stage, judged, [text for _, text in found], peer)
            by_rule = rules_table(judged, words)
            causes = {each.document.place: f"{each.rule}: {each.cause}" for each in words}
            write_list(options.work / "agreement-words.md", words)
        differ = [each for each in judged if bool(each.ours) != bool(each.theirs)]
        kept = sum(not reasons for reasons in theirs)
        versions = " ".join(f"{name} {version}" for name, version in about["versions"].items())
        share = 1 - len(differ) / len(found)
        rows.append(f"| `{preset}` | {versions} | {len(found):,} | {kept:,} | {len(differ)} | {share:.2%} |")
        for each in differ:
            why = causes.get(each.place) or cause(each.findings)
            ours, peers = (", ".join(reasons) or "kept" for reasons in (each.ours, each.theirs))
            listed.append(f"| `{preset}` | {each.name} | {ours} | {peers} | {why} |")
    text = "| preset | beside | documents | it keeps | other decisions | agreement |\n|---|---|---|---|---|---|\n"
    text += "\n".join(rows)
    if listed:
        text += "\n\n| preset | document | ours | theirs | cause |\n|---|---|---|---|---|\n" + "\n".join(listed)
    text += "\n\n" + by_rule
    print(text)
    if options.write is not None:
        write_between(options.write, "agreement", text)


def write_list(path: Path, found: list[Difference]) -> None:
    """Every difference of the rules of words, with its cause."""
    rows = [
        f"| {each.document.name} | `{each.rule}` | {each.ours:.4f} | {each.theirs:.4f} | {each.cause} |"
        for each in found
    ]
    heads = "| document | rule | ours | HojiChar's | the difference that moves it most |\n|---|---|---|---|---|\n"
    path.write_text(heads + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{path}: {len(found)} differences of single rules")


if __name__ == "__main__":
    main()
