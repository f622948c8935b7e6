"""The frame of the command: help, exit codes, what is said when something goes wrong, and by which rank."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from pyjpllm import launchers
from pyjpllm.cli import app as app_module
from pyjpllm.cli import exits
from pyjpllm.cli.app import COMMANDS, main, run
from pyjpllm.config import to_toml
from pyjpllm.errors import UserError
from tests.mpi import launch
from tests.training.small import data_folder, small_config

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def plain_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rank, no debugging, work not started; --debug sets a variable, which is taken back."""
    monkeypatch.setenv("JPLLM_DEBUG", "0")
    for name in list(os.environ):
        if name.startswith(("OMPI_COMM_", "PMI", "SLURM_")) or name in ("RANK", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(exits, "_working", False)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `jpllm report` raise what it is given."""

    def install(error: BaseException) -> None:
        module = types.ModuleType("pyjpllm.cli.report")

        def command() -> None:
            raise error

        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pyjpllm.cli.report", module)

    return install


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys\nfrom pyjpllm.cli.app import run\n"
        "for words in ([], ['--help'], ['--version'], ['train', '--help'], ['trian'], ['train', '--presets']):\n"
        "    run(words)\n"
        "heavy = {'torch', 'numpy', 'mpi4py', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.M)


def test_it_is_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "pyjpllm", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert done.stdout.startswith("jpllm ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(f"pyjpllm.cli.{name}")
    assert run([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"jpllm {name}" in out
    subcommands = re.findall(r"^  (\w+)  +\S", out.split("Commands:")[1], re.M) if "Commands:" in out else []
    for sub in subcommands:
        assert run([name, sub, "--help"]) == 0
        out += capsys.readouterr().out
    assert "Example" in out


def test_version_and_bare_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert run([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_main_leaves_with_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2


def test_a_user_error_is_its_lines(broken: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    broken(UserError("first\nsecond"))
    assert run(["report"]) == 2
    assert capsys.readouterr().err == "jpllm: first\njpllm: second\n"


@pytest.mark.parametrize("words", [["--debug", "report"], ["report"]])
def test_debug_shows_the_traceback(
    words: list[str],
    broken: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JPLLM_DEBUG", "0" if words[0] == "--debug" else "1")
    broken(UserError("first"))
    assert run(words) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_a_traceback(broken: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    broken(ValueError("inside"))
    assert run(["report"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("ValueError: inside\n")


def test_the_traceback_begins_at_the_subcommand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyjpllm.cli.train._print_presets", lambda _: 1 // 0)
    assert run(["train", "--presets"]) == 1
    err = capsys.readouterr().err
    assert "train.py" in err
    assert "cli/app.py" not in err
    assert run(["--debug", "train", "--presets"]) == 1
    err = capsys.readouterr().err
    assert "cli/app.py" in err
    assert err.count("ZeroDivisionError:") == 1


def test_a_bug_on_a_rank_names_it(
    broken: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    broken(ValueError("inside"))
    assert run(["report"]) == 1
    assert all(line.startswith("rank 3: ") for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space", "/scratch/x"), "jpllm: /scratch/x: no space left on the disk\n"),
        (OSError(errno.EDQUOT, "Quota"), "jpllm: the disk quota is used up\n"),
        (PermissionError(errno.EACCES, "No", "a", None, "b"), "jpllm: a -> b: permission denied\n"),
        (OSError(errno.EROFS, "Read-only", "/x"), "jpllm: /x: the file system is read-only\n"),
    ],
)
def test_the_disk_is_one_line(
    error: OSError, said: str, broken: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    broken(error)
    assert run(["report"]) == 1
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (SystemExit(7), 7),
        (SystemExit(None), 0),
        (SystemExit("text"), 1),
        (typer.Exit(5), 5),
        (typer.Abort(), 130),
    ],
)
def test_quiet_ends(
    error: BaseException, code: int, broken: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    broken(error)
    assert run(["report"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_closed_pipe_is_no_error() -> None:
    program = f"{sys.executable} -m pyjpllm train --presets | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize(("where", "code", "said"), [(">/dev/full", 1, "no space left on the disk"), (">&-", 0, "")])
def test_an_output_that_takes_nothing(where: str, code: int, said: str) -> None:
    program = f"{sys.executable} -m pyjpllm train --presets {where}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_could_not_be_flushed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space")

    monkeypatch.setattr(app_module, "_silence_stdout", lambda: None)
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(app_module, "run", lambda _: 0)
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 1


def test_only_the_first_rank_speaks_before_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1")
    assert exits.report(UserError("x"), [], sleep=slept.append) == 2
    assert capsys.readouterr().err == ""
    assert slept == [exits.PATIENCE_S]  # the first rank must have spoken before the launcher sees an end

    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "0")  # the first on another node, whose files may differ
    assert exits.report(UserError("x"), [], sleep=slept.append) == 2
    assert capsys.readouterr().err == "rank 1: jpllm: x\n"
    assert slept == [exits.PATIENCE_S, exits.SILENCE_S]


_FAILING = """
from pyjpllm.training import trainer
real = trainer.Trainer._one_step
def one_step(self):
    if self.world.rank == 1 and self.step == 2:
        raise ValueError("a bug on one rank")
    return real(self)
trainer.Trainer._one_step = one_step
from pyjpllm.cli import main
main()
"""


def test_a_bug_on_one_rank_ends_the_job_and_is_seen(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(to_toml(small_config(data_folder())).replace("vocab_size = 0\n", ""), encoding="utf-8")
    done = launch([sys.executable, "-c", _FAILING, "train", "config.toml", "--run", "run"], 2, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "rank 1: ValueError: a bug on one rank" in done.stderr
    assert "rank 0: " not in done.stderr


def test_any_rank_speaks_once_work_has_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("MPI_LOCALRANKID", "3")
    exits.work_starts()
    assert exits.report(UserError("x"), [], sleep=lambda _: None) == 2
    assert capsys.readouterr().err == "rank 3: jpllm: x\n"


def test_ranks_are_those_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {row[1] for row in launchers.VARIABLES}
    assert set(exits._RANKS) == known
    assert exits.rank() == 0
    assert exits.ranks_here() == 1
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "4")
    assert exits.ranks_here() == 4


def test_a_group_keeps_its_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = types.ModuleType("pyjpllm.cli.bench")
    module.app = typer.Typer(no_args_is_help=True)  # type: ignore[attr-defined]

    @module.app.command()  # type: ignore[attr-defined, untyped-decorator]
    def step(size: int = 1) -> None:
        """One step."""
        typer.echo(f"step {size}")

    monkeypatch.setitem(sys.modules, "pyjpllm.cli.bench", module)
    assert run(["bench", "step", "--size", "3"]) == 0
    assert capsys.readouterr().out == "step 3\n"
    assert run(["bench", "stpe"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "jpllm bench: no command 'stpe'; did you mean 'step'?"
    assert run(["bench", "step", "--sise", "3"]) == 2
    assert "did you mean --size?" in capsys.readouterr().err
    assert run(["bench"]) in (0, 2)  # which one, and where to, is typer's choice and has changed
    assert "Usage: jpllm bench" in "".join(capsys.readouterr())


def test_completion_knows_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {**os.environ, "_JPLLM_COMPLETE": "complete_bash", "COMP_WORDS": "jpllm tr", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "pyjpllm"], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["train"]
    assert app_module.COMMANDS


def test_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--presets"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^13b .*12,688\.2M$", out, re.M)
    assert run(["train", "--presets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tiny"]["hidden_size"] == 128
