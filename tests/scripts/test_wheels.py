"""scripts/wheels and scripts/a64fx: what they refuse, and the wheel for x86-64 (tests/a64fx has the other one)."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.scripts.conftest import REPO
from tests.scripts.test_shell import executable, lines_of, start, tools_folder

SCRIPTS = ["wheels", "a64fx/make", "a64fx/run", "a64fx/mpirun"]


@pytest.mark.parametrize("script", [*SCRIPTS, "a64fx/lib.sh"])
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", REPO / "scripts" / script], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str) -> None:
    process = start(script, "--help")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output.startswith(f"scripts/{script}")


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("wheels", ["--arch", "arm"], "--arch arm: allowed are x86_64, aarch64"),
        ("wheels", ["--out"], "--out needs a value (see --help)"),
        ("wheels", ["here"], "here is no option of this script (see --help)"),
        ("a64fx/make", ["clean"], "clean is no option of this script (see --help)"),
        ("a64fx/run", [], "a command is needed (see --help)"),
        ("a64fx/run", ["--vl", "1024", "python"], "--vl 1024: allowed are 512, 256"),
        ("a64fx/mpirun", ["python"], "-n and a number of ranks are needed (see --help)"),
        ("a64fx/mpirun", ["-n", "2"], "a command is needed (see --help)"),
    ],
)
def test_wrong_options(script: str, arguments: list[str], said: str) -> None:
    assert lines_of(script, *arguments) == [f"scripts/{script}: {said}"]


def test_no_emulator_and_no_tree(tmp_path: Path) -> None:
    tools = tools_folder(tmp_path / "bin")
    (line,) = lines_of("a64fx/run", "python", path=tools, JPLLM_A64FX=str(tmp_path / "none"))
    assert line == "scripts/a64fx/run: qemu-aarch64-static is missing: apt-get install qemu-user-static"
    executable(tools / "qemu-aarch64-static", "#!/bin/bash\n")
    (line,) = lines_of("a64fx/run", "python", path=tools, JPLLM_A64FX=str(tmp_path / "none"))
    assert line == f"scripts/a64fx/run: no emulated tree in {tmp_path}/none: run scripts/a64fx/make"


def test_make_names_all_that_is_missing(tmp_path: Path) -> None:
    tools = tools_folder(tmp_path / "bin")
    (tools / "flock").unlink()
    lines = lines_of("a64fx/make", path=tools, JPLLM_A64FX=str(tmp_path / "none"))
    for program, package in (("apt-get", "apt"), ("qemu-aarch64-static", "qemu-user-static"), ("flock", "util-linux")):
        assert f"scripts/a64fx/make: {program} is missing: apt-get install {package}" in lines
    assert not (tmp_path / "none").exists()


def test_make_wants_the_python_of_the_tree(tmp_path: Path) -> None:
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not keyring.exists():
        pytest.skip("make stops earlier where Debian's keys are not there")
    tools = tools_folder(tmp_path / "bin")
    for name in ("apt-get", "dpkg", "qemu-aarch64-static"):
        executable(tools / name, "#!/bin/bash\n")
    fake = '#!/bin/bash\ncase "$2" in *%d.%d*) echo 3.13 ;; *include*) echo "$HOME" ;; esac\n'
    executable(tools / "python3", fake)
    (tmp_path / "Python.h").touch()
    (line,) = lines_of("a64fx/make", path=tools, JPLLM_A64FX=str(tmp_path / "none"), HOME=str(tmp_path))
    assert line.endswith("python3 is no Python 3.11, which the emulated tree has: set PYTHON to one")


@pytest.mark.builds
@pytest.mark.a64fx
@pytest.mark.timeout(1800)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="imports the wheel for x86-64")
def test_the_wheel_for_this_machine(tmp_path: Path) -> None:
    command = [REPO / "scripts" / "wheels", "--arch", "x86_64", "--out", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name.endswith(f"-{version}-{version}-manylinux_2_28_x86_64.whl")
    assert str(wheel) in result.stdout
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "wheel")
    modules = [tmp_path / "wheel" / name for name in names if name.endswith(".so")]
    assert sorted(module.name.partition(".")[0] for module in modules) == ["_native", "_text"]
    assert {"pyjpllm/py.typed", "pyjpllm/_native.pyi", "pyjpllm/_text.pyi"} <= set(names)
    for module in modules:
        symbols = subprocess.run(["objdump", "-T", module], capture_output=True, text=True, check=True)
        versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([0-9.]+)", symbols.stdout)}
        assert max(versions) <= (2, 28)
        assert "GLIBCXX" not in symbols.stdout
    script = "from pyjpllm import _native as n, _text; print(n.__file__, *n.build_info()['isas_built'])"
    said = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "wheel", capture_output=True, text=True)
    file, *built = said.stdout.split()
    assert file.startswith(str(tmp_path))
    assert {"avx512bf16", "avx512", "avx2", "scalar"} <= set(built)
