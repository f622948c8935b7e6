"""`jpllm bench kernels`: the rows' arithmetic, the final block, the command's answers and refusals."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import pytest
import torch

from pyjpllm.bench import probe, timing
from pyjpllm.bench.kernels import bench as bench_module
from pyjpllm.bench.kernels.bench import OPS, KernelBench, Row, all_cases, chosen, run_kernel_bench
from pyjpllm.bench.kernels.case import Case, Missing, Subject, difference, gradient, ours, result_bytes
from pyjpllm.bench.kernels.table import markdown, missing_list, table
from pyjpllm.bench.kernels.verdicts import geometric_mean, met_text, value_text, verdicts
from pyjpllm.cli.app import run
from pyjpllm.errors import UserError

_native = pytest.importorskip("pyjpllm._native", reason="the kernels are not built here")


@pytest.fixture(autouse=True)
def all_cores() -> Any:
    """Give the test process its cores and threads back after a test that pinned it."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of a mebibyte, and malloc left as it is: a test process is no benchmark."""
    monkeypatch.setattr(probe, "STREAM_MEBIBYTES", 1)
    monkeypatch.setattr(bench_module, "keep_memory", lambda: True)


def case(**changes: Any) -> Case:
    x = torch.ones(8, 8)
    fields: dict[str, Any] = {
        "op": "gemm",
        "what": "gemm NN",
        "shape": "8x8x8",
        "dtype": "fp32",
        "make": lambda: Subject(lambda: x @ x, lambda: x @ x, lambda: x @ x),
        "flops": 1024.0,
        "group": "1 large",
    }
    return Case(**fields | changes)


def measured(monkeypatch: pytest.MonkeyPatch, *cases: Case) -> KernelBench:
    monkeypatch.setattr(bench_module, "all_cases", lambda *_, **__: iter(cases))
    return run_kernel_bench(quick=True)


def row(**changes: Any) -> Row:
    fields: dict[str, Any] = {
        "op": "gemm",
        "what": "gemm NN",
        "shape": "512x512x512",
        "dtype": "fp32",
        "isa": "avx2",
        "group": "1 large",
        "rate": 95.0,
        "share": 0.95,
        "seconds": 1.0,
        "torch_seconds": 1.2,
    }
    return Row(**fields | changes)


def test_a_row_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, case(), case(flops=0.0, bytes=512.0, op="cast", group="5 memory"))
    (peaks,) = found.peaks.values()
    by_flops, by_bytes = found.rows
    assert by_flops.rate == pytest.approx(1024 / by_flops.seconds / 1e9)
    assert by_flops.share == pytest.approx(1024 / by_flops.seconds / peaks.fma)
    assert by_flops.ratio == pytest.approx((by_flops.torch_seconds or 0) / by_flops.seconds)
    assert by_flops.over_bare == pytest.approx(by_flops.seconds / (by_flops.bare_seconds or 1))
    assert by_flops.difference == 0.0
    assert by_bytes.unit == "GB/s"
    assert by_bytes.share == pytest.approx(512 / by_bytes.seconds / peaks.bandwidth)
    assert peaks.bandwidth == max(peaks.streams.values())
    assert peaks.flops("bf16") == (peaks.dot if peaks.has_dot else peaks.fma)


def test_what_is_missing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Subject:
        raise UserError("no such type")

    found = measured(monkeypatch, case(make=lambda: ours("flash_teleport")), case(make=refuse), case())
    assert [r.missing for r in found.rows] == ["pyjpllm.ops.native has no flash_teleport", "no such type", None]
    lines = missing_list(found.rows)
    assert "- gemm NN fp32: no such type" in lines
    for verdict in verdicts(found.rows):
        assert verdict.met is False
        assert verdict.missing == 2
        assert met_text(verdict) == "no: 2 missing"


def test_an_operation_that_torch_computes_after_all_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    def make() -> Subject:
        logging.getLogger("pyjpllm.ops").warning("backend native: attention is computed by torch: it is too wide")
        return Subject(lambda: torch.ones(1))

    found = measured(monkeypatch, case(make=make))
    assert "too wide" in str(found.rows[0].missing)


