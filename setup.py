"""Builds kernels/ and csrc/ with CMake into ``pyjpllm/_native`` and ``pyjpllm/_text``; pyproject.toml has all the rest.

What the build needs is looked for first, so that what is missing is one line and not a page of CMake's.

For another processor, set `CXX` to a compiler for it and `_PYTHON_HOST_PLATFORM` (CPython's own name for this) to, say,
linux-aarch64; `scripts/wheels` does.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def stop(message: str) -> None:
    """End the build with one line (a traceback here would bury it)."""
    sys.exit(f"pyjpllm: cannot build the native kernels: {message}")


def find_compiler() -> str:
    """The C++ compiler: ``$CXX``, or the first usual name on the path. Checked by compiling a line of C++17."""
    asked = os.environ.get("CXX")
    if asked:
        command = asked.split()
        if shutil.which(command[0]) is None:
            stop(f"the C++ compiler CXX={asked} is not there; unset CXX or install one (Debian: apt-get install g++)")
    else:
        found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
        if found is None:
            stop("no C++ compiler found (Debian: apt-get install g++; elsewhere GCC >= 10 or clang >= 14, or set CXX)")
        command = [str(found)]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <optional>\nint main() { return std::optional<int>(0).value(); }\n")
        probe = subprocess.run(
            [*command, "-std=c++17", "-o", str(source.with_suffix("")), str(source)], capture_output=True, text=True
        )
    if probe.returncode != 0:
        why = next((line for line in probe.stderr.splitlines() if "error" in line), "no C++17")
        stop(f"{' '.join(command)} cannot build a C++17 program: {why.strip()} (Debian: apt-get install g++)")
    return " ".join(command)


def check_python_headers() -> None:
    include = sysconfig.get_paths()["include"]
    if not (Path(include) / "Python.h").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stop(f"Python.h of Python {version} is not in {include} (Debian: apt-get install python3-dev)")


def find_program(name: str) -> str:
    """cmake or ninja: the build requirement of that name (a module with its program inside), or the system's."""
    try:
        module = __import__(name)
        program = Path(str(module.__dict__[f"{name.upper()}_BIN_DIR" if name == "cmake" else "BIN_DIR"])) / name
        if program.exists():
            return str(program)
    except (ImportError, KeyError):
        pass
    found = shutil.which(name)
    if found is None:
        stop(f"{name} is neither a Python package here nor on the path (pip install {name}, or apt-get install {name})")
    return str(found)


def target_processor() -> str:
    """What the module is to run on: this machine, or what `_PYTHON_HOST_PLATFORM` says."""
    return os.environ.get("_PYTHON_HOST_PLATFORM", "").removeprefix("linux-") or platform.machine()


class CMakeBuild(build_ext):
    """Runs CMake once for all extension modules."""

    def get_ext_filename(self, fullname: str) -> str:
        """The file name that the target's Python looks for; setuptools knows this machine's only."""
        name = str(super().get_ext_filename(fullname))
        return name.replace(f"-{platform.machine()}-linux", f"-{target_processor()}-linux")

    def build_extensions(self) -> None:
        self.run_cmake()
        for ext in self.extensions:
            self.build_extension(ext)

    def run_cmake(self) -> None:
        compiler = find_compiler()
        check_python_headers()
        cmake, ninja = find_program("cmake"), find_program("ninja")
        work = Path(self.build_temp).resolve() / "cmake"
        work.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "CXX": compiler}
        configure = [
            *(cmake, "--fresh", "-S", str(ROOT), "-B", str(work), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"),
            *("-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"),
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={work / 'out'}",
        ]
        if target_processor() != platform.machine():
            configure += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={target_processor()}"]
        for command in (configure, [cmake, "--build", str(work)]):
            result = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if result.returncode != 0:
                sys.stderr.write(result.stdout)
                stop(f"`{' '.join(command[:3])} ...` failed; its output is above")

    def build_extension(self, ext: Extension) -> None:
        """Put what CMake has built where Python looks for it."""
        out = Path(self.build_temp).resolve() / "cmake" / "out"
        built = next(out.glob(f"{ext.name.rpartition('.')[2]}.*so"))
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside, then renamed: a process that has the old module mapped keeps it.
        beside = target.with_name(target.name + ".tmp")
        shutil.copy2(built, beside)
        beside.replace(target)


setup(
    ext_modules=[Extension(f"pyjpllm.{name}", sources=[]) for name in ("_native", "_text")],
    cmdclass={"build_ext": CMakeBuild},
)
