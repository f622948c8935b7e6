"""Every test that takes `isa` runs once on each instruction set of this CPU; what is built once for several files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.a64fx import toolchain
from pyjpllm import _native
from tests.kernels.builds import build_kernels


@pytest.fixture(params=_native.isas())
def isa(request):
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa("")


@pytest.fixture(scope="session", params=["gcc", "clang"])
def sve_build(request, tmp_path_factory) -> Path:
    """The folder of a build for A64FX: its program runs emulated, its machine code is read.

    -g1 adds the line tables that the reading needs and changes no instruction.
    """
    compiler = toolchain.COMPILERS[request.param, "aarch64"]
    assert shutil.which(compiler), f"{compiler} is missing: apt-get install {toolchain.PACKAGES}"
    settings = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}"]
    if request.param == "clang":
        settings.append("-DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu")
    folder = Path(tmp_path_factory.mktemp(f"sve-{request.param}"))
    build_kernels(folder, *settings, "-DCMAKE_CXX_FLAGS=-g1")
    return folder
