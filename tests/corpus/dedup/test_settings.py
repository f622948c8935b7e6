"""The tables of the deduplicating steps: what they build, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pyjpllm.corpus.dedup import CopiesStep, MinHasher, NearCopiesStep, RepeatedSubstringsStep, RepeatedUnitsStep
from pyjpllm.corpus.dedup.settings import (
    CopiesConfig,
    NearCopiesConfig,
    RepeatedSubstringsConfig,
    RepeatedUnitsConfig,
)


def test_what_the_tables_build() -> None:
    copies = CopiesConfig(kind="dedup-exact", folding="none", keep="earliest", against=["a", "b"], save="c")
    assert copies.build() == CopiesStep("dedup-exact", "none", "earliest", None, ("a", "b"), "c")
    near = NearCopiesConfig(kind="dedup-minhash", name="near", n=24, bands=20, rows=13, measure="score", seed=3)
    assert near.build() == NearCopiesStep("near", measure="score", hasher=MinHasher(24, 20, 13, 3))
    curve = NearCopiesConfig(kind="dedup-minhash", found=[0.8, 0.9], spared=[0.5, 0.1])
    assert curve.build() == NearCopiesStep("dedup-minhash", hasher=MinHasher(5, 10, 7))
    verified = NearCopiesConfig(kind="dedup-minhash", verify=0.8)
    assert verified.build() == NearCopiesStep("dedup-minhash", verify=0.8)
    lines = RepeatedUnitsConfig(kind="dedup-units", unit="line", min_characters=5, min_copies=3, keep=0)
    assert lines.build() == RepeatedUnitsStep("dedup-units", "line", "width", 5, 3, 0)
    passages = RepeatedSubstringsConfig(kind="dedup-substrings", length=50, slack=8)
    assert passages.build() == RepeatedSubstringsStep("dedup-substrings", 50, 8)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (CopiesConfig, {"kind": "dedup-exact", "keep": "longest", "measure": "score"}, "leave one out"),
        (NearCopiesConfig, {"kind": "dedup-minhash", "found": [0.8, 0.9]}, "give both or none"),
        (NearCopiesConfig, {"kind": "dedup-minhash", "found": [0.8, 0.9], "spared": [0.5, 0.1], "rows": 3}, "follow"),
        (NearCopiesConfig, {"kind": "dedup-minhash", "verify": 0.8, "against": ["a"]}, "leave one out"),
        (RepeatedUnitsConfig, {"kind": "dedup-units", "min_copies": 1}, "greater than or equal to 2"),
        (RepeatedSubstringsConfig, {"kind": "dedup-substrings", "slack": 51}, "at most half of length"),
    ],
)
def test_contradictions(config: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**fields)
