"""The tables of the prediction, each a list of rows; predict.py prints them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.a64fx import calibration, classes, machine, roofline, step, streams, toolchain, tuning
from benchmarks.a64fx.calibration import Calibration
from benchmarks.a64fx.loops import Row, judge
from benchmarks.a64fx.machine import A64FX
from benchmarks.a64fx.peers.tiles import TILES
from benchmarks.a64fx.roofline import AttentionLoops, Blocking, Prediction, Step

Table = list[dict[str, str]]

# Hidden size, heads and sequence of the published GPT product benchmark (wudu98/fugaku-gpt-gemm-benchmark).
HIDDEN, HEADS, SEQUENCE = 7168, 56, 2048
RANKS = (1, 4, 32)

# tokens/s a node as published: rioyokotalab/DeepSpeedFugaku, experiments/124m_13b_benchmarking (derived from its
# times), with the communication of a node (124M), of 4 nodes (1.3B) and of 20 (13B, which recomputes activations).
PUBLISHED = {"124M": 2884.0, "1.3B": 103.0, "13B": 6.8}


@dataclass(frozen=True)
class Tree:
    """What the tables take from the tree: its loops by llvm-mca, its blocks, and the calibration."""

    rows: Sequence[Row]
    step: Step
    blocking: Blocking
    calibration: Calibration
    passes: dict[str, float]
    attention: AttentionLoops

    @property
    def streamed(self) -> float:
        """Bytes from L2 for each multiply-add of vectors, in the product's loop."""
        kc = self.blocking.k
        return roofline.streamed_bytes(self.step, self.blocking, kc) / (self.step.rows * self.step.vectors)


def read_tree(compiler: str, source: Path) -> Tree:
    """Builds the sve512 units and judges their loops. Raises toolchain.MissingError."""
    toolchain.check_tools(toolchain.Tools())
    with tempfile.TemporaryDirectory() as folder:
        library = toolchain.build(Path(folder), compiler, "sve512", source)
        rows = judge(library, classes.CORES["a64fx"], everything=True)
    numbers = tuning.read_constants(source)
    return Tree(
        rows,
        tuning.gemm_step(rows, numbers),
        tuning.blocking(numbers),
        calibration.calibrate(calibration.points()),
        tuning.pass_cycles(rows),
        tuning.attention_loops(rows),
    )


def percent(x: float, error: float | None = None) -> str:
    return f"{100 * x:.0f}%" if error is None else f"{100 * x:.0f} ± {100 * error:.0f}%"


def gigaflops(found: Prediction) -> str:
    return f"{found.flops / 1e9:.0f} ± {found.error / found.share * found.flops / 1e9:.0f}"


# --- the tables --------------------------------------------------------------------------------------------------


def machine_table(tree: Tree) -> Table:
    return [{"figure": name, "value": value, "source": source} for name, value, source in machine.rows()]


def peers_table(tree: Tree) -> Table:
    known = calibration.points()
    by_stream = calibration.left_out(known, calibration.by_stream)
    by_factor = calibration.left_out(known, calibration.by_factor)
    sources = {tile.name: tile.source for tile in TILES}

    def left_out(found: dict[str, float], point: calibration.Point) -> str:
        return f"{100 * found[point.name]:+.1f}" if point.name in found else "-"

    return [
        {
            "micro-kernel": point.name,
            "llvm-mca": percent(point.bound),
            "from L2, bytes a step": f"{point.streamed_bytes:.0f}",
            "measured": percent(point.measured) if point.measured else "-",
            "model": percent(calibration.by_stream(known, point), tree.calibration.error),
            "left out: by bytes": left_out(by_stream, point),
            "left out: by factor": left_out(by_factor, point),
            "source": sources[point.name],
        }
        for point in known
    ]


def streams_table(tree: Tree) -> Table:
    found = []
    for loop in streams.MEASURED:
        row = {"loop": loop.name, "read, updated, written": ", ".join(map(str, streams.terms(loop)))}
        for level in ("l2", "memory"):
            error = streams.errors(level).get(loop.name)
            row[f"{level}, measured"] = f"{getattr(loop, level):.2f}"
            row[f"{level}, model"] = f"{streams.fit(level).cycles(*streams.terms(loop)):.2f}"
            row[f"{level}, left out"] = "-" if error is None else f"{100 * error:+.0f}%"
        found.append(row)
    return found


def loops_table(tree: Tree) -> Table:
    """One loop a kernel, that whose variant multiplies and adds most; other storage types are left out."""
    best: dict[tuple[str, str, str], Row] = {}

    def name(row: Row) -> str:
        # Attention's products all have one loop inlined; the functions around it tell them apart.
        return row.function if row.kernel.startswith("multiply_step") else row.kernel

    for row in tree.rows:
        key = (row.family, name(row).partition("<")[0], ", ".join(row.fma))
        converts = "16" in row.kernel and set(row.fma) == {"fp32"}
        if row.multiply_adds and not converts and (key not in best or row.multiply_adds > best[key].multiply_adds):
            best[key] = row
    return [
        {
            "family": row.family,
            "kernel": f"`{name(row)}`",
            "multiply-adds": " ".join(f"{count} {name}" for name, count in row.fma.items()),
            "cycles": f"{row.cycles:.1f}",
            "of two a cycle": percent(row.share),
            "sums": str(row.accumulators),
            "loads, stores": f"{row.loads}, {row.stores}",
            "spills": str(row.spills),
        }
        for row in sorted(best.values(), key=lambda row: (row.family, not row.is_product, name(row)))
    ]