def test_results_that_differ_are_shouted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, case(make=lambda: Subject(lambda: torch.ones(3), lambda: torch.full((3,), 1.01))))
    assert not found.rows[0].agrees
    assert "THE RESULTS DIFFER by 0.0099: gemm NN, 8x8x8, fp32" in table(found, {_native.isa(): []})


def test_the_final_block() -> None:
    rows = [row(), row(share=0.91, torch_seconds=0.9), row(group="2 large", share=0.9, torch_seconds=None)]
    rows += [
        row(group="3 bf16 forward", facts={"head": 64.0, "inputs": 100.0}, share=0.8, extra_bytes=150),
        row(group="3 bf16 forward", facts={"head": 128.0, "inputs": 100.0}, share=0.81, extra_bytes=50),
        row(group="4 fp32", bare_seconds=0.95, extra_bytes=200 << 20),
        row(group="5 memory", share=0.7),
    ]
    found = {v.what: v for v in verdicts(rows)}
    least = found["GEMM FP32, large: least share of peak"]
    assert (least.line, least.value, least.met, least.rows, value_text(least)) == ("1", 0.91, True, 2, "91%")
    assert found["GEMM FP32, large: least ratio to torch"].met is False
    mean = found["GEMM FP32, large: geometric mean to torch"]
    assert mean.value == pytest.approx(math.sqrt(1.2 * 0.9))
    assert "GEMM FP32, skinny and small: geometric mean" not in found
    assert found["GEMM BF16, large: least share of the BF16 peak"].met is True
    unknown = found["GEMM BF16, large: geometric mean to torch"]
    assert (unknown.value, unknown.met, met_text(unknown), value_text(unknown)) == (None, None, "not measured", "-")
    assert found["attention BF16 forward, head 64: least share of peak"].met is True
    assert found["attention BF16 forward, head 128: least share of peak"].met is False
    assert found["attention BF16: most extra memory, in units of q, k and v"].value == 1.5
    assert found["linear + cross-entropy FP32: most time over its three products"].met is True
    assert value_text(found["linear + cross-entropy FP32: most extra memory"]) == "200 MiB"
    assert found["linear + cross-entropy FP32: most extra memory"].met is False
    assert found["memory-bound: least share of bandwidth"].met is False
    assert verdicts([]) == []


def test_geometric_mean() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert math.isnan(geometric_mean([]))


def test_groups_of_rows() -> None:
    peaks = probe.Peaks(fma=1e11, dot=1e11, streams={"copy": 2e10, "triad": 1e10})
    rows = [row(), row(shape="16x4096x1024", share=0.5), row(op="attention", what="attention", facts={"head": 64.0})]
    found = KernelBench("one core", "2.13", 1, 0, "CPU time", True, False, {"avx2": peaks}, rows)
    text = markdown(found, {"avx2": verdicts(rows)})
    assert "| gemm NN, large | fp32 | 1 | 95%, 95%, 95% | 1.20, 1.20, 1.20 |" in text
    assert "| gemm NN, skinny and small | fp32 | 1 | 50%, 50%, 50% | 1.20, 1.20, 1.20 |" in text
    assert "| attention, head 64 |" in text
    assert "no BF16 dot product: BF16 is converted" in text


def test_every_line_has_its_cases() -> None:
    every = list(all_cases(OPS, ["fp32", "bf16", "fp16"], quick=False, threads=1))
    assert {c.op for c in every} == set(OPS)
    groups = {c.group for c in every}
    attention = {f"3 {dtype} {way}" for dtype in ("fp32", "bf16") for way in ("forward", "backward")}
    assert groups == {"", "1 large", "1 small", "2 large", "4 fp32", "4 bf16", "5 memory"} | attention
    for c in every:
        assert (c.flops > 0) != (c.bytes > 0)
        if c.group == "1 large":
            assert min(map(int, c.shape.split("x"))) >= 512
    quick = list(all_cases(["gemm"], ["fp32"], quick=True, threads=1))
    assert 0 < len(quick) < 12


