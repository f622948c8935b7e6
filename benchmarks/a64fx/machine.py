"""A64FX in numbers, each with where it was read. Cycles are the core's; rates are of a core or of a CMG (12 cores).

[M] A64FX Microarchitecture Manual 1.8.1. [E] the measurements behind Alappat and others, "Performance modeling of
streaming kernels and sparse matrix-vector multiplication on A64FX" (PMBS 2020): github.com/RRZE-HPC/pmbs2020-paper-
artifact, single_core/stream/results, an FX700 at 1.8 GHz with pages of 64 KiB. [H] Yoshida, Hot Chips 30 (2018).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Machine:
    """The figures that the model uses; see SOURCES for each one's origin."""

    frequency: float = 2.0e9
    cores: int = 12
    cmgs: int = 4
    fma_per_cycle: float = 2.0
    lanes: int = 16
    l1_bytes: int = 64 << 10
    l2_bytes: int = 8 << 20
    line_bytes: int = 256
    l1_load: float = 128.0
    l1_store: float = 64.0
    l2_core: float = 64.0
    l2_core_out: float = 32.0
    l2_cmg: float = 512.0
    hbm_read: float = 256.0e9
    hbm_write: float = 128.0e9
    hbm_share: float = 0.81
    page_bytes: int = 2 << 20
    tlb_pages: int = 1024
    page_walk: float = 290.0

    @property
    def peak_core(self) -> float:
        """FP32 flop/s of a core."""
        return 2 * self.fma_per_cycle * self.lanes * self.frequency

    @property
    def peak_cmg(self) -> float:
        return self.peak_core * self.cores

    @property
    def peak_node(self) -> float:
        return self.peak_cmg * self.cmgs

    @property
    def hbm_cmg(self) -> float:
        """Bytes a second that one CMG sustains, reads and writes together in the mix of a triad."""
        return self.hbm_read * self.hbm_share


SOURCES = {
    "frequency": "2.0 GHz; 2.2 in boost mode",
    "cores": "[M] compute cores of a CMG",
    "cmgs": "[M] CMGs of a node",
    "fma_per_cycle": "[M] pipes FLA and FLB, latency 9",
    "lanes": "[M] FP32 in 512 bits",
    "l1_bytes": "[M] 4-way",
    "l2_bytes": "[M] of a CMG, 16-way, 46-56 cycles",
    "line_bytes": "[M]",
    "l1_load": "[M] bytes a cycle: two loads of 64, or one store",
    "l1_store": "[M] bytes a cycle; the data pass through FLA",
    "l2_core": "[M] bytes a cycle to one core",
    "l2_core_out": "[M] bytes a cycle from one core",
    "l2_cmg": "[M] bytes a cycle to all cores of a CMG",
    "hbm_read": "[M] of a CMG",
    "hbm_write": "[M] of a CMG",
    "hbm_share": "[H] STREAM triad 830 of 1024 GB/s a node",
    "page_bytes": "Fugaku's default: huge pages",
    "tlb_pages": "[M] second level of the data TLB",
    "page_walk": "[E] cycles; seven loops get dearer by 0.28 cycles a 64-byte vector once 1024 pages are passed",
}

A64FX = Machine()
BOOST = replace(A64FX, frequency=2.2e9)


def rows(machine: Machine = A64FX) -> list[tuple[str, str, str]]:
    """(name, value, source) of every figure, for the documents."""
    return [(f.name, f"{getattr(machine, f.name):g}", SOURCES[f.name]) for f in fields(machine)]
