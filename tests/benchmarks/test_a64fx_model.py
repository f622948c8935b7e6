"""The limits of the model of A64FX (benchmarks/a64fx): it must tend to each of its bounds where that bound rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.a64fx import calibration, machine, roofline, streams
from benchmarks.a64fx.calibration import Calibration, Point
from benchmarks.a64fx.machine import A64FX
from benchmarks.a64fx.peers.tiles import TILES, loop
from benchmarks.a64fx.roofline import AttentionLoops, Blocking, Step
from benchmarks.a64fx.step import MODELS, Passes, predict, products

TILE = Step(cycles=12.0, rows=8, vectors=3)
BLOCKING = Blocking(k=192, m=128, panel_n=4080, panel_m=4096)
EXACT = Calibration(cost=0.0, error=0.0)
USUAL = Calibration(cost=0.0114, error=0.026)
LOOPS = AttentionLoops(forward_share=1.0, backward_share=1.0, forward_exp=7.0, backward_exp=7.0)
PASSES = Passes(norm=(3, 5), activation=(25, 30), rotary=(5, 5), loss=(10, 12), adamw=30)
sizes = st.integers(min_value=1, max_value=5000)


def test_the_peak_is_the_manuals():
    assert A64FX.peak_core == 128e9
    assert A64FX.peak_node == pytest.approx(6.144e12)
    assert machine.BOOST.peak_node == pytest.approx(6.758e12, rel=1e-3)
    assert {name for name, _, _ in machine.rows()} == set(machine.SOURCES)


# --- calibration -------------------------------------------------------------------------------------------------

POINTS = [
    Point("2 x 10", 10, 20, 128, 0.89),
    Point("8 x 3", 12, 24, 192, 0.83),
    Point("6 x 4", 12, 24, 256, 0.80),
    Point("5 x 4", 10, 20, 256, None),
]


def test_each_model_of_the_calibration_gives_back_a_point_it_is_fitted_to():
    for point in POINTS[:3]:
        assert calibration.by_stream([point], point) == pytest.approx(point.measured)
        assert calibration.by_factor([point], point) == pytest.approx(point.measured)


def test_points_left_out_are_predicted_better_by_the_bytes_from_l2():
    by_stream, by_factor = (calibration.left_out(POINTS, m) for m in (calibration.by_stream, calibration.by_factor))
    assert set(by_stream) == {"2 x 10", "8 x 3", "6 x 4"}
    assert max(map(abs, by_stream.values())) < max(map(abs, by_factor.values()))
    assert calibration.calibrate(POINTS).error == max(map(abs, by_stream.values()))


def test_the_share_falls_with_the_bytes():
    assert calibration.share(24, 12, 0, 0.01) == 1.0
    assert calibration.share(24, 12, 192, 0.01) > calibration.share(24, 12, 256, 0.01)


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: tile.name)
def test_the_peers_loops_have_their_multiply_adds_and_registers(tile):
    code = loop(tile)
    assert sum(1 for i in code if i.mnemonic == "fmla") == tile.multiply_adds
    assert sum(1 for i in code if i.mnemonic == "ld1rw") == tile.rows
    assert len({i.operands.split(".")[0] for i in code if i.mnemonic == "fmla"}) == tile.multiply_adds


# --- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["l2", "memory"])
def test_streams_left_out_are_predicted_within_15_percent(level):
    assert max(abs(error) for error in streams.errors(level).values()) < 0.15


def test_a_pass_is_bound_by_arithmetic_or_by_the_core_or_by_memory():
    vectors = 1e6
    heavy = roofline.stream(vectors, 1000.0, 1)
    assert heavy.cycles == pytest.approx(1000.0 * vectors)
    light = roofline.stream(vectors, 0.1, 1)
    assert light.cycles == pytest.approx(streams.fit("memory").cycles(1) * vectors)
    team = roofline.stream(vectors, 0.1, 1, cores=12)
    assert 64 * vectors / team.seconds == pytest.approx(A64FX.hbm_cmg)


@given(st.floats(0.1, 100), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
def test_more_work_takes_no_less_time(arithmetic, reads, updates, fresh):
    def cycles(**more: float) -> float:
        return roofline.stream(
            1000, arithmetic + more.get("a", 0), reads + more.get("r", 0), updates, fresh, cores=12
        ).cycles

    assert cycles(a=1) >= cycles()
    assert cycles(r=1) >= cycles()


@given(st.floats(0.1, 100), st.floats(10e9, 1e12), st.integers(1, 4))
def test_time_never_rises_with_bandwidth(arithmetic, bandwidth, reads):
    slow = replace(A64FX, hbm_read=bandwidth)
    fast = replace(A64FX, hbm_read=2 * bandwidth)
    times = [roofline.stream(1000, arithmetic, reads, 0, 1, cores=12, machine=m).seconds for m in (slow, fast)]
    assert times[1] <= times[0]


def test_zeroed_lines_are_not_read():
    plain, zeroed = (roofline.stream(1000, 0.1, 1, 0, 1, cores=12, zeroed=z) for z in (False, True))
    assert zeroed.parts["memory"] == pytest.approx(plain.parts["memory"] * 2 / 3)


# --- products ----------------------------------------------------------------------------------------------------


def test_a_large_product_tends_to_the_loops_own_share():
    found = roofline.gemm(4080, 4080, 40000, step=TILE, blocking=replace(BLOCKING, k=40000), calibration=EXACT)
    assert found.share == pytest.approx(1.0, abs=0.01)
    slower = replace(TILE, cycles=15.0)
    found = roofline.gemm(4080, 4080, 40000, step=slower, blocking=replace(BLOCKING, k=40000), calibration=EXACT)
    assert found.share == pytest.approx(12 / 15, abs=0.01)


def test_a_product_that_moves_more_than_it_computes_is_bound_by_memory():
    found = roofline.gemm(8, 100000, 16, step=TILE, blocking=BLOCKING, calibration=USUAL, cores=12)
    assert found.parts["memory"] > 0.3 * found.cycles
    starved = roofline.gemm(
        8, 100000, 16, step=TILE, blocking=BLOCKING, calibration=USUAL, cores=12, machine=replace(A64FX, hbm_read=1e9)
    )
    assert starved.cycles == starved.parts["memory"]


@given(sizes, sizes, sizes, st.sampled_from([1, 12]))
def test_no_product_beats_its_loop(m, n, k, cores):
    found = roofline.gemm(m, n, k, step=TILE, blocking=BLOCKING, calibration=USUAL, cores=cores)
    assert 0 < found.share < 1
    assert found.error > 0


@given(sizes, sizes, sizes, st.floats(1e10, 1e12))
def test_a_product_never_gets_slower_with_bandwidth(m, n, k, bandwidth):
    slow, fast = (
        roofline.gemm(
            m, n, k, step=TILE, blocking=BLOCKING, calibration=USUAL, cores=12, machine=replace(A64FX, hbm_read=b)
        ).cycles
        for b in (bandwidth, 2 * bandwidth)
    )
    assert fast <= slow


def test_a_sliver_of_b_that_fits_l1_streams_once_for_a_block_of_rows():
    fits = roofline.streamed_bytes(TILE, BLOCKING, 192)
    spills = roofline.streamed_bytes(TILE, BLOCKING, 512)
    assert fits == 8 * 4 + 192 / 16
    assert spills == 8 * 4 + 192


def test_blocks_of_k_are_equal_and_whole_vectors():
    assert roofline.k_block(7168, 256) == 256
    assert roofline.k_block(300, 256) == 160
    assert roofline.k_block(100, 256) == 100


def test_cores_share_tiles_evenly_where_they_can():
    busiest, mean = roofline.split(8 * 12, 48, TILE, 12)
    assert busiest == mean == 1
    busiest, mean = roofline.split(8, 48, TILE, 12)
    assert busiest == 1
    assert mean == pytest.approx(1 / 12)


def test_the_chunked_product_pays_for_its_promotion():
    half = Step(cycles=12.0, rows=8, vectors=3, element=2, lanes=32, every=32, more=48.0)
    assert half.per_step == 12 + 1.5
    found = roofline.gemm(4096, 4096, 4096, step=half, blocking=BLOCKING, calibration=USUAL)
    assert 1.3 < found.share < 2 * 12 / 13.5


# --- attention and the step --------------------------------------------------------------------------------------


def test_attention_without_an_exponential_tends_to_its_tiles():
    free = replace(LOOPS, forward_exp=0.0)
    found = roofline.attention(12, 4096, 128, loops=free, calibration=EXACT, streamed=0, rest=0, waste=0)
    assert found.share == pytest.approx(1.0, abs=0.01)


def test_the_exponential_weighs_more_on_narrow_heads():
    narrow, wide = (roofline.attention(12, 4096, d, loops=LOOPS, calibration=USUAL, streamed=4) for d in (64, 128))
    assert narrow.share < wide.share < 1
    backward = roofline.attention(12, 4096, 64, loops=LOOPS, calibration=USUAL, streamed=4, backward=True)
    assert narrow.share < backward.share < 1


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_step_is_no_faster_than_its_flop_and_its_parts_are_all_there(model):
    found = predict(model, step=TILE, blocking=BLOCKING, calibration=USUAL, loops=LOOPS, passes=PASSES, streamed=4.0)
    assert set(found.seconds) == {
        "products", "head", "attention", "norms", "activations", "rotary", "loss", "AdamW"
    }  # fmt: skip
    assert 0.5 < found.share < 1
    assert 0 < found.error < 0.2
    assert found.tokens_per_cmg * model.flop_per_token == pytest.approx(found.share * A64FX.peak_cmg)


def test_the_products_of_a_step_have_the_models_flop():
    for model in MODELS:
        flop = sum(2.0 * m * n * k * count for _, m, n, k, count in products(model)) * model.tensor_parallel
        assert flop == pytest.approx(6.0 * model.weights * model.sequence, rel=1e-3)


def test_models_have_the_sizes_of_their_names():
    assert [round(model.weights / 1e6) for model in MODELS] == [124, 1311, 13160]
