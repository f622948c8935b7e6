"""Builds the kernels' units with the flags of CMakeLists.txt and line tables, and links each instruction set's."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The compiler of the aarch64 wheels is a clang (scripts/wheels); Debian's clang 19 stands in for it.
COMPILERS = {
    ("gcc", "aarch64"): "aarch64-linux-gnu-g++",
    ("clang", "aarch64"): "clang++-19",
    ("gcc", "x86_64"): "g++",
    ("clang", "x86_64"): "clang++-19",
}
PACKAGES = "llvm-19 clang-19 g++-aarch64-linux-gnu"


class MissingError(Exception):
    """A program or an instruction set is not there; the message is one line for the user."""


@dataclass(frozen=True)
class Tools:
    """The programs used, by name or path."""

    objdump: str = "llvm-objdump-19"
    mca: str = "llvm-mca-19"
    symbolizer: str = "llvm-symbolizer-19"
    cxxfilt: str = "llvm-cxxfilt-19"


def check_tools(tools: Tools) -> None:
    """Raises MissingError for a program that is not on the path."""
    for program in (tools.objdump, tools.mca, tools.symbolizer, tools.cxxfilt):
        if shutil.which(program) is None:
            raise MissingError(f"{program} is not on the path (Debian: apt-get install {PACKAGES})")


def architecture(isa: str) -> str:
    """The processor family an instruction set belongs to."""
    return "aarch64" if isa.startswith("sve") or isa == "neon" else "x86_64"


def configure(folder: Path, compiler: str, isa: str, source: Path = ROOT) -> list[dict[str, str]]:
    """CMake's compile commands for a compiler ("gcc", "clang") and the family of an instruction set."""
    family = architecture(isa)
    program = COMPILERS[compiler, family]
    if shutil.which(program) is None:
        raise MissingError(f"{program} is not on the path (Debian: apt-get install {PACKAGES})")
    options = ["-DJPLLM_BUILD_PYTHON=OFF", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", f"-DCMAKE_CXX_COMPILER={program}"]
    if family == "aarch64":
        options += ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
        if compiler == "clang":
            options.append("-DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu")
    command = [_cmake(), "-S", str(source), "-B", str(folder), *_generator(), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MissingError(f"CMake with {program}: {(result.stderr.strip() or result.stdout.strip())[-400:]}")
    commands: list[dict[str, str]] = json.loads((folder / "compile_commands.json").read_text(encoding="utf-8"))
    return commands


def build(folder: Path, compiler: str, isa: str, source: Path = ROOT) -> Path:
    """A library of every unit of an instruction set, whose instructions are those of the product.

    Only line tables (-g1) are added to the flags, which change no instruction. Raises MissingError.
    """
    commands = configure(folder, compiler, isa, source)
    define = re.compile(rf"-DJPLLM_UNIT_{isa.upper()}\b")
    units = [command for command in commands if define.search(command["command"])]
    if not units:
        known = sorted({m[1].lower() for c in commands if (m := re.search(r"-DJPLLM_UNIT_(\w+)", c["command"]))})
        raise MissingError(f"the build with {compiler} has no unit {isa}; it has {', '.join(known) or 'none'}")
    objects = []
    for command in units:
        words = [*shlex.split(command["command"]), "-g1"]
        where = folder / words[words.index("-o") + 1]
        where.parent.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(words, cwd=command["directory"], capture_output=True, text=True, check=False)
        if result.returncode:
            raise MissingError(f"{Path(command['file']).name}: {result.stderr.strip()[:400]}")
        objects.append(where)
    return link(folder / f"{isa}.so", isa, objects)


def link(library: Path, isa: str, objects: Sequence[Path]) -> Path:
    """The objects of an instruction set's units as the library that `loops.judge` and `faults.find_faults` read."""
    command = [COMPILERS["gcc", architecture(isa)], "-shared", "-nostdlib", "-Wl,--unresolved-symbols=ignore-all"]
    subprocess.run([*command, "-o", str(library), *map(str, objects)], capture_output=True, text=True, check=True)
    return library


def _cmake() -> str:
    found = shutil.which("cmake")
    if found is None:
        try:
            import cmake
        except ImportError:
            raise MissingError("cmake is not on the path (pip install cmake)") from None
        found = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
    return found


def _generator() -> list[str]:
    return ["-G", "Ninja"] if shutil.which("ninja") else []
