"""Every test that takes `isa` runs once on each instruction set of this CPU."""

from __future__ import annotations

import pytest

from pyjpllm import _native


@pytest.fixture(params=_native.isas())
def isa(request):
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa("")