@pytest.mark.parametrize("family", ["gemm", "attention", "cross_entropy", "experts"])
def test_a_small_case_of_each_family_agrees(family: str) -> None:
    from pyjpllm.bench.kernels import attention, experts, gemm, loss

    small = {
        "gemm": lambda: [gemm._case(o, 5, 7, 9, "fp32", "", 1) for o in gemm.ORIENTATIONS],
        "attention": lambda: list(attention._pair(9, 4, 2, 64, "fp32", causal=True)),
        "cross_entropy": lambda: [loss._case(5, 16, 33, "fp32", 1)],
        "experts": lambda: [experts._case(70, 9, 20, "fp32", backward, 1) for backward in (False, True)],
    }[family]()
    for c in small:
        found = bench_module._measure(
            c, _native.isa(), quick=True, clock=iter(range(10**6)).__next__, extra_memory=False
        )
        assert found.missing is not None or found.agrees


@pytest.mark.parametrize("rows", [64, 70, 2048])
def test_groups_of_experts_are_ragged_and_hold_all_rows(rows: int) -> None:
    from pyjpllm.bench.kernels.experts import group_sizes

    sizes = group_sizes(rows)
    assert sum(sizes) == rows
    assert len(set(sizes)) > 5
    assert min(sizes) >= 1


def test_taking_turns() -> None:
    calls: list[str] = []
    ticks = iter(range(10**6))

    def clock() -> float:
        return float(next(ticks))

    works: list[timing.Work] = [lambda: calls.append("a"), lambda: calls.append("b")]
    times = timing.take_turns(works, rounds=3, seconds=100.0, clock=clock)
    assert times == [1.0, 1.0]
    assert calls == ["a", "b", *"ab", *"ba", *"ab"]
    calls.clear()
    timing.take_turns([lambda: calls.append("a")], rounds=9, seconds=0.0, clock=clock)
    assert len(calls) == 3


def test_extra_memory_leaves_results_out() -> None:
    size = 64 << 20

    def work() -> torch.Tensor:
        return torch.ones(size // 4).add_(torch.ones(size // 4))

    extra = timing.extra_bytes(work, result_bytes)
    if extra is None:
        pytest.skip("this system cannot begin the peak of memory anew")
    assert 0.9 * size < extra < 1.2 * size


def test_differences_and_gradients() -> None:
    a, b = torch.ones(4), torch.full((4,), 2.0)
    assert difference((a, b), (a, a)) == pytest.approx(1.0)
    assert difference(None, None) == 0.0
    (found,) = gradient(lambda x: x * x, [b], [a])()  # type: ignore[misc]
    assert torch.equal(found, torch.full((4,), 4.0))
    with pytest.raises(Missing, match="flash"):
        ours("flash")


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "all_cases", lambda *_, **__: iter([case()]))
    assert run(["bench", "kernels", "--quick", "--json", "--op", "gemm", "--isa", "scalar"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"processor", "torch", "threads", "core", "clock", "peaks", "rows", "verdicts"}
    assert set(found["peaks"]) == set(found["verdicts"]) == {"scalar"}
    (only,) = found["rows"]
    assert set(only) >= {"op", "shape", "dtype", "unit", "rate", "share", "ratio", "extra_bytes", "missing", "group"}
    assert run(["bench", "kernels", "--quick", "--no-memory"]) == 0
    assert f"core {max(os.sched_getaffinity(0))}, 1 thread, CPU time" in capsys.readouterr().out
    assert run(["bench", "kernels", "--quick", "--markdown"]) == 0
    assert "Done-when line" in capsys.readouterr().out
    different = case(make=lambda: Subject(lambda: torch.ones(3), lambda: torch.zeros(3) + 2))
    monkeypatch.setattr(bench_module, "all_cases", lambda *_, **__: iter([different]))
    assert run(["bench", "kernels", "--quick"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--op", "gem"], "--op 'gem' is unknown; did you mean 'gemm'"),
        (["--op", ","], "--op ',' names nothing"),
        (["--dtype", "bf61"], "did you mean 'bf16'"),
        (["--isa", "avx3"], "--isa 'avx3' is unknown"),
        (["--threads", "4096"], "--threads 4096: this process may run on"),
        (["--threads", "2", "--core", "0"], "--core 0 needs --threads 1"),
        (["--json", "--markdown"], "--json and --markdown"),
        (["--core", "9999"], "--core 9999"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_lists_keep_their_order() -> None:
    assert chosen("--op", "attention, gemm", OPS) == ["gemm", "attention"]
    assert chosen("--op", None, OPS) == list(OPS)
