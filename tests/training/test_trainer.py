"""The whole trainer on one process: what it writes, resumes, refuses and survives."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pyjpllm import ops
from pyjpllm.config import Config
from pyjpllm.errors import UserError
from pyjpllm.training import Result, TrainingError, complete_steps, latest, load_model, read_model_state, train, trainer
from tests.training.small import data_folder, small_config


@pytest.fixture(scope="module")
def data() -> Path:
    return data_folder()


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = latest(run)
    assert newest is not None
    return dict(read_model_state(newest))


def digest(run: Path) -> str:
    """One hash over weights and optimizer state of the newest checkpoint, bit for bit."""
    newest = latest(run)
    assert newest is not None
    hashes = [hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(newest.glob("*.safetensors"))]
    return " ".join(hashes)


def stop_after(step: int) -> Callable[..., Any]:
    """A step method that sends SIGTERM to itself once ``step`` is being made."""
    original = trainer.Trainer._one_step

    def one_step(self: trainer.Trainer) -> Any:
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    return one_step


def test_a_run_learns_and_writes_all_that_the_contract_names(data: Path, tmp_path: Path) -> None:
    config = small_config(
        data, "train.steps=20", "train.eval_interval=10", 'log.sample_prompts=["日本"]', "log.tensorboard=true"
    )
    result = train(config, tmp_path / "run")
    assert result == Result(True, "finished 20 steps", 20, result.loss, tmp_path / "run")
    run = records(tmp_path / "run")
    assert [r["step"] for r in run] == list(range(1, 21))
    assert run[-1]["loss"] < 0.8 * run[0]["loss"]
    assert run[-1]["tokens"] == 20 * 8 * 32
    assert {"valid_loss", "valid_bits_per_byte"} <= set(run[9])
    assert "valid_loss" in run[19]
    assert "valid_loss" not in run[8]
    assert run[0]["lr"] == pytest.approx(5e-3)
    assert {"data", "forward", "backward", "communicate", "optimizer", "total"} <= set(run[0]["seconds"])
    for name in ("config.toml", "environment.json", "tokenizer/tokenizer.model", "samples.jsonl"):
        assert (tmp_path / "run" / name).is_file()
    assert list((tmp_path / "run").glob("events.*"))
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [(s["step"], s["prompt"]) for s in samples] == [(10, "日本"), (20, "日本")]


def test_the_same_config_gives_the_same_bits(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(small_config(data, "train.steps=4"), tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    a, b = records(tmp_path / "a"), records(tmp_path / "b")
    assert [r["loss"] for r in a] == [r["loss"] for r in b]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("precision.dtype=bf16",),
        ("precision.dtype=fp16", "precision.loss_scale_interval=3"),
        ("precision.dtype=fp64", "train.z_loss=1e-4", "schedule.kind=cosine"),
        ("train.activation_checkpointing=full", "data.document_mask=false"),
    ],
    ids=["fp32", "bf16", "fp16", "fp64", "recompute"],
)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    config = small_config(data, *overrides)
    train(config, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_one_step", stop_after(6))
        result = train(config, tmp_path / "broken")
    assert not result.finished
    assert result.step == 6
    assert "SIGTERM" in result.exit_reason
    assert complete_steps(tmp_path / "broken") == [4, 6]
    assert train(config, tmp_path / "broken").finished
    assert digest(tmp_path / "broken") == digest(tmp_path / "unbroken")
    whole, resumed = records(tmp_path / "unbroken"), records(tmp_path / "broken")
    assert [r["step"] for r in resumed] == list(range(1, 13))
    for key in ("loss", "grad_norm", "lr", "z_loss"):
        assert [r[key] for r in resumed] == [r[key] for r in whole]


def test_a_finished_run_says_so_and_does_nothing(data: Path, tmp_path: Path) -> None:
    config = small_config(data, "train.steps=2")
    train(config, tmp_path)
    before = digest(tmp_path)
    result = train(config, tmp_path)
    assert result.finished
    assert result.exit_reason == "nothing to do: step 2 of 2 is done"
    assert digest(tmp_path) == before
    assert len(records(tmp_path)) == 2


def test_more_steps_go_on_from_a_finished_run(data: Path, tmp_path: Path) -> None:
    train(small_config(data, "train.steps=2", "schedule.kind=constant"), tmp_path)
    assert train(small_config(data, "train.steps=3", "schedule.kind=constant"), tmp_path).step == 3


def test_recomputed_activations_give_the_same_loss(data: Path, tmp_path: Path) -> None:
    train(small_config(data, "train.steps=3"), tmp_path / "kept")
    train(small_config(data, "train.steps=3", "train.activation_checkpointing=full"), tmp_path / "recomputed")
    assert digest(tmp_path / "kept") == digest(tmp_path / "recomputed")


def test_the_micro_batch_changes_nothing_but_rounding(data: Path, tmp_path: Path) -> None:
    for size in (1, 4):
        train(small_config(data, f"train.micro_batch={size}", "precision.dtype=fp64"), tmp_path / str(size))
    one, four = weights(tmp_path / "1"), weights(tmp_path / "4")
    for name, value in one.items():
        torch.testing.assert_close(four[name], value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_other_kernels_train_to_the_same_losses(data: Path, tmp_path: Path, kernels: str) -> None:
    train(small_config(data, "train.steps=4"), tmp_path / "torch")
    train(small_config(data, "train.steps=4", f"train.kernels={kernels}"), tmp_path / kernels)
    expected = [r["loss"] for r in records(tmp_path / "torch")]
    assert [r["loss"] for r in records(tmp_path / kernels)] == pytest.approx(expected, rel=2e-5)


def test_bf16_trains_close_to_fp32_with_exact_masters(data: Path, tmp_path: Path) -> None:
    train(small_config(data), tmp_path / "fp32")
    train(small_config(data, "precision.dtype=bf16"), tmp_path / "bf16")
    full, half = records(tmp_path / "fp32"), records(tmp_path / "bf16")
    assert half[-1]["loss"] == pytest.approx(full[-1]["loss"], rel=0.02)
    assert all(w.dtype == torch.float32 for w in weights(tmp_path / "bf16").values())


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_native_kernels_train_in_16_bits_as_torch_does(data: Path, tmp_path: Path, dtype: str) -> None:
    train(small_config(data, f"precision.dtype={dtype}"), tmp_path / "torch")
    train(small_config(data, f"precision.dtype={dtype}", "train.kernels=native"), tmp_path / "native")
    expected = [r["loss"] for r in records(tmp_path / "torch")]
    assert [r["loss"] for r in records(tmp_path / "native")] == pytest.approx(expected, rel=0.005)


def test_chunked_fp16_sums_train_close_to_fp32_ones(data: Path, tmp_path: Path) -> None:
    overrides = ["precision.dtype=fp16", "train.kernels=native"]
    train(small_config(data, *overrides), tmp_path / "exact")
    train(small_config(data, *overrides, "precision.math=fp16-chunk", "precision.math_chunk=16"), tmp_path / "chunk")
    exact, chunk = ([r["loss"] for r in records(tmp_path / name)] for name in ("exact", "chunk"))
    assert chunk != exact
    assert chunk == pytest.approx(exact, rel=0.005)
    assert ops.current_math() == ("fp16-chunk", 16)
    train(small_config(data, "train.steps=1"), tmp_path / "back")
    assert ops.current_math() == ("exact", 32)


def test_products_of_integers_train_close_to_fp32_ones(data: Path, tmp_path: Path) -> None:
    train(small_config(data, "train.kernels=native"), tmp_path / "exact")
    train(small_config(data, "train.kernels=native", "precision.math=int16"), tmp_path / "int16")
    exact, int16 = ([r["loss"] for r in records(tmp_path / name)] for name in ("exact", "int16"))
    assert int16 != exact
    assert int16 == pytest.approx(exact, rel=0.0005)


def test_fp16_trains_close_to_fp32(data: Path, tmp_path: Path) -> None:
    train(small_config(data), tmp_path / "fp32")
    train(small_config(data, "precision.dtype=fp16"), tmp_path / "fp16")
    full, half = records(tmp_path / "fp32"), records(tmp_path / "fp16")
    assert half[-1]["skipped"] == 0
    assert half[-1]["loss"] == pytest.approx(full[-1]["loss"], rel=0.005)
    assert half[0]["grad_norm"] == pytest.approx(full[0]["grad_norm"], rel=0.02)  # the scale is taken out again
    assert [r["loss_scale"] for r in half] == [2**16] * len(half)
    assert "loss_scale" not in full[0]


def test_the_loss_scale_of_fp16_follows_the_gradients(data: Path, tmp_path: Path) -> None:
    train(small_config(data, "precision.dtype=fp16", "precision.loss_scale_interval=1"), tmp_path)
    half = records(tmp_path)
    assert half[-1]["skipped"] > 0
    for before, after in pairwise(half):
        good = before["grad_norm"] is not None and math.isfinite(before["grad_norm"])
        assert after["loss_scale"] == before["loss_scale"] * (2 if good else 0.5)


@pytest.mark.parametrize("scale", ["1", "1024"])
def test_a_fixed_loss_scale_changes_no_bit_in_fp32(data: Path, tmp_path: Path, scale: str) -> None:
    train(small_config(data, "train.steps=3"), tmp_path / "without")
    train(small_config(data, "train.steps=3", f"precision.loss_scale={scale}"), tmp_path / "with")
    assert digest(tmp_path / "with") == digest(tmp_path / "without")


def test_z_loss_is_logged_apart(data: Path, tmp_path: Path) -> None:
    train(small_config(data, "train.steps=2"), tmp_path / "without")
    train(small_config(data, "train.steps=2", "train.z_loss=1e-2"), tmp_path / "with")
    assert records(tmp_path / "without")[0]["z_loss"] == 0
    assert records(tmp_path / "with")[0]["z_loss"] > 0
    assert records(tmp_path / "with")[0]["loss"] == records(tmp_path / "without")[0]["loss"]


def poison(*steps: int) -> Callable[..., float]:
    """A gradient norm that is NaN at these steps, as it is when one gradient is."""
    original, calls = trainer.global_grad_norm, [0]

    def norm(flat: Any, mesh: Any) -> float:
        calls[0] += 1
        if calls[0] in steps:
            flat.groups[0].grad[0] = float("nan")
        return original(flat, mesh)

    return norm


def test_a_step_with_nan_is_skipped_and_counted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "global_grad_norm", poison(3, 4))
    train(small_config(data, "train.steps=6"), tmp_path)
    assert [r["skipped"] for r in records(tmp_path)] == [0, 0, 1, 2, 2, 2]
    assert records(tmp_path)[2]["grad_norm"] is None
    assert all(torch.isfinite(w).all() for w in weights(tmp_path).values())


def test_nan_in_every_step_ends_the_run_and_keeps_the_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "global_grad_norm", poison(*range(5, 50)))
    with pytest.raises(TrainingError, match="max_skipped_steps = 3"):
        train(small_config(data, "train.max_skipped_steps=3"), tmp_path)
    assert complete_steps(tmp_path) == [4]
    assert all(torch.isfinite(w).all() for w in weights(tmp_path).values())


def test_what_changed_since_the_checkpoint_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small_config(data, "train.steps=2"), tmp_path)
    train(small_config(data, "train.steps=3", "optimizer.lr=5e-3", "log.interval=1"), tmp_path)
    err = capsys.readouterr().err
    assert "changed since the checkpoint: optimizer.lr was 0.01 and is now 0.005" in err
    assert "log.interval" not in err


def test_another_model_in_the_same_run_folder_is_refused(data: Path, tmp_path: Path) -> None:
    train(small_config(data, "train.steps=2"), tmp_path)
    with pytest.raises(UserError, match=r"model.num_layers is 3, but .*step-00000002 was written with 2"):
        train(small_config(data, "model.num_layers=3"), tmp_path)


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.vocab_size = 100 is smaller than the tokenizer's 450"):
        train(small_config(data, "model.vocab_size=100"), tmp_path)


def test_a_vocabulary_larger_than_the_tokenizers_is_fine(data: Path, tmp_path: Path) -> None:
    train(small_config(data, "model.vocab_size=455", "train.steps=1"), tmp_path)
    assert weights(tmp_path)["embedding.weight"].shape == (455, 32)


def test_two_jobs_never_share_a_run_folder(data: Path, tmp_path: Path) -> None:
    from pyjpllm.training.rundir import RunLock

    lock = RunLock()
    lock.take(tmp_path)
    with pytest.raises(UserError, match="in use by another job"):
        train(small_config(data, "train.steps=1"), tmp_path)
    lock.release()
    train(small_config(data, "train.steps=1"), tmp_path)


def test_a_run_folder_that_cannot_be_made_is_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file"):
        train(small_config(data, "train.steps=1"), tmp_path / "file" / "run")


def test_cuda_without_a_gpu_is_refused(data: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="GPU"):
        train(small_config(data, "train.device=cuda"), tmp_path)


def test_a_run_starts_from_a_hugging_face_folder(data: Path, tmp_path: Path) -> None:
    from pyjpllm.model.huggingface import export

    train(small_config(data, "train.steps=6"), tmp_path / "first")
    newest = latest(tmp_path / "first")
    assert newest is not None
    shape = load_model(newest).config
    export(weights(tmp_path / "first"), shape, tmp_path / "hf")
    train(small_config(data, "train.steps=1", f"model.init_from={tmp_path / 'hf'}"), tmp_path / "second")
    cold = records(tmp_path / "first")[0]["loss"]
    warm = records(tmp_path / "second")[0]["loss"]
    assert warm < 0.95 * cold


def test_models_load_from_runs_checkpoints_and_nowhere_else(data: Path, tmp_path: Path) -> None:
    train(small_config(data, "train.steps=2"), tmp_path / "run")
    loaded = load_model(tmp_path / "run", dtype=torch.float64)
    assert loaded.tokenizer == tmp_path / "run" / "tokenizer"
    again = load_model(loaded.source)
    for (name, a), (_, b) in zip(loaded.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(a.float(), b), name
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no model"):
        load_model(empty)
    (empty / "config.toml").write_text("")
    with pytest.raises(UserError, match="no complete checkpoint yet"):
        load_model(empty)
    with pytest.raises(UserError, match="is no folder"):
        load_model(tmp_path / "nowhere")


def test_small_config_is_a_config(data: Path) -> None:
    assert isinstance(small_config(data), Config)
