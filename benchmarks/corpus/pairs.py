"""Aligned segments out of the translated manuals of four Debian packages, by `[[input.pairs]]`.

    cd FOLDER; apt-get download libreoffice-help-ja libreoffice-help-en-us gimp-help-ja gimp-help-en debian-handbook \\
        installation-guide-amd64; for f in *.deb; do dpkg-deb -x $f .; done
    python -m benchmarks.corpus.pairs FOLDER

Prints a Markdown table: pages, those set aside, segments, and different ones with kana. Runs stay in FOLDER/pairs-NAME.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyjpllm.corpus import read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import CorpusConfig, InputConfig, PairsConfig
from pyjpllm.corpus.intake.pairs import JoinedBy

MANUALS: dict[str, tuple[str, str, JoinedBy]] = {
    "LibreOffice help": ("libreoffice/help/ja/text", "libreoffice/help/en-US/text", "id"),
    "GIMP manual": ("gimp/2.0/help/ja", "gimp/2.0/help/en", "order"),
    "Debian handbook": ("doc/debian-handbook/html/ja-JP", "doc/debian-handbook/html/en-US", "order"),
    "Debian installation guide": ("doc/installation-guide-amd64/ja", "doc/installation-guide-amd64/en", "order"),
}


def main() -> None:
    """Read all, print."""
    folder = Path(sys.argv[1])
    print("| manual | by | pages | set aside | segments | different, with kana |\n|---|---|---|---|---|---|")
    for name, (translation, original, by) in MANUALS.items():
        share = folder / "usr" / "share"
        pair = PairsConfig(translation=str(share / translation), original=str(share / original), by=by)
        run = folder / f"pairs-{name.replace(' ', '-')}"
        report = build_corpus(CorpusConfig(input=InputConfig(pairs=[pair])), run)
        found = {(d.text, d.meta["source"]) for d in read_documents(run / "documents")}
        kana = sum(any("\u3041" <= character <= "\u30fe" for character in text) for text, _ in found)
        aside = sum(report["set_aside"].values())
        print(
            f"| {name} | `{by}` | {report['files'] // 2:,} | {aside} | {report['written']['documents']:,} | {kana:,} |"
        )


if __name__ == "__main__":
    main()
