"""Peers that judge documents, in a process of their own under a Python that has them (benchmarks/corpus_peers.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

SCRIPT = Path(__file__).parents[1] / "corpus_peers.py"
INSTALL = (
    "python3 -m venv PEERS && PEERS/bin/pip install hojichar==0.18.1 emoji fugashi unidic-lite datatrove==0.10.1 "
    "'spacy[ja]' sudachipy sudachidict_core regex rensa datasketch"
)


class Peer:
    """One peer; ``kind`` is `hojichar` or `fineweb2`. It takes the CPUs of this process."""

    def __init__(self, python: Path, kind: str, documents: Path) -> None:
        if not python.exists():
            sys.exit(f"{python} is not there: {INSTALL}")
        self._process = subprocess.Popen(
            [str(python), str(SCRIPT), kind, str(documents)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _ask(self, *words: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit("the peer has ended; its complaint is above")
        return json.loads(answer)

    def about(self) -> dict[str, Any]:
        """`versions`, and `lists`: HojiChar's word lists by the names of our rules."""
        return dict(self._ask("about"))

    def seconds(self, first: int, last: int) -> float:
        """The CPU seconds that its filters take for documents [first, last)."""
        return float(self._ask("time", first, last)["seconds"])

    def reasons(self, first: int, last: int) -> list[list[str]]:
        """Why each of documents [first, last) is dropped."""
        return list(self._ask("judge", first, last))

    def words(self, place: int) -> dict[str, Any]:
        """HojiChar's `words` of one document, (surface, part of speech) each, and its measures by our rules' names."""
        return dict(self._ask("words", place))
