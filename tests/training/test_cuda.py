"""The same config on a GPU: the same losses as on the CPU, and the run goes on on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyjpllm.training import train
from tests.training.small import data_folder, small_config
from tests.training.test_trainer import digest, records

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-3), ("bf16", 2e-2), ("fp64", 1e-9)])
def test_a_gpu_trains_to_the_losses_of_the_cpu(tmp_path: Path, dtype: str, tolerance: float) -> None:
    train(small_config(data_folder(), f"precision.dtype={dtype}"), tmp_path / "cpu")
    train(small_config(data_folder(), f"precision.dtype={dtype}", "train.device=cuda"), tmp_path / "cuda")
    expected = [r["loss"] for r in records(tmp_path / "cpu")]
    assert [r["loss"] for r in records(tmp_path / "cuda")] == pytest.approx(expected, rel=tolerance)


def test_a_run_on_a_gpu_goes_on_on_the_cpu(tmp_path: Path) -> None:
    constant = "schedule.kind=constant"
    train(small_config(data_folder(), constant, "train.steps=4", "train.device=cuda"), tmp_path)
    result = train(small_config(data_folder(), constant, "train.steps=8"), tmp_path)
    assert result.step == 8
    assert records(tmp_path)[-1]["loss"] < records(tmp_path)[0]["loss"]
    assert digest(tmp_path)
