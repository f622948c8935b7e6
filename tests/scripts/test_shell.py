"""The shell scripts: they parse, say what is missing in a line each, refuse wrong options, and the quickstart picks up.

The quickstart runs here with a stand-in for `jpllm` and `mpirun` that only leaves the files; the real ones are what
docs/quickstart.md measures.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.conftest import REPO
from tests.scripts.test_text import sentence

SCRIPTS = sorted([*(REPO / "scripts").glob("*.sh"), REPO / ".ci" / "run"])
TOOLS = """bash cat chmod cp cut dirname env find flock grep head ls mkdir mv printf realpath rm sed setpriv sha256sum
sleep sort tail tee uname xargs"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def tools_folder(folder: Path, *more: str) -> Path:
    """A folder for PATH with the usual tools and no compiler, no git and no Python but those in ``more``."""
    folder.mkdir()
    for name in (*TOOLS.split(), *more):
        path = shutil.which(name)
        if path is not None:
            (folder / name).symlink_to(path)
    return folder


def executable(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def start(script: str, *arguments: object, path: Path | str | None = None, **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "PYTHON")}
    environment |= {"PATH": str(path or os.environ["PATH"]), **variables}
    return subprocess.Popen(
        ["bash", REPO / "scripts" / script, *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(script: str, *arguments: object, path: Path | None = None, **variables: str) -> list[str]:
    """The lines on standard error of a start that must end with 2."""
    process = start(script, *arguments, path=path, **variables)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    return errors.splitlines()


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_everything_is_missing(script: str, tmp_path: Path) -> None:
    where = ["--venv", tmp_path / "venv", *(["--work", tmp_path / "work"] if script == "quickstart.sh" else [])]
    assert lines_of(script, *where, path=tools_folder(tmp_path / "bin")) == [
        f"scripts/{script}: no Python 3.10 or newer on the PATH: "
        "install Debian's package python3 (or set PYTHON to one)",
        f"scripts/{script}: no C++ compiler: install Debian's package g++ (or clang)",
        f"scripts/{script}: git is missing: install Debian's package git",
    ]
    assert not (tmp_path / "venv").exists()


def test_a_python_without_venv_and_headers(tmp_path: Path) -> None:
    tools = tools_folder(tmp_path / "bin", "git", "g++")
    fake = '#!/bin/bash\ncase "$2" in *version_info*) ;; *venv*) exit 1 ;; *) echo /nowhere/include ;; esac\n'
    executable(tools / "python3", fake)
    assert lines_of("test.sh", "--venv", tmp_path / "venv", path=tools) == [
        f"scripts/test.sh: {tools}/python3 cannot make virtual environments: install Debian's package python3-venv",
        "scripts/test.sh: /nowhere/include/Python.h is missing: install Debian's package python3-dev",
    ]


def test_an_old_python_is_none(tmp_path: Path) -> None:
    tools = tools_folder(tmp_path / "bin", "git", "g++")
    executable(tools / "python3", "#!/bin/bash\nexit 1\n")
    (line,) = lines_of("test.sh", "--venv", tmp_path / "venv", path=tools)
    assert "no Python 3.10 or newer" in line


def test_a_compiler_that_is_not_there(tmp_path: Path) -> None:
    (line,) = lines_of("test.sh", "--venv", tmp_path / "venv", CXX="no-such-compiler -O2")
    assert line == "scripts/test.sh: no C++ compiler: CXX is 'no-such-compiler -O2', which is not on the PATH"


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    (line,) = lines_of("test.sh", "--venv", tmp_path)
    assert line.endswith(f"{tmp_path} is there and is no virtual environment: name another folder with --venv")
    assert (tmp_path / "precious").exists()


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("quickstart.sh", ["--txet", "x"], "--txet is no option of this script (see --help)"),
        ("quickstart.sh", ["--text"], "--text needs a value (see --help)"),
        ("quickstart.sh", ["--text", "no.txt"], "--text no.txt: no such file, or not readable"),
        ("quickstart.sh", ["--ranks", "two"], "--ranks two: a whole number from 1 is needed"),
        ("quickstart.sh", ["--steps", "0"], "--steps 0: a whole number from 1 is needed"),
        ("quickstart.sh", ["--work", "--venv"], "--work needs a value (see --help)"),
        ("test.sh", ["tests/data"], "tests/data is no option of this script; arguments for pytest go behind --"),
        ("test.sh", ["--require", "a64fx,brwoser"], "--require brwoser: allowed are a64fx, scheduler, browser"),
        ("test.sh", ["--only", "lint types"], "--only 'lint types': names stand apart by commas"),
        ("test.sh", ["--only", "style"], "--only style: allowed are lint, types, format, tests"),
        ("test.sh", ["--venv"], "--venv needs a value (see --help)"),
    ],
)
def test_wrong_options(script: str, arguments: list[str], said: str, tmp_path: Path) -> None:
    (line,) = lines_of(script, *arguments, path=tools_folder(tmp_path / "bin"))
    assert line.startswith(f"scripts/{script}: {said}")


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_help(script: str) -> None:
    process = start(script, "--help")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output.startswith(f"scripts/{script} [")


