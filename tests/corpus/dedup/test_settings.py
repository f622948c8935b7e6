"""The tables of the deduplicating steps: what they build, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pyjpllm.corpus.dedup import CopiesStep, MinHasher, NearCopiesStep, RepeatedSubstringsStep, RepeatedUnitsStep
from pyjpllm.corpus.dedup.settings import (
    CopiesConfig,
    NearCopiesConfig,
    RepeatedSubstringsConfig,
    RepeatedUnitsConfig,
)
from pyjpllm.corpus.dedup.signatures import write_signatures
from pyjpllm.errors import UserError


def test_other_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exact = CopiesConfig(kind="dedup-exact", against=["a", "b.sig"], save="c")
    with pytest.raises(UserError, match=r"^a: cannot be read"):
        exact.build()
    Path("a").mkdir()
    with pytest.raises(UserError, match="no signature file"):
        exact.build()
    for file in ("a/1.sig", "b.sig"):
        write_signatures(Path(file), CopiesStep("").settings, [np.arange(3, dtype=np.uint64)])
    assert exact.build() == CopiesStep("dedup-exact", against=("a", "b.sig"), save="c")
    assert exact.files_read().keys() == {"a/1.sig", "b.sig"}
    assert len(set(exact.files_read().values())) == 1
    with pytest.raises(UserError, match="'width', this step has 'none'"):
        CopiesConfig(kind="dedup-exact", against=["a"], folding="none").build()
    near = NearCopiesConfig(kind="dedup-minhash", against=["a"])
    with pytest.raises(UserError, match="bands = None, this step has 14"):
        near.build()
    Path("b.sig").write_bytes(Path("b.sig").read_bytes().replace(b"{", b"[", 1))
    with pytest.raises(UserError, match=r"b\.sig: damaged: its header is no JSON"):
        exact.build()


def test_signatures_of_another_run(tmp_path: Path) -> None:
    saved = tmp_path / "x" / "saved"
    config = CopiesConfig(kind="dedup-exact", save=str(saved))
    config.begin()
    config.begin()
    (saved / "shard-00000.sig").touch()
    with pytest.raises(UserError, match=r"signatures of another run \(shard-00000.sig\); name a new folder"):
        config.begin()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="no folder can be made there"):
        CopiesConfig(kind="dedup-exact", save=str(tmp_path / "file" / "x")).begin()
    CopiesConfig(kind="dedup-exact").begin()


def test_what_the_tables_build() -> None:
    copies = CopiesConfig(kind="dedup-exact", folding="none", keep="earliest", save="c")
    assert copies.build() == CopiesStep("dedup-exact", "none", "earliest", None, (), "c")
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
        (NearCopiesConfig, {"kind": "dedup-minhash", "seed": 1 << 64}, "less than"),
        (NearCopiesConfig, {"kind": "dedup-minhash", "n": 1 << 63}, "less than or equal to 1000"),
        (RepeatedSubstringsConfig, {"kind": "dedup-substrings", "length": 1 << 64}, "less than or equal to"),
        (CopiesConfig, {"kind": "dedup-exact", "save": "a/", "against": ["b", "a"]}, "is compared against"),
        (CopiesConfig, {"kind": "dedup-exact", "save": "a", "against": ["a/1.sig"]}, "is compared against"),
        (CopiesConfig, {"kind": "dedup-exact", "name": "write"}, "take another name"),
        (RepeatedUnitsConfig, {"kind": "dedup-units", "min_copies": 1}, "greater than or equal to 2"),
        (RepeatedSubstringsConfig, {"kind": "dedup-substrings", "slack": 51}, "at most half of length"),
    ],
)
def test_contradictions(config: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**fields)
