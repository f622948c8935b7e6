"""`jpllm bench step`: both sides do the same work, and the figures add up."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyjpllm.bench import probe
from pyjpllm.bench.memory import main as memory_main
from pyjpllm.bench.memory import pack, peak_bytes, unpack
from pyjpllm.bench.scaling import wall_seconds
from pyjpllm.bench.sides import Ours, Theirs, Work, make_side
from pyjpllm.bench.step import StepBench, losses_agree, operation_shares, run_step_bench, table
from pyjpllm.bench.step_verdicts import step_verdicts, verdict_lines
from pyjpllm.cli.app import run
from pyjpllm.config import PRESETS
from pyjpllm.config.schema import ModelConfig
from pyjpllm.errors import UserError


def little(**changes: Any) -> Work:
    """A model that steps in milliseconds."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    sizes |= {"intermediate_size": 48, "vocab_size": 101}
    dtype = changes.pop("dtype", "fp32")
    return Work(ModelConfig.model_validate(sizes | changes), 2, 12, dtype)


@pytest.fixture(autouse=True)
def all_cores() -> Any:
    """Give the test process its cores and threads back after a test that pinned it."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_embeddings": True}, {"qkv_bias": True}, {"qk_norm": True}, {"sliding_window": 5}],
    ids=["llama", "tied", "qwen2", "qwen3", "mistral"],
)
def test_both_sides_take_the_same_steps(changes: dict[str, Any]) -> None:
    work = little(**changes)
    ours, theirs = Ours(work, "torch"), Theirs(work)
    for _ in range(4):
        assert ours.step() == pytest.approx(theirs.step(), rel=2e-5)
    expected = dict(theirs.network.named_parameters())
    head = expected["model.norm.weight"]
    assert torch.allclose(ours.model.norm.weight, head, atol=1e-5)


def test_bf16_is_close() -> None:
    work = little(dtype="bf16")
    ours, theirs = Ours(work, "torch"), Theirs(work)
    assert ours.model.norm.weight.dtype == torch.bfloat16
    for _ in range(3):
        assert ours.step() == pytest.approx(theirs.step(), rel=2e-2)


def test_the_backends_agree() -> None:
    work = little()
    sides = [make_side(name, work) for name in ("torch", "reference")]
    assert sides[0].step() == pytest.approx(sides[1].step(), rel=1e-5)


def test_a_whole_bench() -> None:
    lines: list[str] = []
    core = probe.pin()
    bench = run_step_bench(little(), ["torch", "transformers"], repeats=2, core=core, memory=False, say=lines.append)
    assert bench.losses_agree
    assert [len(row.cpu_seconds) for row in bench.rows] == [2, 2]
    assert [len(row.losses) for row in bench.rows] == [3, 3]
    for row in bench.rows:
        assert row.tokens_per_second == pytest.approx(24 / min(row.cpu_seconds))
        assert row.mfu == pytest.approx(row.tokens_per_second * bench.flops_per_token / bench.peak_flops)
        assert sum(share for _, share, _ in row.operations) == pytest.approx(1.0)
        assert row.peak_bytes is None
    first, second = bench.rows
    assert bench.ratio() == pytest.approx(first.tokens_per_second / second.tokens_per_second)
    text = table(bench)
    assert "times the speed of transformers" in text
    assert "The losses agree" in text
    assert "| aten::" in text
    assert json.loads(json.dumps(bench.as_dict()))["ratio"] == bench.ratio()
    assert any("turn 2 of 2" in line for line in lines)
    bench.losses_agree = False
    assert "THE LOSSES DIFFER" in table(bench)


def test_alone() -> None:
    bench = run_step_bench(little(), ["torch"], repeats=1, memory=False, profile=False)
    assert bench.losses_agree is None
    assert bench.ratio() is None
    assert "operation" not in table(bench)
    with pytest.raises(UserError, match="--repeats 0"):
        run_step_bench(little(), ["torch"], repeats=0)


def test_the_quoted_models() -> None:
    from pyjpllm.cli.bench import MODELS, _shape
    from pyjpllm.model import count_parameters

    sizes = [count_parameters(_shape(name, None, None, None, None, None, None, None, 16)) for name in MODELS]
    assert [round(size / 1e6, 1) for size in sizes] == [58.5, 123.6]


def test_wall_time_on_cores() -> None:
    cores = sorted(os.sched_getaffinity(0))
    found = wall_seconds("torch", little(), cores, 1, repeats=1, turns=1)
    assert set(found) == {1}
    assert found[1] > 0
    with pytest.raises(UserError, match="--threads 4096"):
        wall_seconds("torch", little(), cores, 4096, repeats=1)
    with pytest.raises(RuntimeError, match="ended with"):
        wall_seconds("abacus", little(), cores, 1, repeats=1)


def test_what_was_wanted_of_a_step() -> None:
    bench = run_step_bench(little(), ["torch", "transformers"], repeats=1, memory=False, profile=False)
    unknown = {v.what: v for v in step_verdicts(bench)}
    assert unknown["whole step FP32: two cores over one, wall time"].met is None
    assert any("eager alone" in what for what in unknown)
    bench.rows[0].peak_bytes, bench.rows[1].peak_bytes = 50, 100
    bench.rows[0].mfu = 0.9
    bench.rows[1].side = "transformers-compiled"
    bench.wall_seconds = {1: 3.8, 2: 2.0}
    known = {v.what: v for v in step_verdicts(bench)}
    assert known["whole step FP32: MFU"].met is True
    assert known["whole step FP32: peak memory over the lesser of transformers'"].value == 0.5
    assert known["whole step FP32: two cores over one, wall time"].value == pytest.approx(1.9)
    speed = known["whole step FP32: speed over transformers, the better of eager and compiled"]
    assert speed.value == bench.ratio()
    assert "| 6 | whole step FP32: MFU | >= 82% | 90% | yes |" in verdict_lines(bench)
    assert "1.90 times faster" in table(bench)


def test_when_losses_agree() -> None:
    assert losses_agree([[1.0, 2.0]], 0.1) is None
    assert losses_agree([[1.0, 2.0], [1.01, 2.0]], 0.1)
    assert not losses_agree([[1.0, 2.0], [1.0, 2.3]], 0.1)


def test_shares_leave_nothing_out() -> None:
    x = torch.ones(64, 64)

    def step() -> None:
        torch.mm(x, x).add_(1).exp_()

    shares = operation_shares(step, top=1)
    assert len(shares) == 2
    assert shares[1][0].endswith("others")
    assert sum(share for _, share, _ in shares) == pytest.approx(1.0)


def test_memory_of_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    work = little(vocab_size=20_000, hidden_size=64, head_dim=16)
    assert unpack(pack(work)) == work
    core = min(os.sched_getaffinity(0))
    least = 16 * 2 * 20_000 * 64  # weights, gradients and two moments of two tables
    assert least < peak_bytes("torch", work, core) < 20 * least
    memory_main("torch", pack(little()), str(core))
    assert int(capsys.readouterr().out) >= 0
    with pytest.raises(RuntimeError, match="ended with"):
        peak_bytes("abacus", work, core)


def test_pinning() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert probe.pin() == allowed[-1]
    assert os.sched_getaffinity(0) == {allowed[-1]}
    assert torch.get_num_threads() == 1
    with pytest.raises(UserError, match="--core 9999 is not among"):
        probe.pin(9999)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make imports of a module fail."""
    real = builtins.__import__

    def hide(hidden: str) -> None:
        def importer(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
            if name == hidden or (name == "pyjpllm" and hidden in (fromlist or ())):
                raise ImportError(hidden)
            return real(name, globals, locals, fromlist, level)

        monkeypatch.setattr(builtins, "__import__", importer)

    return hide


def test_the_peak_says_how_it_was_measured(without: Callable[[str], None]) -> None:
    without("_native")
    peak = probe.Peak()
    peak.measure()
    assert peak.flops > 1e9
    assert "matrix products" in peak.how
    again = peak.flops
    peak.measure()
    assert peak.flops >= again


def test_the_native_peak() -> None:
    pytest.importorskip("pyjpllm._native", reason="the kernels are not built here")
    peak = probe.Peak()
    peak.measure()
    assert peak.flops > 1e9
    assert "register loop" in peak.how


def test_without_transformers(without: Callable[[str], None]) -> None:
    without("transformers")
    with pytest.raises(UserError, match="--alone"):
        Theirs(little())


def test_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(text: str | None) -> Any:
        def read_text(path: Any) -> str:
            if text is None:
                raise OSError
            return text

        return read_text

    for text, words in (
        ("flags : fpu avx2 avx512f", "one core with AVX-512"),
        ("flags : fpu avx2", "one core with AVX2"),
        ("Features : fp asimd sve", "one core with SVE"),
        ("nothing", "one core"),
        (None, "linux"),
    ):
        monkeypatch.setattr(probe.Path, "read_text", reads(text))
        assert probe.processor() == words


SMALL = [
    "--hidden",
    "32",
    "--layers",
    "1",
    "--heads",
    "4",
    "--ffn",
    "32",
    "--vocab",
    "64",
    "--batch",
    "1",
    "--seq",
    "8",
]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "step", *SMALL, "--repeats", "1", "--no-memory", "--kernels", "torch", "--kernels", "reference"]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["side"] for row in found["rows"]] == ["torch", "reference", "transformers"]
    assert found["losses_agree"] is True
    assert found["work"]["model"]["num_kv_heads"] == 4
    assert run(["bench", "step", "--preset", "tiny", "--seq", "8", "--repeats", "1", "--no-memory", "--alone"]) == 0
    assert "hidden 128, 4 layers, 4 heads (2 kv), FFN 384" in capsys.readouterr().out