# --- picking up -------------------------------------------------------------------------------------------------------

STAND_IN = """#!/bin/bash
# Leaves the files that the real command would, and its words in a log.
if [[ ${0##*/} == mpirun ]]; then
    while [[ $1 != jpllm ]]; do shift; done
    shift
fi
words="$1 ${2:-}"
echo "$words" >>"$LOG"
if [[ -n ${KILL_AT:-} && $words == "$KILL_AT"* && ! -e $LOG.killed ]]; then
    : >"$LOG.killed"
    kill -KILL "$PPID"
    exec sleep 60
fi
case $1 in
corpus) exec "${0%/*}/python" -m pyjpllm "$@" ;;
tokenizer) mkdir -p tokenizer tokens ;;
train)
    mkdir -p run
    echo '{"step": 1, "tokens": 2000000, "seconds": {"total": 1.0}}' >run/metrics.jsonl
    ;;
evaluate) cat "$EVALUATION" ;;
convert) mkdir hf ;;
esac
"""
EVALUATION = """[vm:1] tcp_iface.c:984 UCX ERROR a library's own words on standard output
{
"documents": 9, "bytes": 1000000, "bits_per_byte": 1.5, "baselines": {"xz": {"setting": "xz -9e", "bits_per_byte": 2.0}}
}
"""
STEPS = [
    "corpus build",
    "tokenizer train",
    "tokenizer encode",
    "tokenizer encode",
    "train config.toml",
    "evaluate run",
    "convert run hf",
]


