"""Which exits count as failures, in processes of their own and without MPI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pyjpllm.distributed.endings as endings

SCRIPT = """
import atexit, importlib.util, sys
spec = importlib.util.spec_from_file_location("endings", sys.argv[1])
endings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(endings)
endings.install(5, lambda: print("told"))
def at_exit():
    print("failing" if endings.failing() else "clean", endings.exit_code() if endings.failing() else 0)
atexit.register(at_exit)
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(endings.__file__))
    return subprocess.run([sys.executable, "-c", SCRIPT + body, source], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("pass", 0, "clean 0"),
        ("sys.exit(0)", 0, "clean 0"),
        ("sys.exit()", 0, "clean 0"),
        ("sys.exit(3)", 3, "failing 3"),
        ("sys.exit('words')", 1, "failing 1"),
        ("def f():\n    sys.exit(4)\nf()", 4, "failing 4"),
        ("try:\n    sys.exit(2)\nexcept SystemExit:\n    pass", 0, "clean 0"),
        ("try:\n    sys.exit(2)\nexcept SystemExit as e:\n    kept = e\nsys.exit(0)", 0, "clean 0"),
        ("try:\n    sys.exit(2)\nexcept SystemExit:\n    sys.exit(0)", 0, "clean 0"),
        ("try:\n    sys.exit(0)\nexcept SystemExit:\n    sys.exit(5)", 5, "failing 5"),
        ("import threading\nt = threading.Thread(target=sys.exit, args=(2,))\nt.start()\nt.join()", 0, "clean 0"),
        ("raise ValueError('x')", 1, "told"),
        ("raise KeyboardInterrupt", 130, "told"),
        ("sys.excepthook = lambda *a: None\nraise ValueError('x')", 1, "failing 1"),
        ("try:\n    1 / 0\nfinally:\n    print(endings.failing())", 1, "True\ntold"),
        ("try:\n    sys.exit(0)\nfinally:\n    print(endings.failing())", 0, "False\nclean 0"),
        ("try:\n    sys.exit(6)\nfinally:\n    print(endings.failing())", 6, "True\nfailing 6"),
    ],
)
def test_a_failing_end_is_told_from_a_clean_one(body, code, said):
    done = run(body)
    assert done.returncode == code, done.stderr
    assert done.stdout.strip() == said


def test_the_traceback_carries_the_rank_even_when_stderr_is_replaced():
    done = run("import io\nsys.stderr = io.StringIO()\nraise ValueError('x')")
    assert "[rank 5] ValueError: x" in done.stderr.splitlines()
