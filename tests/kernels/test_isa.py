"""Which instruction set is used, how it is overridden, and what the module says of itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pyjpllm import _native


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def test_the_best_one_is_chosen():
    _native.set_isa("")
    assert os.environ.get("JPLLM_ISA") or _native.isa() == _native.isas()[0]
    assert _native.isas()[-1] == "scalar"
    assert set(_native.isas()) <= set(_native.build_info()["isas_built"])


@pytest.mark.parametrize("name", _native.isas())
def test_the_environment_overrides(name):
    result = python("from pyjpllm import _native; print(_native.isa())", JPLLM_ISA=name)
    assert result.stdout.strip() == name, result.stderr


@pytest.mark.parametrize("name", ["mmx", "sve512" if "sve512" not in _native.isas() else "avx2"])
def test_an_instruction_set_that_this_cpu_lacks_is_named(name):
    result = python("import pyjpllm._native", JPLLM_ISA=name)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: JPLLM_ISA: this CPU or build has no '{name}'; it has ")
    reason = python("from pyjpllm import ops; print(ops.unavailable_reason('native'))", JPLLM_ISA=name)
    assert reason.stdout.startswith("JPLLM_ISA: this CPU or build has no"), reason.stderr


def test_threads_default_to_the_environment_then_the_cpu_set():
    code = "from pyjpllm import _native; print(_native.build_info()['default_threads'])"
    assert python(code, OMP_NUM_THREADS="7").stdout.strip() == "7"
    assert (
        python(
            f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n{code}", OMP_NUM_THREADS=""
        ).stdout.strip()
        == "1"
    )


def test_without_openmp_teams_come_from_a_pool_of_our_own():
    # The own pool sleeps between teams, grows, survives a fork, and gives a second caller the same bits.
    code = """
import os
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from pyjpllm import _native
from tests.kernels.arrays import array

assert _native.build_info()["thread_runtime"] == "own pool"
a = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float32)

def product(threads):
    c = np.empty((200, 200), np.float32)
    _native.gemm(array(a), array(a), array(c), None, False, threads)
    return c.tobytes()

expected = product(1)
assert all(product(n) == expected for n in (2, 3, 2, 4, 1, 4))
with ThreadPoolExecutor(4) as pool:
    assert all(bits == expected for bits in pool.map(product, [2, 3, 4, 2] * 8))
child = os.fork()
if child == 0:
    os._exit(0 if product(3) == expected else 1)
assert os.waitpid(child, 0)[1] == 0
assert product(3) == expected
print("good")
"""
    result = python(code, JPLLM_THREADS="own")
    assert result.stdout.strip() == "good", result.stderr


def test_the_openmp_runtime_of_torch_is_found_even_when_asked_before_torch_is_there():
    code = """
from pyjpllm import _native
assert _native.build_info()["thread_runtime"] == "own pool"
import torch
print(_native.build_info()["thread_runtime"])
"""
    assert python(code).stdout.startswith("openmp: /")


def test_peak(isa):
    assert 1e8 < _native.fma_peak(0.02, 1) < 1e12
    assert _native.fma_peak(0.02, 2) > _native.fma_peak(0.02, 1) * 0.5


def test_the_peak_of_dot_products(isa):
    flops, has_dot = _native.dot_peak(0.02, 1)
    assert has_dot == (isa == "avx512bf16")
    assert 1e8 < flops < 1e13


@pytest.mark.parametrize("kind", ["copy", "triad"])
def test_streams(isa, kind):
    assert 1e7 < _native.stream(kind, False, 4, 1e-3, 1) < 1e12
    assert 1e7 < _native.stream(kind, False, 4, 1e-3, 2) < 1e12
    if _native.stream_has_past_caches():
        assert 1e7 < _native.stream(kind, True, 4, 1e-3, 1) < 1e12
    else:
        with pytest.raises(ValueError, match=f"{isa} has no stores past the caches"):
            _native.stream(kind, True, 4)


def test_build_info():
    info = _native.build_info()
    assert info["compiler"].split()[0] in ("GNU", "Clang", "AppleClang", "FujitsuClang", "IntelLLVM")
    assert info["processor"] in ("x86_64", "AMD64", "aarch64", "arm64")
