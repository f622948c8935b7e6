"""Builds of the kernels' own test program, and runs of it."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLANG = next((name for name in ("clang++", "clang++-19", "clang++-14") if shutil.which(name)), None)
# Against what hangs; a build may share its cores with the other tests.
PATIENCE = 1500


def load_setup_script() -> dict[str, Any]:
    """The functions of setup.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **_: None)
        return runpy.run_path(str(ROOT / "setup.py"))


def build_kernels(folder: Path, *settings: str) -> Path:
    """The test program, built in ``folder`` with these settings of CMake's; any warning fails."""
    find_program: Callable[[str], str] = load_setup_script()["find_program"]
    cmake, ninja = find_program("cmake"), find_program("ninja")
    options = (f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DJPLLM_BUILD_PYTHON=OFF", "-DJPLLM_BUILD_TESTS=ON", *settings)
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options],
        [cmake, "--build", str(folder)],
    ):
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "warning" not in result.stdout + result.stderr, result.stdout + result.stderr
    return folder / "kernels_test"


def objects_of(folder: Path, isa: str = "*") -> list[Path]:
    """The compiled units of an instruction set, or of all."""
    found = sorted(folder.glob(f"CMakeFiles/jpllm_unit_{isa}.dir/kernels/src/*/unit.cpp.o"))
    assert found
    return found


def assert_units_share_nothing(folder: Path) -> None:
    """A unit defines its table and no symbol that the linker could merge with another's; N are marks of debuggers."""
    for unit in objects_of(folder):
        listed = subprocess.run(["nm", "-C", "--defined-only", str(unit)], capture_output=True, text=True, check=True)
        shared = [line for line in listed.stdout.splitlines() if line.split()[1] not in "tdrbnN"]
        assert len(shared) == 1, shared
        assert re.search(r"jpllm::k\w+Table_", shared[0])


def run_kernels_test(*command: str, **environment: str) -> str:
    """What the test program says; a failed check fails."""
    result = subprocess.run(
        list(command), capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