def test_losses_that_differ_fail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def different(*arguments: Any, **options: Any) -> StepBench:
        bench = run_step_bench(*arguments, **options)
        bench.losses_agree = False
        return bench

    monkeypatch.setattr("pyjpllm.bench.step.run_step_bench", different)
    assert run(["bench", "step", *SMALL, "--repeats", "1", "--no-memory", "--no-operations", "--alone"]) == 1
    assert "THE LOSSES DIFFER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "tinny"], "did you mean 'tiny'"),
        (["--model", "gpt-125m"], "did you mean 'gpt-124m'"),
        (["--model", "gpt-124m", "--preset", "tiny"], "are two models"),
        (["--threads", "4096"], "--threads 4096: this process may run on"),
        (["--heads", "6", "--kv-heads", "4"], "--kv-heads 4 does not divide the 6 heads"),
        (["--hidden", "100", "--heads", "8"], "take a multiple of 16"),
        (["--repeats", "0"], "--repeats"),
        (["--kernels", "fast"], "fast"),
        (["--core", "9999"], "--core 9999"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "step", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_every_preset_is_a_shape() -> None:
    from pyjpllm.cli.bench import _shape

    for name, sizes in PRESETS.items():
        assert _shape("llama-58m", name, None, None, None, None, None, 1000, 16).hidden_size == sizes["hidden_size"]
