"""A run with experts: their loads in the metrics, their biases in the checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyjpllm.config import Config
from pyjpllm.distributed import World
from pyjpllm.training import latest, load_model, train
from pyjpllm.training.manifest import Manifest
from pyjpllm.training.trainer import Trainer
from tests.mpi import run_ranks
from tests.training.small import data_folder, small_config
from tests.training.test_trainer import digest, records, stop_after

EXPERTS = (
    "model.moe={num_experts = 4, experts_per_token = 2, intermediate_size = 24, shared_size = 8, router = 'sigmoid', "
    "balance_bias_rate = 0.01, router_z_loss = 0.001}"
)


def with_experts(*overrides: str, data: Path | None = None) -> Config:
    return small_config(data or data_folder(), EXPERTS, *overrides)


def test_a_run_with_experts_learns_and_says_what_they_do(tmp_path: Path) -> None:
    assert train(with_experts(), tmp_path).finished
    found = records(tmp_path)
    assert found[-1]["loss"] < found[0]["loss"] - 0.5
    for record in found:
        assert 1 <= record["expert_load_max"] <= 4
        assert 0.005 < record["expert_balance_loss"] < 0.08  # two layers of .01 each where the loads are even
        assert 0 < record["expert_router_z_loss"] < 0.1
    step = latest(tmp_path)
    assert step is not None
    biases = Manifest.read(step).state["expert_biases"]
    assert set(biases) == {"0", "1"}
    assert max(abs(value) for layer in biases.values() for value in layer) > 0.01
    loaded = load_model(tmp_path).model
    assert {str(layer): moe.bias_E.tolist() for layer, moe in loaded.moe_layers().items()} == biases


def test_a_resumed_run_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_experts()
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", stop_after(6))
        assert not train(config, tmp_path / "broken").finished
    assert train(config, tmp_path / "broken").finished
    assert digest(tmp_path / "broken") == digest(tmp_path / "whole")
    for ours, theirs in zip(records(tmp_path / "broken"), records(tmp_path / "whole"), strict=True):
        assert all(ours[name] == theirs[name] for name in ours if name.startswith(("expert_", "loss")))


def test_the_micro_batch_changes_nothing_but_rounding(tmp_path: Path) -> None:
    for micro in (1, 4):
        few = ("train.steps=5", f"train.micro_batch={micro}", "precision.dtype=fp64")
        train(with_experts(*few), tmp_path / str(micro))
    for ours, theirs in zip(records(tmp_path / "1"), records(tmp_path / "4"), strict=True):
        for name in ("loss", "grad_norm", "expert_balance_loss", "expert_router_z_loss"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-10)
        assert ours["expert_load_max"] == theirs["expert_load_max"]


FP64 = (
    "precision.dtype=fp64",
    "checkpoint.keep_last=9",
    "train.micro_batch=1",
    "train.steps=6",
    "log.sample_prompts=['計算機']",
)
LAYOUTS = {
    "shared experts": ("parallel.expert=2", "parallel.tensor=2", "parallel.sequence=true"),
    "pipeline": ("parallel.expert=2", "parallel.pipeline=2"),
}


def body(world: World, data: str, run: str) -> list[int]:
    """One rank of a run that is stopped after step 3 and goes on on the other layout."""
    steps, one_step = [], Trainer._one_step
    for stopping, layout in zip((stop_after(3), one_step), LAYOUTS.values(), strict=True):
        Trainer._one_step = stopping  # type: ignore[method-assign]
        steps.append(train(with_experts(*FP64, *layout, data=Path(data)), Path(run), world=world).step)
    return steps


def test_ranks_that_share_experts_train_as_one_process_and_go_on_as_others(tmp_path: Path) -> None:
    """A run that changes its layout of four ranks, beside one process; and its end on one."""
    train(with_experts(*FP64), tmp_path / "one")
    assert run_ranks(body, 4, str(data_folder()), str(tmp_path / "four")) == [[3, 6]] * 4
    ours, theirs = records(tmp_path / "four"), records(tmp_path / "one")
    for name in ("loss", "grad_norm", "expert_balance_loss", "expert_router_z_loss", "expert_load_max"):
        assert [r[name] for r in ours] == pytest.approx([r[name] for r in theirs], abs=1e-10)
    assert ours[-1]["valid_loss"] == pytest.approx(theirs[-1]["valid_loss"], abs=1e-10)
    one, four = (Manifest.read(latest(tmp_path / name) or tmp_path).state for name in ("one", "four"))
    assert four["expert_biases"] == one["expert_biases"]
    loaded = load_model(tmp_path / "four").model
    assert {str(layer): moe.bias_E.tolist() for layer, moe in loaded.moe_layers().items()} == one["expert_biases"]
    said = [(tmp_path / name / "samples.jsonl").read_text().splitlines()[-1] for name in ("one", "four")]
    assert said[0] == said[1]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_experts_train_in_16_bits(tmp_path: Path, dtype: str) -> None:
    train(with_experts(f"precision.dtype={dtype}"), tmp_path)
    assert records(tmp_path)[-1]["loss"] < records(tmp_path)[0]["loss"] - 0.5
    assert torch.isfinite(torch.tensor([record["grad_norm"] for record in records(tmp_path)])).any()
