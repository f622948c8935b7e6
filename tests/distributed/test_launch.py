"""Who am I: launchers' variables, the ways in, and one clear line for what does not fit."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

import pyjpllm.distributed as pd
from pyjpllm import launchers
from pyjpllm.distributed import launch as launching
from pyjpllm.distributed import runtime
from pyjpllm.distributed.launch import Launch, World, detect
from pyjpllm.errors import UserError
from tests.mpi import launch, rank_environment, run_ranks


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, None),
        (
            {
                "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "prterun-n-7@1", "PMIX_RANK": "3", "RANK": "0",
            },
            Launch("openmpi", 3, 8, 1, 2, "prterun-n-7@1"),
        ),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"},
            Launch("hydra", 1, 4, 1, 4, ""),
        ),
        (
            {"PMIX_RANK": "5", "PLE_RANK_ON_NODE": "1", "PJM_JOBID": "99", "PJM_MPI_PROC": "16"},
            Launch("fujitsu", 5, 16, 1, 0, "99"),
        ),
        ({"PMIX_RANK": "5", "PLE_RANK_ON_NODE": "1"}, Launch("fujitsu", 5, 0, 1, 0, "")),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "12"}, None),  # a batch script
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (
            {
                "SLURM_PROCID": "4", "SLURM_STEP_NUM_TASKS": "5", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "12",
                "SLURM_STEP_ID": "3", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_NODEID": "2",
            },
            Launch("slurm", 4, 5, 0, 1, "12.3"),
        ),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, Launch("torchrun", 1, 2, 1, 0, "")),
        ({"RANK": "1"}, None),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"}, Launch("mvapich", 1, 2, 0, 0, "")),
    ],
)  # fmt: skip
def test_detect(env, found):
    assert detect(env) == found


@pytest.fixture
def fresh(monkeypatch):
    """A process that no launcher started and that has started nothing."""
    for names in launchers.VARIABLES:
        for name in names[1:]:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launching, "_world", None)
    return monkeypatch


def as_rank(monkeypatch, size="2"):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", size)


def test_a_plain_python_is_a_world_of_one(fresh):
    assert pd.init() == World(rank=0, size=1, local_rank=0, local_size=1, backend="mpi4py")
    assert not dist.is_initialized()
    assert pd.init().size == 1
    with pytest.raises(UserError, match="already started with backend 'mpi4py', not 'gloo'"):
        pd.init("gloo")
    pd.finalize()
    assert pd.init("gloo").backend == "gloo"
    pd.finalize()


def test_one_rank_under_mpirun_is_a_world_of_one(fresh):
    as_rank(fresh, "1")
    assert pd.init().size == 1
    assert not dist.is_initialized()


def test_importing_and_a_world_of_one_load_no_mpi():
    code = "import sys, pyjpllm.distributed as pd; pd.init(); assert 'mpi4py' not in sys.modules; pd.finalize()"
    subprocess.run([sys.executable, "-c", code], check=True, env=rank_environment())


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_does_not_fit_is_one_line(fresh, tmp_path):
    with pytest.raises(UserError, match="did you mean 'mpi4py'") as error:
        pd.init("mpi4p")
    one_line(error)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="needs a GPU"):
            pd.init("nccl")
    with pytest.raises(UserError, match="deterministic sums need distributed backend 'mpi4py'"):
        pd.init("gloo", deterministic=True)
    fresh.setenv("RANK", "0")
    fresh.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="under torchrun: start with 'mpirun -n N'"):
        pd.init("mpi4py")
    fresh.delenv("RANK")
    fresh.setenv("PMIX_RANK", "0")
    with pytest.raises(UserError, match="tells no world size"):
        pd.init("gloo")


def test_nccl_on_several_nodes_asks_for_an_address(fresh):
    as_rank(fresh, "4")
    fresh.setattr(torch.cuda, "is_available", lambda: True)
    fresh.setattr(torch.cuda, "device_count", lambda: 1)
    fresh.setattr(torch.cuda, "set_device", lambda device: None)
    with pytest.raises(UserError, match="set MASTER_ADDR and MASTER_PORT"):
        pd.init("nccl")
    fresh.setenv("MASTER_ADDR", "node0")
    fresh.setenv("MASTER_PORT", "1234")
    calls = []
    fresh.setattr(dist, "init_process_group", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert pd.init("nccl") == World(0, 4, 0, 1, "nccl")
    assert calls[0][0] == ("nccl", "tcp://node0:1234")
    fresh.setattr(launching, "_world", None)


def test_without_mpi4py_the_line_says_how_to_install(fresh):
    as_rank(fresh)
    real = builtins.__import__

    def no_mpi4py(name, *args, **kwargs):
        if name.split(".")[0] == "mpi4py":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    fresh.setattr(builtins, "__import__", no_mpi4py)
    with pytest.raises(UserError, match="pip install 'mpi4py>=4'") as error:
        pd.init()
    one_line(error)


def test_without_a_library_the_line_says_so(fresh):
    as_rank(fresh)
    real = builtins.__import__

    def broken(name, globals=None, locals=None, fromlist=(), level=0):
        if name == "mpi4py" and fromlist and "MPI" in fromlist:
            raise RuntimeError("cannot load MPI library\nlibmpi.so: cannot open")
        return real(name, globals, locals, fromlist, level)

    fresh.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match="cannot load an MPI library"):
        pd.init()


def test_singletons_of_another_mpi_are_noticed():
    found = Launch("openmpi", 0, 2, 0, 2, "")
    with pytest.raises(UserError, match=r"started 2 ranks but MPI sees 1: .*\(mpi4py uses MPICH Version: 4.2\)"):
        runtime.check_size(found, 1, "MPICH Version: 4.2\nmore")
    runtime.check_size(found, 2, "")
    runtime.check_size(None, 1, "")
    runtime.check_size(Launch("fujitsu", 0, 0, 0, 0, ""), 7, "")


def test_a_mismatched_mpirun_is_one_line():
    """A launcher whose MPI is not mpi4py's: here, one that only sets variables."""
    env = rank_environment({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"})
    code = """
import pyjpllm.distributed as pd
from pyjpllm.errors import UserError
try:
    pd.init()
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert "started 2 ranks but MPI sees 1" in done.stdout


def test_the_store_of_a_job_is_found_by_all_its_ranks(fresh, tmp_path):
    one = Launch("openmpi", 0, 4, 0, 4, "job@1")
    other = Launch("openmpi", 3, 4, 3, 4, "job@1")
    assert launching.job_store_path(one) == launching.job_store_path(other)
    several = Launch("openmpi", 0, 4, 0, 2, "job@1")
    assert launching.job_store_path(several).parent.samefile(os.getcwd())
    fresh.setenv("PYJPLLM_JOB_DIR", str(tmp_path))
    assert launching.job_store_path(several).parent == tmp_path


PLAIN = """
import os, sys, glob
import pyjpllm.distributed
from torch.distributed import init_process_group, get_rank, get_world_size, all_reduce, destroy_process_group, barrier
import torch
init_process_group('mpi4py')
x = torch.ones(3) * (get_rank() + 1)
all_reduce(x)
sockets = [os.readlink(p) for p in glob.glob("/proc/self/fd/*") if os.path.lexists(p)]
inodes = {s[8:-1] for s in sockets if s.startswith("socket:")}
listening = [l.split() for f in ("/proc/net/tcp", "/proc/net/tcp6") if os.path.exists(f) for l in open(f)]
print("rank", get_rank(), "of", get_world_size(), x.tolist())
print("listening", sum(1 for l in listening if l[3] == "0A" and l[9] in inodes))
barrier()
destroy_process_group()
"""


def test_one_import_is_enough_for_any_torch_program_and_no_port_is_opened(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PLAIN)
    quiet = {"OMPI_MCA_btl": "self,sm", "OMPI_MCA_pml": "ob1"}  # Open MPI's own TCP transport would listen
    done = launch([sys.executable, str(path)], 2, env=quiet)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert lines == ["listening 0"] * 2 + [f"rank {r} of 2 [3.0, 3.0, 3.0]" for r in range(2)]


def gloo_by_env(world):
    """``env://`` under mpirun serves gloo too, and leaves no file; torch's barrier through the store works."""
    group = dist.new_group(backend="gloo")
    x = torch.ones(2)
    dist.all_reduce(x, group=group)
    assert x.eq(world.size).all()
    store = dist.distributed_c10d._get_default_store()
    store.set(f"key{world.rank}", f"value{world.rank}")
    other = (world.rank + 1) % world.size
    store.wait([f"key{other}"])
    assert store.get(f"key{other}") == f"value{other}".encode()
    assert store.check([f"key{other}"])
    assert store.add("count", 1) >= 1
    dist.barrier()
    assert store.add("count", 0) == world.size
    if world.rank == 0:
        assert store.compare_set("key0", "value0", "new") == b"new"
        assert store.delete_key("key0")
        assert store.num_keys() >= 2
    dist.barrier()
    return str(launching.LazyFileStore.alive[0].path)


def test_the_store_is_a_real_one_when_somebody_uses_it():
    paths = run_ranks(gloo_by_env, 2, fresh=True)
    assert len(set(paths)) == 1
    assert not os.path.exists(paths[0])
