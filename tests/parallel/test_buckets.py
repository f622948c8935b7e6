"""The size of a bucket: what is written, or bounds that hold for every machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pyjpllm.parallel import buckets
from pyjpllm.parallel.buckets import OTHER, TOFU_D, Network, bucket_bytes, network_here
from pyjpllm.parallel.flat import ALIGNMENT_BYTES, FlatGroup

MIB = 2**20
networks = st.sampled_from([TOFU_D, OTHER])


def chosen(gradient_bytes: int, replicas: int = 8, ranks_per_node: int = 4, network: Network = TOFU_D) -> int:
    return bucket_bytes(
        0.0, gradient_bytes=gradient_bytes, replicas=replicas, ranks_per_node=ranks_per_node, network=network
    )


@given(st.integers(0, 10**11), st.integers(1, 10**5), st.integers(1, 64), networks)
def test_bounds(gradient_bytes: int, replicas: int, ranks_per_node: int, network: Network) -> None:
    size = chosen(gradient_bytes, replicas, ranks_per_node, network)
    least = max(MIB, replicas * ALIGNMENT_BYTES * 50)
    assert size >= least
    assert size <= max(least, gradient_bytes / 8)  # several buckets
    assert size <= max(least, 64 * MIB)
    assert replicas * ALIGNMENT_BYTES <= 0.02 * size  # what ZeRO pads at most


@given(st.integers(0, 10**11), st.integers(0, 10**11), st.integers(1, 10**4), st.integers(1, 10**4), networks)
def test_more_gradients_or_replicas_make_no_smaller_buckets(
    bytes_a: int, bytes_b: int, replicas_a: int, replicas_b: int, network: Network
) -> None:
    fewer, more = sorted((bytes_a, bytes_b)), sorted((replicas_a, replicas_b))
    sizes = [chosen(bytes_, replicas, 4, network) for bytes_, replicas in zip(fewer, more, strict=True)]
    assert sizes == sorted(sizes)


@given(st.integers(0, 10**11), st.integers(1, 10**4), st.integers(1, 63), networks)
def test_ranks_that_share_a_network_make_no_larger_ones(
    gradient_bytes: int, replicas: int, ranks_per_node: int, network: Network
) -> None:
    sizes = [chosen(gradient_bytes, replicas, ranks, network) for ranks in (ranks_per_node + 1, ranks_per_node)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("network", [TOFU_D, OTHER])
def test_a_call_costs_a_twentieth_of_the_time(network: Network) -> None:
    size = chosen(10**11, replicas=2, ranks_per_node=1, network=network)
    fixed = buckets.CALL_S + 2 * network.latency
    assert fixed / (fixed + 2 * size / network.bandwidth(1)) == pytest.approx(0.05, rel=1e-3)


def test_some_sizes() -> None:
    assert bucket_bytes(0.25, gradient_bytes=1, replicas=9, ranks_per_node=1, network=OTHER) == MIB // 4
    assert chosen(4 * 10**6) == MIB  # a small model
    assert chosen(10**9, replicas=288) == 288 * 65_536  # messages of 64 KiB
    assert chosen(8 * 10**7, replicas=288) == 10**7  # eight buckets
    assert TOFU_D.bandwidth(4) == 6.8e9
    assert OTHER.bandwidth(4) == 12.5e9 / 4


def test_padding_with_thousands_of_replicas() -> None:
    replicas = 4096
    named = [(f"w{i}", nn.Parameter(torch.empty(4000, 4001, device="meta"))) for i in range(40)]
    numel = sum(param.numel() for _, param in named)
    size = chosen(4 * numel, replicas)
    group = FlatGroup(
        named,
        weight_decay=True,
        master_dtype=torch.float32,
        model_dtype=torch.float32,
        bucket_bytes=size,
        zero=1,
        shards=replicas,
    )
    assert len(group.buckets) >= 8
    assert group.grad.numel() <= 1.02 * numel


def test_which_network(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    assert network_here(info) is OTHER
    info.write_text("processor\t: 0\nCPU implementer\t: 0x46\nCPU part\t: 0x001\n")
    assert network_here(info) is TOFU_D
    info.write_text("model name\t: Some 0x46\n")
    assert network_here(info) is OTHER
