"""What each preset keeps of the labelled crawl: `python -m benchmarks.corpus.selection --work WORK [--write PAGE]`.

Every preset stands in the same pipeline (language and white space before it, exact and MinHash deduplication behind
it), so that rules are compared with rules; beside them the crawl as it is, the pipeline without rules, and the whole of
examples/corpus-ja.toml. Each is a run of `jpllm corpus build`; what is done in WORK is not done again.

Precision and recall are of characters without white space. A document's lines count as found where the text that was
kept for it, or for one of its near copies, has them, once; whatever else was kept counts against precision.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.corpus import labelled
from benchmarks.ranks import write_between
from pyjpllm.corpus import read_documents
from pyjpllm.corpus.rules import load_preset
from pyjpllm.errors import UserError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "corpus-ja.toml"
PRESETS = ("swallow-v1", "hojichar", "llm-jp-v1", "fineweb2-ja", "uzushio", "ccnet", "jpllm")
VARIANTS = ("raw", "no rules", *PRESETS, "corpus-ja")
_LANGUAGE = """\
[[stage]]
kind = "language"

[[stage]]
kind = "normalize"
single_space = true
no_blank_lines = true
"""
_COPIES = '[[stage]]\nkind = "dedup-exact"\n\n[[stage]]\nkind = "dedup-minhash"\n'


def stages(variant: str) -> str:
    """The `[[stage]]` tables of a variant."""
    if variant == "raw":
        return ""
    if variant == "no rules":
        return f"{_LANGUAGE}\n{_COPIES}"
    if variant == "corpus-ja":
        text = EXAMPLE.read_text(encoding="utf-8")
        return text[text.index("[[stage]]") :]
    return f'{_LANGUAGE}\n[[stage]]\nkind = "rules"\npreset = "{variant}"\n\n{_COPIES}'


def make_crawl(work: Path) -> Path:
    """The labelled crawl in ``work``, made now unless it is there."""
    crawl = work / "crawl"
    if not (crawl / "finished").exists():
        call("benchmarks.corpus.labelled", "--out", str(crawl), "--quickstart", str(work / "quickstart"))
        (crawl / "finished").touch()
    return crawl


def build(work: Path, variant: str) -> Path:
    """The run of the variant over the crawl in ``work``. Its name has a hash of the stages and of the preset's rules:
    a run of other rules is another run."""
    crawl = make_crawl(work)
    text = f'[input]\npaths = ["{crawl}/*.warc.gz"]\n\n{stages(variant)}'
    rules = "".join(load_preset(name).model_dump_json() for name in PRESETS if f'"{name}"' in text)
    name = f"{variant.replace(' ', '-')}-{hashlib.sha256((text + rules).encode()).hexdigest()[:8]}"
    config, run = work / f"{name}.toml", work / "runs" / name
    config.write_text(text, encoding="utf-8")
    call("pyjpllm", "corpus", "build", str(config), "--run", str(run))
    return run


def call(*words: str) -> None:
    """Run a module of this Python on one thread. Raises UserError when it fails."""
    done = subprocess.run([sys.executable, "-m", *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(words)}: ended with status {done.returncode}; see above")


def _squeezed(text: str) -> str:
    """As texts are compared: stages may change width and white space."""
    return "".join(unicodedata.normalize("NFKC", text).split())


@dataclass
class Kept:
    """What was kept of a crawl."""

    pages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(labelled.ALL_KINDS, 0))
    """By kind. Of a document and its near copies, the first that is kept counts as the document."""
    characters: int = 0
    found: int = 0
    """Characters of the documents' lines."""

    @property
    def precision(self) -> float:
        """Of what was kept, the share that is the documents'."""
        return self.found / max(1, self.characters)


def judge(kept: Path, crawl: Path) -> tuple[Kept, Kept]:
    """What is in the files of ``kept``; and what a perfect selection would keep, with all pages of every kind."""
    labels = {}
    whole = Kept()
    for line in (crawl / "labels.jsonl").read_text(encoding="utf-8").splitlines():
        label = json.loads(line)
        labels[label["url"]] = (label["kind"], label["of"])
        whole.pages[label["kind"]] += 1
    lines: dict[str, list[str]] = {}
    for document in read_documents(crawl / "documents.jsonl"):
        lines[str(document.meta["id"])] = list(dict.fromkeys(filter(None, map(_squeezed, document.text.split("\n")))))
    whole.found = whole.characters = sum(len(line) for found in lines.values() for line in found)
    got = Kept()
    best: dict[str, int] = {}
    for document in read_documents(kept):
        kind, of = labels[document.meta["url"]]
        text = _squeezed(document.text)
        got.characters += len(text)
        if of:
            kind = labelled.NEAR_COPY if of in best else labelled.CLEAN
            found = min(len(text), sum(len(line) for line in lines[of] if line in text))
            best[of] = max(best.get(of, 0), found)
        got.pages[kind] += 1
    got.found = sum(best.values())
    return got, whole


def table(results: dict[str, tuple[Kept, Kept]]) -> str:
    """Kinds by variants: percent of their pages that are kept; then precision and recall of characters."""
    whole = next(iter(results.values()))[1]
    rows = [
        "| % kept | pages | " + " | ".join(results) + " |",
        "|---" * (len(results) + 2) + "|",
    ]
    for kind in labelled.ALL_KINDS:
        shares = (f"{100 * got.pages[kind] / max(1, whole.pages[kind]):.0f}" for got, _ in results.values())
        rows.append(f"| {kind} | {whole.pages[kind]:,} | " + " | ".join(shares) + " |")
    precision = (f"{100 * got.precision:.1f}" for got, _ in results.values())
    recall = (f"{100 * got.found / max(1, whole.found):.1f}" for got, _ in results.values())
    rows.append("| **precision**, % of characters | | " + " | ".join(precision) + " |")
    rows.append("| **recall**, % of characters | | " + " | ".join(recall) + " |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    options = parser.parse_args(arguments)
    crawl = make_crawl(options.work)
    results = {variant: judge(build(options.work, variant) / "documents", crawl) for variant in options.only}
    text = table(results)
    print(text)
    if options.write is not None:
        write_between(options.write, "selection", text)


if __name__ == "__main__":
    main()
