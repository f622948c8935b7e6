"""The floors of the house: a room imports only from floors below it (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pyjpllm"
FLOORS = {
    **dict.fromkeys(("errors", "files", "launchers", "__init__"), 0),
    **dict.fromkeys(("ops", "config"), 1),
    **dict.fromkeys(("distributed", "corpus", "sites"), 2),
    **dict.fromkeys(("parallel", "data"), 3),
    **dict.fromkeys(("model", "planning"), 4),
    **dict.fromkeys(("training", "transfer"), 5),
    **dict.fromkeys(("tuning", "evaluation", "bench"), 6),
    "cli": 7,
    "__main__": 8,
}
# The contract's own type of shapes: ops.rotary takes config.schema.RopeScaling.
BESIDE = {("ops", "config")}
# The compiled modules: below every room, and only these rooms know them.
NATIVE_USERS = {"_native": {"ops", "bench", "training"}, "_text": {"corpus"}}


def room_of(path: Path) -> str:
    """The room that a file of the package is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of ours, wherever it stands; relative ones made absolute.

    Imports under TYPE_CHECKING and inside functions count, and so does importlib.import_module("...").
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def rooms_used(source: str, package: str) -> set[tuple[int, str]]:
    """(line, room) for every room of ours that ``source`` imports."""
    found = set()
    for line, module in imported(ast.parse(source), package):
        parts = module.split(".")
        if parts[0] == "pyjpllm" and len(parts) > 1:
            room = (
                parts[1]
                if parts[1] in FLOORS or parts[1] in NATIVE_USERS or (PACKAGE / parts[1]).exists()
                else "__init__"
            )
            found.add((line, room))
    return found


def faults(source: str, room: str, package: str) -> list[str]:
    """Imports in ``source`` (a file of ``room``) that go to its own floor's neighbours or up."""
    found = []
    for line, used in sorted(rooms_used(source, package)):
        if used in NATIVE_USERS:
            if room not in NATIVE_USERS[used]:
                found.append(f"line {line}: {room} imports {used}; only {sorted(NATIVE_USERS[used])} may")
        elif used != room and FLOORS[used] >= FLOORS[room] and (room, used) not in BESIDE:
            found.append(f"line {line}: {room} (floor {FLOORS[room]}) imports {used} (floor {FLOORS[used]})")
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")}
    assert rooms <= set(FLOORS), rooms - set(FLOORS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    assert faults(path.read_text(encoding="utf-8"), room_of(path), package) == []


@pytest.mark.parametrize("folder", ["kernels", "csrc"])
def test_kernels_know_nothing_above_them(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert rooms_used(path.read_text(encoding="utf-8"), "") == set(), path
    for path in [*(ROOT / folder).rglob("*.cpp"), *(ROOT / folder).rglob("*.h")]:
        text = path.read_text(encoding="utf-8")
        assert "torch/" not in text.replace("pytorch/", ""), path
        if folder == "kernels":
            assert "Python.h" not in text, path
            assert "pybind11" not in text, path


@pytest.mark.parametrize(
    ("room", "source", "bad"),
    [
        ("model", "from pyjpllm.training import train", 1),
        ("model", "from pyjpllm import training", 1),
        ("model", "import pyjpllm.cli.app", 1),
        ("model", "from ..training import train", 1),
        ("model", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pyjpllm.cli import main", 1),
        ("model", "def f():\n    from pyjpllm.evaluation import heldout", 1),
        ("model", "import importlib\nimportlib.import_module('pyjpllm.bench.step')", 1),
        ("model", "from pyjpllm import _native", 1),
        ("ops", "from pyjpllm import _text", 1),
        ("corpus", "from pyjpllm import _native", 1),
        ("corpus", "from pyjpllm._text import character_class", 0),
        ("data", "from pyjpllm.parallel import layout", 1),
        ("config", "from pyjpllm.ops import api", 1),
        ("ops", "from pyjpllm.config.schema import RopeScaling", 0),
        ("model", "from pyjpllm import __version__, ops\nfrom pyjpllm.errors import UserError\nimport torch", 0),
        ("model", "from pyjpllm.model.cache import KVCache\nfrom .cache import KVCache", 0),
    ],
)
def test_the_check_sees_what_it_must(room: str, source: str, bad: int) -> None:
    assert len({fault.split(":")[0] for fault in faults(source, room, f"pyjpllm.{room}")}) == bad
