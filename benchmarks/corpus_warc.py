"""From WARC files to filtered text: pages a second of one core, for `jpllm corpus build` as a whole.

    python -m benchmarks.corpus_warc --work work [--megabytes 200] [--write docs/corpus.md]

A made-up crawl (benchmarks.corpus.crawl) goes through reading and the stages language and normalize and is written, by
one process on one pinned core: with the rules of `swallow-v1`, which keep none of its made-up sentences, with those of
`jpllm`, which keep nearly all that is Japanese, with those of `uzushio`, for which the text in links is measured, and
without rules. The seconds are CPU seconds of the whole command,
start and libraries included; the parts are those of its report.json. The best of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.corpus.crawl import write_crawl
from benchmarks.ranks import REPO, write_between

CONFIG = """
[input]
paths = ["{crawl}/*.warc.gz"]

[[stage]]
kind = "language"

[[stage]]
kind = "normalize"
"""
RULES = """
[[stage]]
kind = "rules"
preset = "{preset}"
"""
PRESETS = ("swallow-v1", "jpllm", "uzushio")
Found = tuple[float, dict[str, Any]]


def build(config: Path, run: Path) -> Found:
    """CPU seconds of the command, and its report."""
    shutil.rmtree(run, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pyjpllm", "corpus", "build", str(config), "--run", str(run)]
    subprocess.run(command, check=True, cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report: dict[str, Any] = json.loads((run / "report.json").read_bytes())
    return seconds, report


def table(variants: dict[str, Found], packed: int) -> str:
    """Pages a second and milliseconds a page by part, a column a variant."""
    _, first = next(iter(variants.values()))
    pages = first["read"]["documents"]
    cells: dict[str, list[str]] = {"kept": [], "**pages/s**": []}
    parts = dict.fromkeys(("read", "language", "normalize", "rules", "write", "start, plan, report"))
    cells |= {f"{part}, ms a page": [] for part in parts}
    for seconds, report in variants.values():
        spent = {**report["seconds"], "start, plan, report": seconds - sum(report["seconds"].values())}
        cells["kept"].append(f"{report['written']['documents']:,}")
        cells["**pages/s**"].append(f"**{pages / seconds:,.0f}**")
        for part in parts:
            cells[f"{part}, ms a page"].append(f"{spent[part] / pages * 1e3:.3f}" if part in spent else "")
    rows = [f"| {name} | {' | '.join(row)} |" for name, row in cells.items()]
    return (
        f"{pages:,} pages, {first['read']['characters'] / 1e6:.1f} million characters of text, {packed / 1e6:.0f} MB "
        f"of WARC as packed:\n\n| | {' | '.join(variants)} |\n|---|{'---|' * len(variants)}\n" + "\n".join(rows)
    )


def main() -> None:
    """Measure and print the table; put it into a page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    options = parser.parse_args()

    crawl = (options.work / f"crawl-{options.megabytes:g}").resolve()
    if not crawl.exists():
        beside = crawl.with_name(crawl.name + ".tmp")
        write_crawl(beside, options.megabytes)
        beside.rename(crawl)
    stages = {f"rules of `{preset}`": CONFIG + RULES.replace("{preset}", preset) for preset in PRESETS}
    stages["no rules"] = CONFIG
    config = options.work / "warc.toml"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    variants: dict[str, Found] = {}
    for _ in range(options.repeat):
        for name, text in stages.items():
            config.write_text(text.format(crawl=crawl), encoding="utf-8")
            found = build(config, options.work / "warc-run")
            variants[name] = min(found, variants.get(name, found), key=lambda each: each[0])
    found_table = table(variants, sum(path.stat().st_size for path in crawl.iterdir()))
    print(found_table)
    if options.write is not None:
        write_between(options.write, "corpus-warc", found_table)


if __name__ == "__main__":
    main()