def gemm_shapes() -> list[tuple[str, int, int, int]]:
    """(name, M, N, K) of the GPT benchmark's products for some numbers of tensor-parallel ranks."""
    found = []
    for p in RANKS:
        found += [
            (f"QKV, p={p}", SEQUENCE, 3 * HIDDEN // p, HIDDEN),
            (f"projection, p={p}", SEQUENCE, HIDDEN, HIDDEN // p),
            (f"FC1, p={p}", SEQUENCE, 4 * HIDDEN // p, HIDDEN),
            (f"FC2, p={p}", SEQUENCE, HIDDEN, 4 * HIDDEN // p),
        ]
    width = HIDDEN // HEADS
    return [*found, ("QK^T, one head", SEQUENCE, SEQUENCE, width), ("AV, one head", SEQUENCE, width, SEQUENCE)]


def gemm_table(tree: Tree) -> Table:
    found = []
    for name, m, n, k in gemm_shapes():
        core, cmg = (
            roofline.gemm(m, n, k, step=tree.step, blocking=tree.blocking, calibration=tree.calibration, cores=cores)
            for cores in (1, A64FX.cores)
        )
        found.append(
            {
                "product": name,
                "M, N, K": f"{m}, {n}, {k}",
                "core, GF/s": gigaflops(core),
                "of peak": percent(core.share, core.error),
                "CMG, GF/s": gigaflops(cmg),
                "of peak ": percent(cmg.share, cmg.error),
                "memory busy": percent(cmg.parts["memory"] / cmg.cycles),
            }
        )
    return found


def attention_table(tree: Tree) -> Table:
    found = []
    for sequence, width in ((1024, 64), (2048, 64), (2048, 128), (8192, 128)):
        row = {"S": str(sequence), "head": str(width)}
        for backward in (False, True):
            for cores, place in ((1, "core"), (A64FX.cores, "CMG")):
                p = roofline.attention(
                    A64FX.cores, sequence, width, loops=tree.attention, calibration=tree.calibration,
                    streamed=tree.streamed, backward=backward, cores=cores,
                )  # fmt: skip
                row[f"{'backward' if backward else 'forward'}, {place}"] = percent(p.share, p.error)
        found.append(row)
    return found


def passes_table(tree: Tree) -> Table:
    found = []
    for name, (reads, updates, fresh) in tuning.STREAMS.items():
        core, cmg = (
            roofline.stream(1e6, tree.passes[name], reads, updates, fresh, cores=cores) for cores in (1, A64FX.cores)
        )
        moved = 64e6 * (reads + 2 * updates + fresh)
        memory = streams.fit("memory").cycles(reads, updates, fresh)
        found.append(
            {
                "pass": name,
                "streams read, updated, written": f"{reads}, {updates}, {fresh}",
                "arithmetic, cycles a vector": f"{tree.passes[name]:.1f}",
                "one core's memory": f"{memory:.1f}",
                "core, GB/s": f"{moved / core.seconds / 1e9:.0f} ± {core.error * moved / core.seconds / 1e9:.0f}",
                "CMG, GB/s": f"{moved / cmg.seconds / 1e9:.0f} ± {cmg.error * moved / cmg.seconds / 1e9:.0f}",
                "bound by": "memory" if cmg.parts["memory"] >= cmg.parts["own"]
                else "arithmetic" if tree.passes[name] > memory else "the core's lines",
            }
        )  # fmt: skip
    return found


def step_passes(tree: Tree) -> step.Passes:
    p = tree.passes
    return step.Passes(
        norm=(p["norm forward"], p["norm backward"]),
        activation=(p["SwiGLU forward"], p["SwiGLU backward"]),
        rotary=(p.get("rotary", 0.0), p.get("rotary", 0.0)),
        loss=(p["loss forward"], p["loss backward"]),
        adamw=p["AdamW"],
    )


def step_table(tree: Tree) -> Table:
    found = []
    for model in step.MODELS:
        p = step.predict(
            model, step=tree.step, blocking=tree.blocking, calibration=tree.calibration, loops=tree.attention,
            passes=step_passes(tree), streamed=tree.streamed,
        )  # fmt: skip
        node = p.tokens_per_cmg * A64FX.cmgs
        parts = ", ".join(f"{name} {percent(s / p.total)}" for name, s in p.seconds.items() if s / p.total >= 0.005)
        found.append(
            {
                "model": model.name,
                "TP": str(model.tensor_parallel),
                "tokens/s a core": f"{p.tokens_per_cmg / A64FX.cores:.3g}",
                "a CMG": f"{p.tokens_per_cmg:.3g}",
                "a node": f"{node:.3g} ± {node * p.error:.2g}",
                "of peak": percent(p.share, p.share * p.error),
                "published, a node": f"{PUBLISHED[model.name]:g}",
                "where the time goes": parts,
            }
        )
    return found


TABLES: dict[str, Callable[[Tree], Table]] = {
    "machine": machine_table,
    "peers": peers_table,
    "streams": streams_table,
    "loops": loops_table,
    "gemm": gemm_table,
    "attention": attention_table,
    "passes": passes_table,
    "step": step_table,
}
