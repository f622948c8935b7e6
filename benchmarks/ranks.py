"""What the benchmarks over several ranks share: starting them, and putting a table into a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]


def on_ranks(module: str, ranks: int, *arguments: str, **environment: str) -> Any:
    """Runs ``python -m MODULE --rank-out FILE ARGUMENTS`` on MPI ranks of this machine; what rank 0 wrote, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        beside = Path(sys.executable).parent / "mpirun"
        command = [str(beside) if beside.exists() else "mpirun", "--oversubscribe", "--bind-to", "none"]
        command += ["-n", str(ranks), sys.executable, "-m", module, "--rank-out", str(out), *arguments]
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=REPO, env={**os.environ, **allowed, **environment}, check=True)
        return json.loads(out.read_text())


def write_between(page: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` of a page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, mark, rest = page.read_text(encoding="utf-8").partition(begin)
    if not mark or end not in rest:
        sys.exit(f"{page}: the marks {begin} and {end} are missing")
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
