"""Cross-field checks: every rule, and the right numbers that are offered."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.config import ConfigError, check_config
from pyjpllm.config.check import heads_fit
from pyjpllm.errors import UserError
from tests.config.builders import config, write_project

Fields = dict[str, object]


def lines(ranks: int, *, machine: bool = False, files: bool = False, **sections: Fields) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        check_config(config(**sections), ranks, machine=machine, files=files)
    return caught.value.lines


def one(ranks: int, *, machine: bool = False, files: bool = False, **sections: Fields) -> str:
    found = lines(ranks, machine=machine, files=files, **sections)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(("ranks", "tensor"), [(1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (4, 1)])
def test_what_fits_is_let_through(ranks: int, tensor: int) -> None:
    check_config(config(parallel={"tensor": tensor}), ranks, machine=False, files=False)


def test_the_batch_must_divide() -> None:
    line = one(3, train={"global_batch": 8})
    assert line.startswith("train.global_batch = 8: is no multiple of")
    assert "2 x 3 = 6; nearest: 6 or 12" in line
    assert "nearest: 16" in one(1, train={"global_batch": 8, "micro_batch": 16})


def test_ranks_must_fit() -> None:
    assert "does not divide the job's 3 ranks; nearest: 1 or 3" in one(3, parallel={"tensor": 2})
    line = one(4, parallel={"tensor": 2, "data": 4})
    assert "parallel.data = 4: times parallel.tensor = 2 is 8, but the job has 4 ranks" in line
    assert "mpirun -n 8" in line
    assert "or write 2" in line
    assert "or write" not in one(3, parallel={"tensor": 2, "data": 4})
    assert "must be at least 1, or -1" in one(1, parallel={"data": 0})


def test_shared_sequences() -> None:
    check_config(config(parallel={"context": 2, "tensor": 2}), 8, machine=False, files=False)
    ulysses = {"context": 4, "context_kind": "ulysses"}
    check_config(config(parallel=ulysses, model={"sliding_window": 8}), 4, machine=False, files=False)
    assert "is for parallel.context, which is 1; leave it out" in one(1, parallel={"context_kind": "ulysses"})
    assert 'does not know model.sliding_window = 8; write "ulysses"' in one(
        2, parallel={"context": 2}, model={"sliding_window": 8}
    )
    assert "at most data.sequence_length = 2" in one(4, parallel={"context": 4}, data={"sequence_length": 2})
    line = one(3, parallel={**ulysses, "context": 3}, model={"num_heads": 4, "num_kv_heads": 2})
    assert "parallel.context = 3: cannot share model.num_heads = 4 with model.num_kv_heads = 2; nearest: 2 or 4" in line
    line = one(8, parallel={**ulysses, "tensor": 2}, model={"num_heads": 4, "num_kv_heads": 2})
    assert "beside parallel.tensor = 2; nearest: 2, or write" in line


def test_pipelines() -> None:
    check_config(config(parallel={"pipeline": 2, "tensor": 2}), 8, machine=False, files=False)
    check_config(config(parallel={"pipeline": 2, "pipeline_layers": [1, 1, 1, 1]}), 2, machine=False, files=False)
    assert "pipeline = 3: does not divide the job's 4 ranks, 2 for each of the 2 that other sizes ask for" in one(
        4, parallel={"pipeline": 3, "tensor": 2}
    )
    line = one(4, parallel={"pipeline": 2, "tensor": 2, "data": 3})
    assert "times parallel.tensor = 2 and parallel.pipeline = 2 is 12" in line
    assert "is for parallel.pipeline, which is 1; leave it out" in one(1, parallel={"pipeline_schedule": "1f1b"})
    assert 'is for pipeline_schedule = "searched", which is "zb-v"' in one(
        2, parallel={"pipeline": 2, "pipeline_memory": 3.0}
    )
    searched = {"pipeline": 2, "pipeline_schedule": "searched"}
    assert "1 or more, or 0" in one(2, parallel={**searched, "pipeline_memory": 0.5})
    assert "zb-v on 2 ranks has 4" in one(2, parallel={"pipeline": 2, "pipeline_layers": [2, 2]})
    assert "add up to 5, model.num_layers is 4" in one(2, parallel={"pipeline": 2, "pipeline_layers": [2, 1, 1, 1]})
    for kind, listed in (("zb-v", [2, 0, 0, 2]), ("1f1b", [2, 0, 2]), ("interleaved", [1, 0, 1, 1, 0, 1])):
        ranks = {"zb-v": 2}.get(kind, 3)
        fields = {"pipeline": ranks, "pipeline_schedule": kind, "pipeline_layers": listed}
        batch = {"global_batch": 6, "micro_batch": 1}
        assert "leaves rank 1 of the pipeline nothing to do" in one(ranks, parallel=fields, train=batch)
    ends = {"pipeline": 2, "pipeline_layers": [0, 2, 2, 0]}  # the embedding and the head are something to do
    check_config(config(parallel=ends), 2, machine=False, files=False)
    assert "at most model.num_layers = 4" in one(
        5, parallel={"pipeline": 5}, train={"global_batch": 5, "micro_batch": 1}
    )


def test_zero() -> None:
    assert one(2, parallel={"zero": 2, "pipeline": 2}, model={"num_layers": 4}).startswith(
        "parallel.zero = 2: would send every micro-batch's gradients of every piece of parallel.pipeline = 2; write 1"
    )
    assert 'which is "fp32"; leave it out' in one(2, parallel={"gradient_dtype": "model"})


def test_heads_must_be_shareable() -> None:
    assert "does not divide model.num_heads = 4; nearest: 2 or 4" in one(1, model={"num_kv_heads": 3})
    line = one(3, parallel={"tensor": 3}, train={"global_batch": 6})
    assert "cannot share model.num_heads = 4 with model.num_kv_heads = 2; nearest: 1" in line
    assert "intermediate_size = 2" in one(4, parallel={"tensor": 4}, model={"intermediate_size": 2})


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 24))
def test_heads_fit_as_the_layers_split_them(kv: int, share: int, tensor: int) -> None:
    from pyjpllm.parallel import head_ranges
    from pyjpllm.parallel.tensor import TensorParallel

    fits = heads_fit(kv * share, kv, tensor)
    try:
        head_ranges(kv * share, kv, TensorParallel(rank=0, size=tensor))
    except UserError:
        assert not fits
    else:
        assert fits


EXPERTS: Fields = {"num_experts": 8, "experts_per_token": 2, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"experts_per_token": 9}, "experts_per_token = 9: must be at most model.moe.num_experts = 8"),
        ({"shared_gate": True}, "shared_gate = true: needs a shared expert: write model.moe.shared_size"),
        ({"first_dense_layers": 4}, "first_dense_layers = 4: leaves none of model.num_layers = 4 experts; at most 3"),
        ({"layer_step": 5}, "layer_step = 5: leaves none of model.num_layers = 4 experts; at most 4"),
        ({"intermediate_size": 1}, "intermediate_size = 1: cannot be shared by parallel.tensor = 2 ranks; at least 2"),
        ({"shared_size": 1}, "shared_size = 1: cannot be shared by parallel.tensor = 2 ranks; at least 2"),
    ],
)
def test_experts(fields: Fields, said: str) -> None:
    check_config(config(model={"moe": EXPERTS}, parallel={"tensor": 2}), 2, machine=False, files=False)
    line = one(2, model={"moe": {**EXPERTS, **fields}}, parallel={"tensor": 2})
    assert line == f"model.moe.{said}" or line.startswith(f"model.moe.{said},"), line


def test_ranks_that_share_experts() -> None:
    shared = {"model": {"moe": EXPERTS}, "parallel": {"expert": 2}}
    check_config(config(**shared), 4, machine=False, files=False)
    assert "micro_batch x data-parallel ranks = 2 x 4 = 8" in one(4, **shared, train={"global_batch": 4})
    line = one(3, model={"moe": EXPERTS}, parallel={"expert": 3}, train={"global_batch": 6})
    assert line == "parallel.expert = 3: does not divide model.moe.num_experts = 8; nearest: 2 or 4"
    assert "there is no [model.moe]" in one(2, parallel={"expert": 2})


def test_sequence_parallel_needs_ranks() -> None:
    assert "parallel.tensor, which is 1" in one(1, parallel={"sequence": True})


def test_schedule() -> None:
    assert "must be less than train.steps = 100; at most 99" in one(1, schedule={"warmup_steps": 100})
    line = one(1, schedule={"warmup_steps": 80, "decay_fraction": 0.5})
    assert "is 50 steps" in line
    assert "at most 0.2" in line
    check_config(config(schedule={"warmup_steps": 80, "decay_fraction": 0.2}), 1, machine=False, files=False)
    check_config(
        config(schedule={"kind": "cosine", "warmup_steps": 80, "decay_fraction": 0.5}), 1, machine=False, files=False
    )


def test_lengths() -> None:
    line = one(1, data={"sequence_length": 5000})
    assert "longer than model.max_position = 4096" in line
    assert "model.max_position = 5000" in line
    scaling = {"kind": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}
    assert "model.rope_scaling.low_freq_factor = 4.0" in one(1, model={"rope_scaling": scaling})


@pytest.mark.parametrize(
    ("sections", "field", "right"),
    [
        ({"train": {"kernels": "native"}, "precision": {"dtype": "fp64"}}, "precision.dtype", '"fp32"'),
        ({"train": {"kernels": "reference"}, "precision": {"dtype": "bf16"}}, "precision.dtype", '"fp64"'),
        ({"train": {"kernels": "reference"}, "precision": {"dtype": "fp16"}}, "precision.dtype", '"fp64"'),
        ({"precision": {"dtype": "fp16", "math": "fp16-chunk"}}, "precision.math", '"native" alone'),
        (
            {"train": {"kernels": "native"}, "precision": {"math": "fp16-chunk"}},
            "precision.math",
            '"fp16", which is "fp32"',
        ),
        ({"precision": {"math": "int16"}}, "precision.math", '"native" alone'),
        (
            {"train": {"kernels": "native"}, "precision": {"math": "int16", "math_chunk": 64}},
            "precision.math_chunk",
            'which is "int16"; leave it out',
        ),
        ({"precision": {"loss_scale": 1000}}, "precision.loss_scale", "nearest: 1024"),
        ({"train": {"device": "cuda", "kernels": "native"}}, "train.kernels", '"torch"'),
        ({"train": {"device": "cuda"}, "parallel": {"backend": "mpi4py"}}, "parallel.backend", '"nccl"'),
        ({"parallel": {"backend": "nccl"}}, "parallel.backend", '"mpi4py"'),
        ({"checkpoint": {"interval": 100, "keep_every": 250}}, "checkpoint.keep_every", "200 or 300"),
        ({"checkpoint": {"interval": 0, "keep_every": 250}}, "checkpoint.keep_every", "saves only the last"),
        ({"train": {"eval_interval": 10}}, "train.eval_interval", "data.valid"),
    ],
)
def test_engines_and_intervals(sections: dict[str, Fields], field: str, right: str) -> None:
    line = one(1, **sections)
    assert line.startswith(field)
    assert right in line


def test_fp64_on_a_gpu_is_fine() -> None:
    check_config(config(train={"device": "cuda"}, precision={"dtype": "fp64"}), 1, machine=False, files=False)


def test_several_mistakes_are_all_said() -> None:
    found = lines(3, parallel={"sequence": True}, schedule={"warmup_steps": 500}, train={"eval_interval": 1})
    assert [line.split(" = ")[0] for line in found] == [
        *("parallel.sequence", "train.global_batch", "schedule.warmup_steps", "train.eval_interval")
    ]


def test_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "sees no GPU here" in one(1, machine=True, train={"device": "cuda"})
    assert "pip install ." in one(1, machine=True, train={"kernels": "native"})
    assert "mpi4py is not installed" in one(2, machine=True)
    check_config(config(parallel={"backend": "gloo"}), 2, files=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    return tmp_path


def data(path: str) -> Fields:
    return {"train": [{"path": path}]}


def test_files_are_looked_for(project: Path) -> None:
    check_config(config(data=data("tokens/web"), model={"init_from": "llama"}), 1, machine=False)
    assert "did you mean 'tokens/web'?" in one(1, files=True, data=data("tokens/wep"))
    assert 'write the prefix "tokens/web"' in one(1, files=True, data=data("tokens/web.bin"))
    assert "did you mean 'tokens/heldout'?" in one(1, files=True, data=data("tokens"))
    assert "did you mean 'tokens'?" in one(1, files=True, data=data("token/web"))
    assert "there is no 'zzz'" in one(1, files=True, data=data("zzz/web"))
    for path in ("", ".", "..", "/", "a\0b", "a\nb"):
        assert one(1, files=True, data=data(path)).startswith("data.train.0.path")
    (project / "empty").mkdir()
    assert "it holds no .idx" in one(1, files=True, data=data("empty"))
    (project / "tokens" / "wiki.idx").unlink()
    assert "'tokens/wiki.idx' is missing beside its other half" in one(1, files=True, data=data("tokens/wiki"))
    assert one(1, files=True, data={"valid": [{"path": "tokens/x"}]}).startswith("data.valid.0.path")


def test_the_tokenizer_is_looked_for(project: Path) -> None:
    check_config(config(data={"tokenizer": "tokenizer/tokenizer.model"}), 1, machine=False)
    assert "did you mean 'tokenizer'?" in one(1, files=True, data={"tokenizer": "tokeniser"})
    assert "no tokenizer.model in this folder" in one(1, files=True, data={"tokenizer": "tokens"})
    (project / "tokens" / "ja.model").touch()
    assert "did you mean 'tokens/ja.model'?" in one(1, files=True, data={"tokenizer": "tokens"})


def test_the_folder_to_start_from_is_looked_for(project: Path) -> None:
    assert "did you mean 'llama'?" in one(1, files=True, model={"init_from": "lama"})
    assert "no config.json" in one(1, files=True, model={"init_from": "tokens"})
    (project / "llama" / "model.safetensors").unlink()
    assert "no .safetensors" in one(1, files=True, model={"init_from": "llama"})


def test_the_source_stands_before_each_line() -> None:
    with pytest.raises(ConfigError, match=r"^run\.toml: train\.global_batch = 8"):
        check_config(config(), 3, source="run.toml", machine=False, files=False)
