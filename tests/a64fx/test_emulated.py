"""The wheel for aarch64 in the emulated tree: which kernels it picks, operations, a training step, four MPI ranks.

Everything emulated starts at once and each test waits for its own: importing torch takes most of the time of each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.data.corpora import make_tokenizer, write_corpus

pytestmark = [pytest.mark.a64fx, pytest.mark.builds, pytest.mark.timeout(5000)]
REPO = Path(__file__).resolve().parents[2]
SCRIPTS = REPO / "scripts" / "a64fx"
CONFIG = """
[model]
hidden_size = 64
num_layers = 2
num_heads = 4
num_kv_heads = 2
head_dim = 16
intermediate_size = 128
vocab_size = 512
[data]
train = [{ path = "tokens" }]
tokenizer = "tokenizer"
sequence_length = 64
[optimizer]
lr = 1e-2
[schedule]
warmup_steps = 1
[train]
steps = 2
global_batch = 4
micro_batch = 2
kernels = "native"
[log]
tensorboard = false
"""


@dataclass
class Emulated:
    """Processes by name, with what they said so far in files of ``folder``."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str | Path, cwd: Path = REPO, **variables: str) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **variables},
            )

    def said(self, name: str) -> str:
        code = self.processes[name].wait(timeout=2400)
        text = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        assert code == 0, text
        return text


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    folder = tmp_path_factory.mktemp("a64fx")
    make_tokenizer(folder / "tokenizer")
    write_corpus(folder / "tokens", [40] * 60)
    (folder / "config.toml").write_text(CONFIG)
    run = Emulated(folder)
    run.start("make", SCRIPTS / "make")
    if run.processes["make"].wait(timeout=2400) != 0 and "JPLLM_REQUIRE_A64FX" not in os.environ:
        pytest.skip(f"scripts/a64fx/make: {(folder / 'make.log').read_text().splitlines()[-1]}")
    run.said("make")
    # The ranks first: they are four, and the last to end.
    ours = ("jpllm", "train", "config.toml", "--run")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    layout = ("parallel.pipeline=2", "parallel.tensor=2")
    run.start("mpi", SCRIPTS / "mpirun", "-n", "4", *ours, "four", *layout, cwd=folder, PATH=path)
    run.start("train", SCRIPTS / "run", *ours, "one", cwd=folder)
    pytest_command = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/a64fx/emulated_operations.py")
    for bits in ("512", "256"):
        run.start(bits, SCRIPTS / "run", "--vl", bits, *pytest_command, EXPECTED_ISA=f"sve{bits}")
    yield run
    for process in run.processes.values():
        if process.poll() is None:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("bits", ["512", "256"])
def test_the_wheel_picks_the_vectors_of_the_processor(emulated: Emulated, bits: str) -> None:
    script = "from pyjpllm import _native as n; print(n.__file__, n.isa(), *n.build_info()['isas_built'])"
    emulated.start(f"pick{bits}", SCRIPTS / "run", "--vl", bits, "python", "-c", script, cwd=emulated.folder)
    file, isa, *built = emulated.said(f"pick{bits}").split()
    assert file.endswith("/dist-packages/pyjpllm/_native.cpython-311-aarch64-linux-gnu.so")
    assert isa == f"sve{bits}"
    assert {"sve512", "sve256", "scalar"} <= set(built)


def test_a_process_that_the_emulated_python_starts_is_emulated(emulated: Emulated) -> None:
    script = (
        "import platform, subprocess, sys; print(platform.machine(), flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'import platform; print(platform.machine())'], check=True)"
    )
    emulated.start("child", SCRIPTS / "run", "python", "-c", script)
    assert emulated.said("child").split() == ["aarch64", "aarch64"]


def test_the_commands_that_cannot_run_say_so(emulated: Emulated) -> None:
    for command, line in (
        (["no-such-thing"], "no-such-thing: no such command in the emulated tree"),
        ([sys.executable], ": a program, but not for aarch64"),
        (["--vl", "384", "python"], "--vl 384: allowed are 512, 256"),
        ([], "a command is needed"),
    ):
        result = subprocess.run([SCRIPTS / "run", *command], capture_output=True, text=True)
        assert result.returncode == 2
        assert line in result.stderr
        assert len(result.stderr.splitlines()) == 1


def steps(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def here(emulated: Emulated) -> list[dict[str, float]]:
    """The same training on this machine's own processor."""
    command = (sys.executable, "-m", "pyjpllm", "train", "config.toml", "--run", "here")
    emulated.start("here", *command, cwd=emulated.folder, PYTHONPATH=str(REPO))
    emulated.said("here")
    return steps(emulated.folder / "here")


def assert_same_losses(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    """2e-6 is 32 roundings of FP32: sums of up to 512 terms, in another order, keep well inside; so does step 2's loss
    only where step 1 moved the weights the same way."""
    assert [one["step"] for one in ours] == [one["step"] for one in theirs] == [1, 2]
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=2e-5)


def test_a_training_step_has_the_loss_of_this_machine(emulated: Emulated, here: list[dict[str, float]]) -> None:
    emulated.said("train")
    assert_same_losses(steps(emulated.folder / "one"), here)


def test_four_ranks_have_the_loss_of_one(emulated: Emulated, here: list[dict[str, float]]) -> None:
    """Two stages of a pipeline, each of two tensor-parallel ranks."""
    assert "4 rank(s) as pipeline 2 x tensor 2" in emulated.said("mpi")
    assert_same_losses(steps(emulated.folder / "four"), here)


@pytest.mark.parametrize("bits", ["512", "256"])
def test_operations(emulated: Emulated, bits: str) -> None:
    assert " passed" in emulated.said(bits)
