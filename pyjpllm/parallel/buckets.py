"""How large a bucket of gradients is, by the machine: a few long messages, and several buckets.

A bucket's sum costs our call once, whatever its size, and a message for every other replica; both should be little
beside the time its bytes take. But backward hides all buckets except the last, so there should be several.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyjpllm.distributed.hierarchy import LONGEST_SEGMENT, MESSAGE
from pyjpllm.parallel.flat import ALIGNMENT_BYTES

CALL_S = 45e-6
"""What one collective costs beside its messages: docs/distributed.md, "Measured" (30 us of Python and torch, up to 15
us of handing over)."""
OVERHEAD_SHARE = 0.05
"""The part of a bucket's time that its call and latencies may take."""
FEWEST = 8
"""Buckets that a rank's gradients make up at least, where that leaves them long enough: the last one, which nothing
hides, is then at most an eighth of what travels."""
SHORTEST = 1 << 20
"""Bytes of the smallest bucket."""
PADDING_SHARE = 0.02
"""ZeRO pads a bucket to a multiple of a whole alignment for each replica: at most this part of it."""


@dataclass(frozen=True)
class Network:
    """What connects nodes. Bytes a second in one direction, seconds of a short message."""

    node_bandwidth: float
    link_bandwidth: float
    """What one rank can use of it."""
    latency: float

    def bandwidth(self, ranks_per_node: int) -> float:
        """Of each of so many ranks that send at a time."""
        return min(self.link_bandwidth, self.node_bandwidth / ranks_per_node)


# Ajima et al., The Tofu Interconnect D, CLUSTER 2018: 2 lanes of 28 Gbit/s a port, six interfaces a node.
TOFU_D = Network(node_bandwidth=6 * 6.8e9, link_bandwidth=6.8e9, latency=0.49e-6)
# Assumed: one port of 100 Gbit/s a node, and two microseconds through MPI.
OTHER = Network(node_bandwidth=12.5e9, link_bandwidth=12.5e9, latency=2e-6)


def network_here(cpu_info: Path = Path("/proc/cpuinfo")) -> Network:
    """The network of this machine: Tofu-D where the CPU is Fujitsu's A64FX (implementer 0x46, Arm's list in MIDR_EL1),
    which an FX700 has with another network, too; `OTHER` elsewhere."""
    try:
        text = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return OTHER
    fields = (line.partition(":") for line in text.splitlines())
    fujitsu = any((key.strip(), value.strip()) == ("CPU implementer", "0x46") for key, _, value in fields)
    return TOFU_D if fujitsu else OTHER


def bucket_bytes(
    written_mib: float, *, gradient_bytes: int, replicas: int, ranks_per_node: int, network: Network
) -> int:
    """Bytes of gradients that close a bucket.

    The larger of two: what keeps the call's part of the time at `OVERHEAD_SHARE`, for the 2 B bytes that a rank sends
    of a bucket of B in an all-reduce; and a message of `hierarchy.MESSAGE` to each replica, up to the longest segment,
    past which messages do not grow. But at most a `FEWEST`-th of all gradients; at least `SHORTEST`, and what keeps
    padding at `PADDING_SHARE`.

    Args:
        written_mib: ``parallel.bucket_mib``; above 0 it is the answer.
        gradient_bytes: of this rank's gradients.
        replicas: ranks over which they are summed.
        ranks_per_node: ranks of the job that share a node's network.
    """
    if written_mib > 0:
        return int(written_mib * 2**20)
    fixed = CALL_S + 2 * network.latency
    long_enough = fixed * (1 / OVERHEAD_SHARE - 1) * network.bandwidth(ranks_per_node) / 2
    messages = min(replicas * MESSAGE, LONGEST_SEGMENT)
    return int(
        max(
            SHORTEST,
            replicas * ALIGNMENT_BYTES / PADDING_SHARE,
            min(max(long_enough, messages), gradient_bytes / FEWEST),
        )
    )