class Sandbox:
    """A virtual environment that passes for an installed one, whose jpllm and mpirun are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work, self.venv, self.log = folder, folder / "work", folder / "venv", folder / "log"
        self.text = folder / "text.txt"
        self.text.write_text("\n\n".join(sentence(n) for n in range(2500)), encoding="utf-8")
        (folder / "evaluation").write_text(EVALUATION, encoding="utf-8")
        tools = self.venv / "bin"
        tools.mkdir(parents=True)
        (self.venv / "pyvenv.cfg").write_text("")
        for name in ("jpllm", "mpirun"):
            executable(tools / name, STAND_IN)
        real = f'exec "{sys.executable}" "$@"\n'
        executable(tools / "python", f"#!/bin/bash\n[[ $1 == */generate_hf.py ]] && echo これは && exit\n{real}")
        command = (
            f'NAME=test REPO="{REPO}" VENV_PYTHON="{tools / "python"}"; source "$REPO/scripts/lib.sh"; check_tools; '
            "installation_hash run"
        )
        environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "PYTHON")}
        stamp = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True, env=environment)
        (self.venv / ".pyjpllm-run").write_text(stamp.stdout)

    def start(self, *arguments: object, **variables: str) -> subprocess.Popen[str]:
        where = ["--work", self.work, "--venv", self.venv, "--text", self.text]
        variables |= {"LOG": str(self.log), "EVALUATION": str(self.folder / "evaluation"), "PYTHONPATH": str(REPO)}
        return start("quickstart.sh", *where, *arguments, **variables)

    def called(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []


def test_the_quickstart_to_its_end_and_again(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    output, errors = sandbox.start().communicate(timeout=120)
    assert "== done" in output, errors
    assert "the model          1.500 bits per byte (25% less than xz)" in output
    assert "xz -9e             2.000 bits per byte" in output
    assert sandbox.called() == [*STEPS[:6], "convert run", "report run"]
    assert (sandbox.work / "samples.txt").read_text(encoding="utf-8") == "これは\n"
    process = sandbox.start()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "everything was done before" in output
    assert len(sandbox.called()) == 8
    process = sandbox.start("--steps", "9")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "holds a quickstart with other --text or --steps" in errors


@pytest.mark.parametrize("at", ["tokenizer encode", "train", "convert"])
def test_killed_and_started_again(at: str, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    process = sandbox.start(KILL_AT=at)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    before = sandbox.called()
    assert before[-1].startswith(at)
    process = sandbox.start(KILL_AT=at)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "== done" in output
    again = sandbox.called()[len(before) :]
    assert again[0].startswith(at)  # what was done before is not done again
    assert again[-1] == "report run"


def test_a_step_that_fails_is_said(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    executable(sandbox.venv / "bin" / "jpllm", "#!/bin/bash\necho 'jpllm: too bad' >&2\nexit 2\n")
    process = sandbox.start()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.splitlines()[-2:] == [
        "jpllm: too bad",
        "scripts/quickstart.sh: not finished; the same command goes on where it was",
    ]


# --- the installation -------------------------------------------------------------------------------------------------

FAKE_PYTHON = """#!/bin/bash
# `-m venv` makes an environment whose python is this file; `-m pip` writes down what it was asked for.
echo "${*:1:3}" >>"$LOG"
case "$*" in
"-m venv --clear "*)
    rm -rf "$4" && mkdir -p "$4/bin" && : >"$4/pyvenv.cfg" && cp "$0" "$4/bin/python"
    ;;
*" install "*)
    if [[ -n ${FAIL:-} ]]; then echo "ERROR: no network"; exit 1; fi
    if [[ -n ${KILL:-} ]]; then kill -KILL "$SCRIPT"; fi
    ;;
esac
"""


def install(folder: Path, kind: str = "run", **variables: str) -> tuple[int, list[str], str]:
    """Exit status of lib.sh's install, the calls of Python in it, and standard error."""
    log = folder / "log"
    log.write_text("")
    python = executable(folder / "python3", FAKE_PYTHON)
    command = f'export SCRIPT=$$; NAME=test; REPO="{REPO}"; PYTHON="{python}"; CXX=g++; source "$REPO/scripts/lib.sh"; '
    command += f'install "{folder / "venv"}" {kind}'
    environment = {**os.environ, "LOG": str(log), **variables}
    result = subprocess.run(["bash", "-euc", command], env=environment, capture_output=True, text=True, timeout=60)
    calls = [line for line in log.read_text().splitlines() if not line.startswith("-c")]
    return result.returncode, [line for line in calls if line != "-m pip --version"], result.stderr


def test_installing_once_and_again(tmp_path: Path) -> None:
    made = ["-m venv --clear", "-m pip --no-input", "-m pip --no-input"]
    assert install(tmp_path) == (0, made, "")
    assert install(tmp_path) == (0, [], "")
    assert install(tmp_path, "dev") == (0, made[1:], "")
    assert install(tmp_path) == (0, [], "")  # what serves development serves a run


def test_an_installation_that_was_killed_starts_anew(tmp_path: Path) -> None:
    assert install(tmp_path, KILL="yes")[0] == -signal.SIGKILL
    code, calls, _ = install(tmp_path)
    assert (code, calls[0]) == (0, "-m venv --clear")
    assert install(tmp_path) == (0, [], "")


def test_a_failed_installation_shows_the_end_of_the_log(tmp_path: Path) -> None:
    code, _, errors = install(tmp_path, FAIL="yes")
    assert code == 1
    assert errors.splitlines()[0] == "ERROR: no network"
    assert errors.splitlines()[-1].startswith(
        "test: pip install -c constraints.txt torch failed; the whole of its output"
    )
    assert install(tmp_path)[1][0] == "-m venv --clear"
