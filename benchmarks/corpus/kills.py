"""`jpllm corpus build` ended by SIGKILL at random moments and started again: the same bytes as without.

    python -m benchmarks.corpus.kills [--kills 30] [--documents 4000] [--write docs/corpus-dedup.md]

A pipeline with all four dedup steps, over planted copies of all kinds and some broken lines; in turn as one process, as
one process with two of its own, and on two MPI ranks. Every process of the command is killed at once, at a moment
between its start and the time that it takes unbroken; then the same command goes on with the run, and may be killed
again. A run that is done is compared with the unbroken one, file by file, and another begins.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.planted import Planter
from benchmarks.ranks import REPO, write_between

WAYS = {"one process": (1, 1), "two processes": (1, 2), "two ranks": (2, 1)}
"""Name -> MPI ranks, processes of each."""

_CONFIG = """
[input]
paths = ["{folder}/in"]
[output]
dropped = true
[run]
shard_mib = 1
processes = {processes}
[[stage]]
kind = "normalize"
{steps}[[stage]]
kind = "pii"
"""


STEPS = ("exact", "minhash", "units", "substrings")


def make(folder: Path, documents: int, files: int = 6, steps: Sequence[str] = STEPS) -> None:
    """Files of about a shard each, and a config for each way."""
    planter = Planter(1)
    base = documents // 2
    texts = [f"{planter.text(150)}\n\n{planter.text(200)}" for _ in range(base)]
    part = base // 4
    texts += texts[:part] + [planter.edited(text, 0.02) for text in texts[part : 2 * part]]
    texts += [f"{planter.text(90)}\n\n{text[152:]}" for text in texts[2 * part : 3 * part]]
    texts += [planter.text(40) + text[20:140] + planter.text(40) for text in texts[3 * part : base]]
    texts, _ = planter.shuffled(texts)
    (folder / "in").mkdir(parents=True)
    for number in range(files):
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts[number::files]]
        lines.insert(len(lines) // 2, "no JSON\n")
        padding = (1 << 20) * 3 // 4 - sum(len(line.encode()) for line in lines)  # so that no two are one shard
        lines.append(" " * max(0, padding) + "\n")
        (folder / "in" / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")
    for _, processes in WAYS.values():
        tables = "".join(f'[[stage]]\nkind = "dedup-{step}"\n' for step in steps)
        config = _CONFIG.format(folder=folder, processes=processes, steps=tables)
        (folder / f"{processes}.toml").write_text(config, encoding="utf-8")


def contents(run: Path) -> dict[str, bytes]:
    """All that must be the same: what was kept, dropped, set aside, and the report but for its seconds."""
    found = {
        str(file.relative_to(run)): file.read_bytes()
        for name in ("documents", "dropped", "quarantine")
        for file in sorted((run / name).glob("**/*"))
    }
    report = json.loads((run / "report.json").read_bytes())
    del report["seconds"]
    return {**found, "report.json": json.dumps(report).encode()}


def start(folder: Path, run: Path, way: str) -> subprocess.Popen[bytes]:
    """The command, in a session of its own."""
    ranks, processes = WAYS[way]
    beside = Path(sys.executable).parent / "mpirun"
    launcher = [str(beside) if beside.exists() else "mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    command = [sys.executable, "-m", "pyjpllm", "corpus", "build", str(folder / f"{processes}.toml"), "--run", str(run)]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*(launcher if ranks > 1 else []), *command],
        cwd=REPO,
        env={**os.environ, **allowed, "PYTHONPATH": str(REPO)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(session: int) -> None:
    """SIGKILL to every process of a session, until none is left: mpirun's ranks have process groups of their own."""
    while members := [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _lives_in(pid, session)]:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _lives_in(pid: int, session: int) -> bool:
    try:
        state, _, _, of = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return False
    return int(of) == session and state != "Z"


def finish(folder: Path, run: Path, way: str) -> float:
    """Let the command end; the seconds it took."""
    began = time.monotonic()
    if (code := start(folder, run, way).wait(300)) != 0:
        raise SystemExit(f"{way}: the command ended with {code}")
    return time.monotonic() - began


def where(run: Path) -> str:
    """How far a killed run was."""
    if (run / "report.json").exists():
        return "at the end"
    passes = sorted(int(path.name) for path in (run / "records").glob("*")) if run.exists() else []
    if not passes:
        return "before the first record"
    behind = passes[-1]
    step = (run / "work" / f"{behind}-step").exists() or (run / "work" / f"{behind}-decisions").exists()
    return f"in the step behind pass {behind}" if step else f"in pass {behind}"


def kill(folder: Path, kills: int, ways: Sequence[str], seed: int = 1) -> tuple[Counter[str], int]:
    """(where the kills were, runs compared). Raises SystemExit where a run has other bytes."""
    dice = random.Random(seed)
    expected_run = folder / "expected"
    takes = {"one process": finish(folder, expected_run, "one process")}
    expected = contents(expected_run)
    for way in ways:
        if way not in takes:
            takes[way] = finish(folder, folder / way.replace(" ", "-"), way)
            _compare(way, contents(folder / way.replace(" ", "-")), expected)
    places: Counter[str] = Counter()
    done = 0
    for number, way in enumerate(ways):
        share = kills // len(ways) + (number < kills % len(ways))
        run = folder / f"run-{done}"
        while share:
            process = start(folder, run, way)
            time.sleep(dice.uniform(0.2, 1.0) * takes[way])
            if process.poll() is None:
                end(process.pid)
                share -= 1
                places[where(run)] += 1
            process.wait()
            if (run / "report.json").exists() or not share:
                finish(folder, run, way)
                _compare(way, contents(run), expected)
                done += 1
                run = folder / f"run-{done}"
    return places, done


def _compare(way: str, found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if differ:
        raise SystemExit(f"{way}: other bytes in {', '.join(differ)}")


def main() -> None:
    """Print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the result between the marks of this page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.documents)
        places, runs = kill(folder, options.kills, list(WAYS))
    spread = ", ".join(f"{count} {place}" for place, count in sorted(places.items()))
    text = (
        f"{sum(places.values())} kills ({', '.join(WAYS)} in turn; {options.documents:,} documents, four dedup steps): "
        f"{spread}. {runs} runs were done after them, each with the bytes of the unbroken one."
    )
    print(text)
    if options.write is not None:
        write_between(options.write, "kills", text)


if __name__ == "__main__":
    main()
