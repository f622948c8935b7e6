"""What the prediction reads from the tree, and how its tables get into the page."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.a64fx import tuning
from benchmarks.a64fx.loops import Row
from benchmarks.a64fx.predict import markdown, write
from benchmarks.a64fx.tables import TABLES, loops_table
from benchmarks.a64fx.toolchain import ROOT, MissingError


def row(**fields: object) -> Row:
    """A loop that loads and stores one vector; fields replace its own."""
    plain = {
        "kernel": "k", "family": "f", "function": "k", "line": "k.h:1", "address": 0, "blocks": 1, "instructions": 8,
        "cycles": 10.0, "micro_ops": 8.0, "fma": {"fp32": 4}, "share": 0.2, "other": 1, "accumulators": 4, "chain": 1,
        "loads": 1, "stores": 1, "loaded_bytes": 64, "stored_bytes": 64, "spills": 0, "slow": {},
    }  # fmt: skip
    return Row(**{**plain, **fields})  # type: ignore[arg-type]


def test_the_trees_tuning_is_read():
    numbers = tuning.read_constants()
    assert {"tile_rows", "tile_vectors"} <= set(numbers)
    assert tuning.blocking(numbers).k > 0


def test_tuning_of_a_header_without_it():
    with pytest.raises(MissingError, match="struct Tuning"):
        tuning.constants("struct V {};")


def test_a_step_of_k_does_not_depend_on_unrolling():
    numbers = {"tile_rows": 8, "tile_vectors": 3}
    product = {"family": "gemm", "other": 0, "accumulators": 24, "stores": 0, "stored_bytes": 0}
    for turns in (1, 2):
        rows = [row(**product, fma={"fp32": 24 * turns}, cycles=12.5 * turns, share=0.96)]
        assert tuning.gemm_step(rows, numbers).cycles == pytest.approx(12.5)
    with pytest.raises(MissingError, match="is the tile another now"):
        tuning.gemm_step([row()], numbers)


def test_cycles_of_a_pass_are_those_of_its_best_loop():
    rows = [row(kernel="swiglu", cycles=40.0), row(kernel="swiglu", cycles=60.0, loaded_bytes=128, stored_bytes=128)]
    assert tuning.LoopOf("f", "swiglu", True, 2).cycles(rows[:1]) == pytest.approx(40.0)
    assert tuning.LoopOf("f", "swiglu", True, 2).cycles(rows) == pytest.approx(60.0 / 2)
    with pytest.raises(MissingError):  # a narrow loop, of a tail or of another storage type
        tuning.LoopOf("f", "swiglu", True, 3).cycles(rows[:1])
    with pytest.raises(MissingError, match="no loop of norm"):
        tuning.LoopOf("f", "norm", True, 2).cycles(rows)


def test_attention_takes_each_product_and_the_exponential_from_the_tree():
    product = {"family": "attention", "kernel": "multiply<8, 3>", "other": 0, "accumulators": 24}
    only_loads = {"stores": 0, "stored_bytes": 0}
    shares = {
        "score_tile<3, false>": 1.0, "score_tile<3, true>": 0.96, "channel_tile<8, 3, 48>": 0.98,
        "probability_tile<3, false>": 1.0, "slope_tile<3>": 1.0, "key_tile<4>": 0.95,
    }  # fmt: skip
    rows = [row(**product, **only_loads, function=name, share=share) for name, share in shares.items()]
    narrow = row(**{**product, "accumulators": 8}, **only_loads, function="score_tile<1, false>", share=0.4)
    wide = {"loaded_bytes": 256, "stored_bytes": 256}
    rows += [narrow, row(family="attention", kernel="exponentials", cycles=30.0, **wide)]
    found = tuning.attention_loops(rows)
    assert found.forward_share == pytest.approx(2 / (1 / 0.96 + 1 / 0.98))
    assert found.backward_share == pytest.approx(5 / (1 + 1 + 2 / 0.95 + 1 / 0.98))
    assert found.forward_exp == found.backward_exp == pytest.approx(30 / 4)
    with pytest.raises(MissingError, match="no loop of slope_tile in the family attention"):
        tuning.attention_loops([r for r in rows if "slope" not in r.function])
    with pytest.raises(MissingError, match="no loop of exponentials"):
        tuning.attention_loops(rows[:-1])


def test_the_products_of_attention_have_a_row_each():
    product = {"other": 0, "stores": 0, "stored_bytes": 0, "fma": {"fp32": 24}}
    rows = [
        row(family="attention", kernel="multiply_step<8, 3>", function=function, **product)
        for function in ("score_tile<3, false>", "score_tile<3, true>", "slope_tile<3>")
    ]
    rows.append(row(family="gemm", kernel="tile<8, 3>", function="gemm_team", **product))
    found = loops_table(SimpleNamespace(rows=rows))  # type: ignore[arg-type]
    assert [line["kernel"] for line in found] == ["`score_tile<3, false>`", "`slope_tile<3>`", "`tile<8, 3>`"]


def test_tables_are_put_in_their_places(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\n", encoding="utf-8")
    write(page, {"x": [{"n ": "1", "n": "2"}]})
    assert page.read_text(encoding="utf-8").split("\n")[1:6] == [
        "<!-- x -->", "| n | n |", "|---|---|", "| 1 | 2 |", "<!-- end -->"
    ]  # fmt: skip
    with pytest.raises(MissingError, match="has no place"):
        write(page, {"z": [{"n": "1"}]})


def test_the_page_has_a_place_for_every_table():
    text = (ROOT / "docs" / "prediction.md").read_text(encoding="utf-8")
    assert [name for name in TABLES if f"<!-- {name} -->\n|" not in text] == []


def test_markdown():
    assert markdown([{"a": "1", "b": "2"}]) == "| a | b |\n|---|---|\n| 1 | 2 |"
