"""The build: one clear line where something is missing; the kernels' own test program, here and as on an A64FX."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pyjpllm import _native
from tests.kernels.builds import (
    CLANG,
    PATIENCE,
    ROOT,
    assert_units_share_nothing,
    build_kernels,
    load_setup_script,
    run_kernels_test,
)


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("source") / "pyjpllm"
    for name in ("kernels", "csrc"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("setup.py", "CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "pyjpllm").mkdir()
    (copy / "pyjpllm" / "__init__.py").touch()
    (copy / "README.md").touch()
    (copy / "LICENSE").touch()
    return copy


def build(copy: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "out", "--build-temp", "work"],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def the_one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if "Warning" not in line and not line.startswith(" ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("pyjpllm: cannot build the native kernels: ")
    return lines[0]


def test_a_compiler_that_is_not_there(clean_copy):
    line = the_one_line(build(clean_copy, CXX="/nonexistent/g++"))
    assert "CXX=/nonexistent/g++ is not there" in line
    assert "apt-get install g++" in line


def test_no_compiler_at_all(clean_copy, tmp_path):
    line = the_one_line(build(clean_copy, CXX="", PATH=str(tmp_path)))
    assert "no C++ compiler found (Debian: apt-get install g++" in line


def test_a_compiler_that_cannot_compile(clean_copy, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'error: no headers here' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "cannot build a C++17 program: error: no headers here" in the_one_line(build(clean_copy, CXX=str(broken)))


@pytest.fixture(scope="module")
def setup_script():
    return load_setup_script()


def test_no_python_headers(setup_script, monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(SystemExit, match=r"Python\.h of Python 3\.\d+ is not in .*apt-get install python3-dev"):
        setup_script["check_python_headers"]()


def test_no_cmake(setup_script, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cmake", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="cmake is neither a Python package here nor on the path"):
        setup_script["find_program"]("cmake")


def test_the_build_requirements_are_used(setup_script):
    for name in ("cmake", "ninja"):
        program = setup_script["find_program"](name)
        assert subprocess.run([program, "--version"], capture_output=True, check=True).stdout


# --- the kernels alone ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host_program(tmp_path_factory) -> Path:
    return build_kernels(tmp_path_factory.mktemp("host"))


def widest() -> list[str]:
    """This CPU's widest units and the one without vectors: AVX2's, where there are wider ones, is the same source."""
    isas: list[str] = _native.isas()
    return [isa for isa in isas if isa != "avx2" or "avx512" not in isas]


@pytest.mark.builds
@pytest.mark.timeout(2 * PATIENCE)
def test_the_kernels_alone(host_program):
    assert "scalar: " in run_kernels_test(str(host_program))
    assert_units_share_nothing(host_program.parent)


@pytest.mark.builds
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.skipif(CLANG is None, reason="no clang here; GCC builds the same in the test before")
def test_the_kernels_alone_by_clang(tmp_path):
    program = build_kernels(tmp_path, f"-DCMAKE_CXX_COMPILER={CLANG}", f"-DJPLLM_ISAS={';'.join(widest())}")
    assert "scalar: " in run_kernels_test(str(program))
    assert_units_share_nothing(tmp_path)


@pytest.mark.builds
@pytest.mark.a64fx
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are x86-64 processors")
@pytest.mark.parametrize(("cpu", "isas"), [("Nehalem", "scalar"), ("Haswell", "avx2,scalar")])
def test_one_build_runs_on_older_processors(host_program, cpu, isas):
    assert shutil.which("qemu-x86_64-static"), "qemu-x86_64-static is missing: apt-get install qemu-user-static"
    said = run_kernels_test("qemu-x86_64-static", "-cpu", cpu, str(host_program), isas.partition(",")[0])
    assert f"instruction sets: {isas} (" in said


@pytest.mark.builds
@pytest.mark.a64fx
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are x86-64 instruction sets")
@pytest.mark.skipif(
    "avx512bf16" in _native.isas(), reason="this CPU runs these units itself, in test_the_kernels_alone"
)
def test_avx512_units_over_simde(tmp_path):
    assert Path("/usr/include/simde/x86/avx512.h").exists(), "SIMDe is missing: apt-get install libsimde-dev"
    program = build_kernels(tmp_path, "-DJPLLM_SIMDE=ON", "-DJPLLM_ISAS=avx512;avx512bf16")
    assert "in use: avx512bf16" in run_kernels_test(str(program), "avx512bf16,avx512")


@pytest.mark.builds
@pytest.mark.timeout(2 * PATIENCE)
def test_the_kernels_under_sanitizers(tmp_path):
    """Units that this CPU cannot run would be built for nothing."""
    isas = widest()
    program = build_kernels(tmp_path, "-DJPLLM_SANITIZE=address,undefined", f"-DJPLLM_ISAS={';'.join(isas)}")
    said = run_kernels_test(str(program), ",".join(isas))
    assert all(f"{isa}: " in said for isa in isas)


@pytest.mark.builds
@pytest.mark.a64fx
@pytest.mark.timeout(2 * PATIENCE)
def test_sve_on_an_emulated_a64fx(sve_build):
    assert shutil.which("qemu-aarch64-static"), "qemu-aarch64-static is missing: apt-get install qemu-user-static"
    program = str(sve_build / "kernels_test")
    assert_units_share_nothing(sve_build)
    emulate = ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu", "-cpu")
    # All checks take minutes under the emulator: one compiler's code does them at 512 bits, as the wheels' has to, and
    # the other's at 256. The length in force decides; a CPU without SVE runs the same program.
    if "clang" in sve_build.name:
        assert "in use: sve512" in run_kernels_test(*emulate, "a64fx", program, "sve512")
        return
    assert "in use: sve256" in run_kernels_test(*emulate, "a64fx,sve512=off", program, "sve256")
    assert "in use: scalar" in run_kernels_test(*emulate, "cortex-a72", program, "scalar")
    shorter = run_kernels_test(*emulate, "a64fx,sve512=off,sve256=off", program, "--choice")
    assert "instruction sets: scalar (" in shorter
    assert "in use: scalar" in run_kernels_test(*emulate, "a64fx", program, "--choice", JPLLM_ISA="scalar")
