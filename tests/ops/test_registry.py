"""Choosing backends; one that lacks operations says so."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from pyjpllm import ops
from pyjpllm.errors import UserError
from pyjpllm.ops import registry


@pytest.fixture
def partial():
    """A backend that has `swiglu` alone."""
    backend = SimpleNamespace(swiglu=lambda gate, up: gate * 0 + 42)
    ops.register_backend("partial", lambda: backend)
    yield "partial"
    registry._loaders.pop("partial")
    registry._loaded.pop("partial", None)


def test_torch_is_the_default():
    assert ops.current_backend() == "torch"
    assert {"torch", "reference"} <= set(ops.available_backends())
    assert ops.missing_operations("torch") == ops.missing_operations("reference") == ()


def test_a_block_ends_and_a_call_lasts():
    with ops.use_backend("reference"):
        assert ops.current_backend() == "reference"
        with ops.use_backend("torch"):
            assert ops.current_backend() == "torch"
        assert ops.current_backend() == "reference"
    assert ops.current_backend() == "torch"
    ops.use_backend("reference")
    assert ops.current_backend() == "reference"
    ops.use_backend("torch")


def test_a_block_ends_by_an_error_too():
    with pytest.raises(ZeroDivisionError), ops.use_backend("reference"):
        raise ZeroDivisionError
    assert ops.current_backend() == "torch"


def test_a_missing_operation_is_said_once(partial, caplog):
    x = torch.randn(2, 3)
    with caplog.at_level(logging.WARNING, "pyjpllm.ops"), ops.use_backend(partial):
        assert (ops.swiglu(x, x) == 42).all()
        for _ in range(3):
            assert torch.equal(ops.linear(x, x), x @ x.T)
    assert [record.getMessage() for record in caplog.records] == [
        "backend partial: linear is computed by torch: it has no such operation"
    ]
    assert set(ops.missing_operations(partial)) == set(ops.OPERATIONS) - {"swiglu"}


def test_a_backend_can_decline_and_says_why_once(partial, caplog):
    with caplog.at_level(logging.WARNING, "pyjpllm.ops"):
        for _ in range(2):
            found = registry.decline(partial, "swiglu", "no kernel for float64")
            assert found is registry._load("torch").swiglu
    assert len(caplog.records) == 1
    assert "no kernel for float64" in caplog.text


def test_registering_again_replaces(partial):
    x = torch.randn(2)
    with ops.use_backend(partial):
        ops.swiglu(x, x)
        ops.register_backend(partial, lambda: SimpleNamespace(swiglu=lambda gate, up: gate * 0 + 7))
        assert (ops.swiglu(x, x) == 7).all()


def test_an_unknown_backend_is_refused_by_name():
    with pytest.raises(UserError, match=r"unknown operations backend 'torhc'; did you mean 'torch'\?"):
        ops.use_backend("torhc")
    assert ops.current_backend() == "torch"


def test_a_backend_that_does_not_load_is_not_available():
    def broken():
        raise ImportError("the extension was not built")

    ops.register_backend("broken", broken)
    try:
        assert "broken" not in ops.available_backends()
        assert ops.unavailable_reason("broken") == "the extension was not built"
        with pytest.raises(UserError, match="'broken' cannot be loaded: the extension was not built"):
            ops.use_backend("broken")
    finally:
        registry._loaders.pop("broken")
        registry._failures.pop("broken")


def test_unavailable_reason_of_an_unknown_one():
    assert "unknown operations backend" in ops.unavailable_reason("nothing")
