"""ZeRO-3: what a rank holds, how it starts, 16 bits, faults. That it trains as one process does is in `test_matrix`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyjpllm.config.schema import Config
from pyjpllm.distributed import World, make_mesh
from pyjpllm.model import Transformer, initialize
from pyjpllm.model.huggingface import export
from pyjpllm.parallel import pieces_of
from pyjpllm.parallel.sharded import ShardedDataParallel, ShardedParameters
from pyjpllm.training.build import Built, build
from pyjpllm.training.metrics import Timers
from pyjpllm.training.optimizer import AdamW
from pyjpllm.training.step import accumulate_gradients
from tests.mpi import run_ranks
from tests.parallel import matrix
from tests.parallel import reference as one
from tests.parallel.matrix import CPU

MIXTURE = matrix.Case("experts", 1, 2, 1, 2, 1, "zb-v", 3, "ring", False, "cheap")


def config_of(case: matrix.Case, dtype: str = "fp32", **parallel: object) -> Config:
    config = case.config().model_dump()
    config["precision"]["dtype"] = dtype
    config["parallel"].update(parallel)
    return Config.model_validate(config)


def on_mesh(world: World, config: Config, *, weights: bool = True) -> Built:
    parallel = config.parallel
    mesh = make_mesh(world, dp=parallel.data, tp=parallel.tensor, ep=parallel.expert)
    return build(config, mesh, CPU, weights=weights)


def step(built: Built, config: Config, world: World, index: int = 0) -> None:
    """Gradients of one global batch."""
    mesh = make_mesh(world, dp=config.parallel.data, tp=config.parallel.tensor, ep=config.parallel.expert)
    accumulate_gradients(
        built.model,
        built.data_parallel,
        matrix.micro_batches(config, mesh, built.model, index),
        count=torch.tensor(100.0, dtype=torch.float64),
        z_loss=0.0,
        timers=Timers(CPU),
    )


def storage_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def what_a_rank_holds(world: World) -> dict[str, float]:
    config = config_of(MIXTURE)
    built = on_mesh(world, config)
    assert isinstance(built.parameters, ShardedParameters)
    optimizer = AdamW(built.parameters, config.optimizer)
    step(built, config, world)
    optimizer.step(1e-3, 1.0)
    parts = [part for group in built.parameters.groups for part in group.parts]
    whole = Transformer(config.model, device="meta")
    gathered = [
        param._unsharded_param
        for module in built.model.modules()
        if (state := getattr(module, "_get_fsdp_state", None)) is not None
        for group in state()._fsdp_param_groups
        for param in group.fsdp_params
    ]
    return {
        "weights": sum(part.master.numel() for part in parts),
        "gradients": sum(part.grad.numel() for part in parts),
        "moments": sum(moment.numel() for moment in optimizer.exp_avg) * 1.0,
        "gathered": storage_bytes(gathered),
        "all": sum(param.numel() for param in whole.parameters()),
    }


def test_a_rank_holds_its_shards_alone() -> None:
    """Four replicas: a quarter of everything together, and after a step nothing is left of what was gathered."""
    ranks = run_ranks(what_a_rank_holds, 4)
    whole = ranks[0]["all"]
    for kind in ("weights", "gradients", "moments"):
        assert sum(rank[kind] for rank in ranks) == whole, kind
        assert max(rank[kind] for rank in ranks) < 0.3 * whole, kind
    assert {rank["gathered"] for rank in ranks} == {0}


def starts(world: World, folder: str, expected: dict[str, torch.Tensor]) -> list[str]:
    """The names of what starts otherwise than in one process: from a seed, and from a folder."""
    wrong = []
    config = config_of(MIXTURE)
    for init_from in (None, folder):
        model = one.MIXTURES["8 experts"].model_copy(update={"init_from": init_from})
        built = on_mesh(world, config.model_copy(update={"model": model}))
        for name, piece, layout in pieces_of(built.model):
            if not torch.equal(piece, expected[name][layout.index]):
                wrong.append(f"{name} from {init_from}")
        assert all(bool((buffer == 0).all()) for buffer in built.model.buffers())
    return wrong


def test_starts_as_one_process(tmp_path: Path) -> None:
    whole = Transformer(one.MIXTURES["8 experts"])
    initialize(whole, config_of(MIXTURE).train.seed)
    state = {name: param.detach() for name, param in whole.named_parameters()}
    export(state, whole.config, tmp_path)
    assert run_ranks(starts, 4, str(tmp_path), state) == [[]] * 4


def sixteen_bits(world: World, zero: int, sixteen: bool) -> dict[str, torch.Tensor]:
    """Pieces of the master weights after five BF16 steps, by name and place."""
    case = matrix.Case("dense", 1, 2, 1, 1, 1, "zb-v", zero, "ring", False, "cheap")
    config = config_of(case, "bf16", gradient_dtype="model" if sixteen else "fp32")
    built = on_mesh(world, config)
    optimizer = AdamW(built.parameters, config.optimizer)
    for index in range(5):
        step(built, config, world, index)
        optimizer.step(one.LR, 1.0)
        built.parameters.zero_grad()
    return {f"{p.name} {p.layout.slices}": p.tensors["master"].clone() for p in optimizer.pieces()}


def differences(world: World) -> dict[str, float]:
    whole = sixteen_bits(world, 0, False)
    found = {}
    for sixteen in (False, True):
        total, count = 0.0, 0
        for key, piece in sixteen_bits(world, 3, sixteen).items():
            name, _, slices = key.partition(" ")
            same = next(value for other, value in whole.items() if other.startswith(f"{name} "))
            index = tuple(slice(*bounds) for bounds in eval(slices))
            total += float((piece - same[index]).abs().sum())
            count += piece.numel()
        found["16 bits" if sixteen else "32 bits"] = total / count
    return found


@pytest.mark.parametrize("backend", ["mpi4py", "gloo"])
def test_sixteen_bits(backend: str) -> None:
    """As `test_zero.test_sixteen_bits` has it: Adam turns where a gradient is near zero; BF16 messages round."""
    for found in run_ranks(differences, 2, backend=backend):
        assert found["32 bits"] < 0.01 * one.LR * 5, found
        assert found["16 bits"] < 0.05 * one.LR * 5, found


def fails(world: World) -> list[str]:
    config = config_of(MIXTURE)
    data_parallel = on_mesh(world, config).data_parallel
    assert isinstance(data_parallel, ShardedDataParallel)
    said = []
    with pytest.raises(ValueError, match="not those of some parameters"), data_parallel.accumulate(True, {"a"}):
        pass
    try:
        with data_parallel.accumulate(True):
            raise FloatingPointError("a backward that fails")
    except FloatingPointError as error:
        said.append(str(error))
    try:
        data_parallel.finish()
    except RuntimeError as error:
        said.append(str(error))
    return said


def test_a_step_that_failed_is_refused() -> None:
    expected = ["a backward that fails", "the backward of this step failed: its gradients are not whole on every rank"]
    assert run_ranks(fails, 4) == [expected] * 4
