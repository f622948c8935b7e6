"""Characters a token of each tokenizer recipe on held-out text, all with the same number of ids.

    scripts/quickstart.sh          # the text of Debian's packages: quickstart/text/{train,heldout}.jsonl
    python -m benchmarks.corpus.tokenizers quickstart/text/train.jsonl --heldout quickstart/text/heldout.jsonl \
        --ids 8192 --sample-mib 4

Prints a Markdown table; the tokenizers stay in --out, for `jpllm tokenizer report`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from pyjpllm.corpus import read_documents
from pyjpllm.data import recipe_options, train_tokenizer
from pyjpllm.data.tokenizer_report import report_tokenizers

# sarashina is jpllm with more ids: with the same number it is the same.
WAYS: dict[str, dict[str, Any]] = {
    "jpllm, sarashina": {"recipe": "jpllm"},
    "jpllm --kind bpe": {"recipe": "jpllm", "kind": "bpe"},
    "llm-jp": {"recipe": "llm-jp"},
    "llm-jp --pre-split none": {"recipe": "llm-jp", "pre_split": "none"},
}


def main() -> None:
    """Train, report, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, nargs="+")
    parser.add_argument("--heldout", type=Path, nargs="+", required=True)
    parser.add_argument("--ids", type=int, default=8192)
    parser.add_argument("--sample-mib", type=int, default=256)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("tokenizers"))
    options = parser.parse_args()
    tokenizers, seconds = [], []
    sample = options.sample_mib << 20
    for way in options.ways:
        settings = recipe_options(**WAYS[way], vocab_size=options.ids, threads=options.threads, sample_bytes=sample)
        started = time.process_time()
        texts = (document.text for document in read_documents(options.train))
        folder = options.out / way.replace(" ", "-").replace(",", "")
        tokenizers.append((way, train_tokenizer(texts, folder, settings)))
        seconds.append(time.process_time() - started)
        print(f"{way}: {seconds[-1]:.0f} s of CPU time", flush=True)
    reports = report_tokenizers(tokenizers, options.heldout, None)
    print(f"\n| {options.ids:,} ids | characters a token | in bytes | learned pieces unused | training, CPU s |")
    print("|---|---|---|---|---|")
    for report, spent in zip(reports, seconds, strict=True):
        fit, unused = report.total, len(report.unused) / report.pieces
        figures = f"{fit.characters_per_token:.3f} | {fit.byte_rate:.3%} | {unused:.1%} | {spent:.0f}"
        print(f"| `{report.tokenizer}` | {figures} |")
    print(f"\n{reports[0].total.documents:,} documents, {reports[0].total.characters:,} characters")


if __name__ == "__main__":
    main()
