"""Which backend computes: registration, the process-wide choice, and what happens when a backend lacks an operation.

A backend is any object (usually a module) that has the operations of `OPERATIONS` as attributes, with the signatures
of `pyjpllm.ops.api`. It is loaded at its first use. What it lacks is taken from `torch`, and said once in the log.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

from pyjpllm.errors import UserError, did_you_mean
from pyjpllm.ops.types import OPERATIONS

logger = logging.getLogger("pyjpllm.ops")

FALLBACK = "torch"

_loaders: dict[str, Callable[[], Any]] = {}
_loaded: dict[str, Any] = {}
_failures: dict[str, str] = {}
_operations: dict[tuple[str, str], Callable[..., Any]] = {}
_said: set[tuple[str, str, str]] = set()
_current = FALLBACK


def register_backend(name: str, loader: Callable[[], Any]) -> None:
    """Make ``name`` known. ``loader()`` runs at its first use and returns the backend, or raises ImportError."""
    _loaders[name] = loader
    for store in (_loaded, _failures):
        store.pop(name, None)
    for key in [key for key in _operations if key[0] == name]:
        del _operations[key]


def _load(name: str) -> Any:
    if name not in _loaders:
        raise UserError(f"unknown operations backend {name!r}{did_you_mean(name, _loaders)}")
    if name not in _loaded:
        try:
            _loaded[name] = _loaders[name]()
        except ImportError as error:
            _failures[name] = str(error)
            raise UserError(f"operations backend {name!r} cannot be loaded: {error}") from error
    return _loaded[name]


def available_backends() -> tuple[str, ...]:
    """Names of the backends that load on this machine."""
    return tuple(name for name in _loaders if unavailable_reason(name) is None)


def unavailable_reason(name: str) -> str | None:
    """Why ``name`` cannot be used here, or None when it can."""
    try:
        _load(name)
    except UserError as error:
        return _failures.get(name, str(error))
    return None


def missing_operations(name: str) -> tuple[str, ...]:
    """The operations that ``name`` lacks and takes from `torch`."""
    backend = _load(name)
    return tuple(operation for operation in OPERATIONS if getattr(backend, operation, None) is None)


def current_backend() -> str:
    """Name of the backend that computes now."""
    return _current


class Choice:
    """A choice for the whole process that has been made; as a context manager it ends with the block.

    Process-wide, because backward and recomputation run in threads of autograd's own.
    """

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo = undo

    def __enter__(self) -> Choice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo()


class use_backend(Choice):  # noqa: N801 - reads as a verb: `use_backend("native")`, `with use_backend("reference"):`
    """Choose the backend for the whole process from now on; as a context manager, until the end of the block.

    Raises UserError for a name that is unknown or does not load here.
    """

    def __init__(self, name: str) -> None:
        _load(name)
        super().__init__(partial(_choose, _current))
        _choose(name)


def _choose(name: str) -> None:
    global _current
    _current = name


def operation(name: str) -> Callable[..., Any]:
    """The current backend's implementation of ``name``, or `torch`'s, said once, where it has none."""
    key = (_current, name)
    found = _operations.get(key)
    if found is None:
        found = getattr(_load(_current), name, None)
        if found is None:
            found = decline(_current, name, "it has no such operation")
        _operations[key] = found
    return found


def optional_operation(name: str) -> Callable[..., Any] | None:
    """The current backend's own ``name``, which only some have, or None: the caller has another way."""
    found: Callable[..., Any] | None = getattr(_load(_current), name, None)
    return found


def decline(backend: str, name: str, reason: str) -> Callable[..., Any]:
    """`torch`'s implementation of ``name``, for a backend that cannot do it; the reason is logged once."""
    if (backend, name, reason) not in _said:
        _said.add((backend, name, reason))
        logger.warning("backend %s: %s is computed by %s: %s", backend, name, FALLBACK, reason)
    found: Callable[..., Any] = getattr(_load(FALLBACK), name)
    return found


def _module(name: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(name)


register_backend("torch", _module("pyjpllm.ops.torch_backend"))
register_backend("reference", _module("pyjpllm.ops.reference"))
register_backend("native", _module("pyjpllm.ops.native"))
