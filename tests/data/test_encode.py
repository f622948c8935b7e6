"""Encoding in parallel: the same files for any number of workers, and nothing half-written however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyjpllm.corpus import Document, DocumentWriter
from pyjpllm.data import IndexedDataset, Tokenizer, encode_files
from pyjpllm.data import encode as encode_module
from pyjpllm.data.encode import EncodeStats
from pyjpllm.errors import UserError
from tests.data.corpora import make_tokenizer, texts
from tests.mpi import ROOT

TEXTS = [*texts(700), "", "\n", "長い文書。" * 30000, *texts(50, seed=1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encode")
    make_tokenizer(folder / "tokenizer")
    half = len(TEXTS) // 2
    for name, part in (("1.jsonl.gz", TEXTS[:half]), ("2.parquet", TEXTS[half:])):
        (folder / "text").mkdir(exist_ok=True)
        with DocumentWriter(folder / "text" / name) as writer:
            for text in part:
                writer.add(Document(text))
    return folder


def descendants(pid: int) -> list[int]:
    """The processes below ``pid``."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


def command_line(pid: int) -> bytes:
    """Empty for a process that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(600):
        if done():
            return
        time.sleep(0.1)
    raise AssertionError("not done after a minute")


def outputs(prefix: Path) -> dict[str, bytes]:
    return {path.suffix: path.read_bytes() for path in sorted(prefix.parent.iterdir())}


def test_any_number_of_workers_writes_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_module, "_BATCH_CHARACTERS", 4000)
    seen: list[EncodeStats] = []
    stats = encode_files(folder / "text", folder / "tokenizer", tmp_path / "1" / "c", workers=1, progress=seen.append)
    again = encode_files(folder / "text", folder / "tokenizer", tmp_path / "3" / "c", workers=3)
    assert stats == again == seen[-1]
    assert len(seen) > 5
    assert outputs(tmp_path / "1" / "c") == outputs(tmp_path / "3" / "c")
    assert sorted(outputs(tmp_path / "1" / "c")) == [".bin", ".idx", ".json"]

    tokenizer = Tokenizer.load(folder / "tokenizer")
    dataset = IndexedDataset(tmp_path / "1" / "c", tokenizer.vocab_size)
    assert [dataset[n].tolist() for n in range(len(dataset))] == [[*tokenizer.encode(text), 1] for text in TEXTS]
    assert json.loads((tmp_path / "1" / "c.json").read_text()) == {
        "documents": len(TEXTS),
        "tokens": dataset.index.num_tokens,
        "characters": sum(map(len, TEXTS)),
        "bytes": sum(len(text.encode()) for text in TEXTS),
        "eos_id": 1,
        "vocab_size": 480,
        "tokenizer": tokenizer.fingerprint,
    }
    assert stats.characters_per_token == stats.characters / (stats.tokens - len(TEXTS))
    assert EncodeStats().characters_per_token == 0


def test_mistakes_leave_nothing(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n' * 5000 + "{\n")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    out = tmp_path / "out" / "c"
    for inputs, tokenizer, workers, message in (
        (bad, folder / "tokenizer", 1, "line 5001: not JSON"),
        (bad, folder / "tokenizer", 2, "line 5001: not JSON"),
        (empty, folder / "tokenizer", 1, r"no document in .*empty\.jsonl"),
        (empty, folder / "none", 1, "no such tokenizer"),
        (tmp_path / "none.jsonl", folder / "tokenizer", 1, "no such file"),
        (bad, folder / "tokenizer", 0, "workers = 0: at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            encode_files(inputs, tokenizer, out, workers=workers)
        assert not out.parent.exists() or not list(out.parent.iterdir())
    encode_files(folder / "text", folder / "tokenizer", out, workers=1)
    before = outputs(out)
    with pytest.raises(UserError, match="line 5001"):
        encode_files(bad, folder / "tokenizer", out, workers=1)
    assert outputs(out) == before


def test_an_input_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "c.bin").symlink_to(tmp_path / "c.json.jsonl")
    with pytest.raises(UserError, match=r"c\.json\.jsonl: is an input and would be overwritten"):
        encode_files(tmp_path / "c.json.jsonl", folder / "tokenizer", tmp_path / "c", workers=1)


def test_a_dying_worker_is_an_error(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_module, "_BATCH_CHARACTERS", 1000)
    killed: list[int] = []

    def kill(stats: EncodeStats) -> None:
        if not killed:
            workers = [pid for pid in descendants(os.getpid()) if b"spawn_main" in command_line(pid)]
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    with pytest.raises(RuntimeError, match="a worker process ended"):
        encode_files(folder / "text", folder / "tokenizer", tmp_path / "c", workers=2, progress=kill)
    assert killed
    assert not list(tmp_path.iterdir())


PROGRAM = """
import signal, sys
from pyjpllm.data import encode, encode_files
# A shell that starts tests in the background has its children ignore SIGINT, and Python keeps to that.
signal.signal(signal.SIGINT, signal.default_int_handler)
encode._BATCH_CHARACTERS = 1000
if __name__ == "__main__":
    def progress(stats):
        print(stats.documents, flush=True)
        if stats.documents > 60:
            sys.stdin.read()
    encode_files(sys.argv[1], sys.argv[2], sys.argv[3], workers=2, progress=progress)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_it_encodes(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    """The output stays absent, the workers end too, and the next run cleans up."""
    (tmp_path / "program.py").write_text(PROGRAM)
    out = tmp_path / "out" / "c"
    argv = [sys.executable, str(tmp_path / "program.py"), str(folder / "text"), str(folder / "tokenizer"), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) <= 60:
            pass
        workers = descendants(process.pid)
        assert len(workers) >= 2
        time.sleep(0.5)  # until it waits in read(): between, an interrupt can be lost in a callback that ignores errors
        process.send_signal(how)
        process.wait(60)
    assert process.returncode != 0
    wait_until(lambda: not any(b"spawn" in command_line(pid) for pid in workers))
    left = [path.name for path in out.parent.iterdir()]
    assert left == ([] if how == signal.SIGINT else [f".c.bin.{process.pid}.tmp"])
    encode_files(folder / "text", folder / "tokenizer", out, workers=1)
    assert sorted(path.name for path in out.parent.iterdir()) == ["c.bin", "c.idx", "c.json"]


def test_killed_at_any_moment_of_the_end(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rename is the last that happens, an index is only there with the tokens that it describes."""
    out = tmp_path / "c"
    small = tmp_path / "text.jsonl"
    small.write_text('{"text": "日本"}\n')
    replaced: list[str] = []
    real = os.replace

    class Killed(BaseException):
        pass

    for allowed in range(4):
        encode_files(folder / "text", folder / "tokenizer", out, workers=1)
        replaced.clear()

        def replace(source: str, target: str, allowed: int = allowed) -> None:
            if len(replaced) >= allowed:
                raise Killed
            replaced.append(str(target))
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            encode_files(small, folder / "tokenizer", out, workers=1)
        except Killed:
            pass
        finally:
            monkeypatch.undo()
        names = {path.name for path in tmp_path.iterdir()} - {"text.jsonl"}
        if "c.idx" in names:
            assert len(IndexedDataset(out)) == 1
        if "c.json" in names:
            assert json.loads((tmp_path / "c.json").read_text())["documents"] == 1
        assert len(replaced) == min(allowed, 3)


def test_leftovers_of_the_living_stay(tmp_path: Path) -> None:
    mine = tmp_path / f".c.bin.{os.getpid()}.tmp"
    others = [tmp_path / ".c.bin.x.tmp", tmp_path / ".d.bin.1.tmp"]
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = tmp_path / f".c.idx.{child.pid}.tmp"
    for path in (mine, dead, *others):
        path.write_text("")
    encode_module.remove_leftovers(tmp_path / "c")
    assert not dead.exists()
    assert all(path.exists() for path in (mine, *others))
