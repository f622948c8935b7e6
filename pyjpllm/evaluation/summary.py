"""A run in a few figures: for the terminal, for programs, and for the head of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from pyjpllm.config.schema import ModelConfig
from pyjpllm.evaluation.metrics import Floats, Metrics, Run
from pyjpllm.evaluation.series import short

PHASES = ("forward", "backward", "communicate", "optimizer", "data", "checkpoint", "evaluate")
"""Order of the phases from the bottom up; any other follows, then what no phase accounts for."""


@dataclass(frozen=True)
class Summary:
    """The run in a few figures; None where the run has not written any yet."""

    run: str
    step: int | None
    """The last step in the metrics."""
    steps: int | None
    """Steps that the config asks for."""
    finished: bool
    tokens: int | None
    loss: float | None
    """Mean over the last 20 steps."""
    valid_loss: float | None
    valid_bits_per_byte: float | None
    best_valid_loss: float | None
    best_valid_step: int | None
    tokens_per_second: float | None
    """Median over all steps."""
    mfu: float | None
    """Median over all steps, as a part of 1."""
    skipped: int
    seconds: float
    """Sum of the steps' seconds."""
    seconds_by_phase: dict[str, float]
    parameters: int | None
    checkpoints: int
    """Complete ones."""
    unreadable_lines: int


def _median(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def phases_of(metrics: Metrics) -> dict[str, Floats]:
    """Seconds of each step by phase, ``other`` being what the total has beyond the named ones."""
    prefix = "seconds."
    found = [name.removeprefix(prefix) for name in metrics.columns if name.startswith(prefix)]
    names = [name for name in PHASES if name in found] + sorted(set(found) - set(PHASES) - {"total"})
    parts = {name: np.nan_to_num(metrics.column(prefix + name), posinf=0.0, neginf=0.0) for name in names}
    if "total" in found:
        named = np.sum([*parts.values(), np.zeros(len(metrics.steps))], axis=0)
        other = np.maximum(np.nan_to_num(metrics.column(prefix + "total")) - named, 0.0)
        if other.sum() > 0:
            parts["other"] = other
    return parts


def _parameters(config: dict[str, Any]) -> int | None:
    """Parameters of the model of a resolved config; None where the config is not there or not resolved."""
    try:
        model = ModelConfig.model_validate(config.get("model", {}))
    except ValidationError:
        return None
    from pyjpllm.model.flops import count_parameters

    return count_parameters(model)


def summarize(run: Run) -> Summary:
    """The figures of ``run``."""
    metrics = run.metrics
    valid = metrics.column("valid_loss")
    best = int(np.nanargmin(valid)) if np.isfinite(valid).any() else None
    recent = metrics.column("loss")[-20:]
    recent = recent[np.isfinite(recent)]
    steps = run.config.get("train", {}).get("steps")
    last = int(metrics.steps[-1]) if len(metrics.steps) else None
    seconds = phases_of(metrics)
    return Summary(
        run=str(run.folder),
        step=last,
        steps=steps,
        finished=last is not None and last == steps,
        tokens=_whole(metrics.last("tokens")),
        loss=float(recent.mean()) if len(recent) else None,
        valid_loss=metrics.last("valid_loss"),
        valid_bits_per_byte=metrics.last("valid_bits_per_byte"),
        best_valid_loss=None if best is None else float(valid[best]),
        best_valid_step=None if best is None else int(metrics.steps[best]),
        tokens_per_second=_median(metrics.column("tokens_per_second")),
        mfu=_median(metrics.column("mfu")),
        skipped=_whole(metrics.last("skipped")) or 0,
        seconds=float(sum(part.sum() for part in seconds.values())),
        seconds_by_phase={name: float(part.sum()) for name, part in seconds.items()},
        parameters=_parameters(run.config),
        checkpoints=sum(checkpoint.complete for checkpoint in run.checkpoints),
        unreadable_lines=metrics.unreadable,
    )


def duration(seconds: float) -> str:
    """``3 h 12 min``, ``4 min 05 s``, ``12.3 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def facts(summary: Summary) -> list[tuple[str, str, str]]:
    """What is known of the run, as (label, value, explanation)."""
    progress = "none yet" if summary.step is None else f"{summary.step:,}"
    if summary.steps is not None and not summary.finished:
        progress += f" of {summary.steps:,}"
    best_at = f"at step {summary.best_valid_step}"
    parameters, tokens = summary.parameters, summary.tokens
    mfu = None if summary.mfu is None else 100 * summary.mfu
    known = [
        ("steps", progress, "the last step in metrics.jsonl"),
        ("training loss", _form(summary.loss, ".4f"), "nats a token, mean of the last 20 steps"),
        ("validation loss", _form(summary.valid_loss, ".4f"), "nats a token, at the last evaluation"),
        ("validation bits per byte", _form(summary.valid_bits_per_byte, ".4f"), "at the last evaluation"),
        ("best validation loss", _form(summary.best_valid_loss, ".4f"), best_at),
        ("parameters", "" if parameters is None else short(parameters), f"{parameters or 0:,}"),
        ("tokens seen", "" if tokens is None else short(tokens), f"{tokens or 0:,}"),
        ("tokens/s", "" if summary.tokens_per_second is None else short(summary.tokens_per_second), "median of steps"),
        ("MFU (%)", _form(mfu, ".1f"), "model FLOP/s as a part of the machine's peak, median of steps"),
        ("time in steps", duration(summary.seconds) if summary.seconds else "", "sum of the steps' seconds"),
        ("skipped steps", f"{summary.skipped}", "steps whose loss or gradient was not finite"),
        ("checkpoints", f"{summary.checkpoints}", "complete ones in the run folder"),
    ]
    return [fact for fact in known if fact[1]]


def _form(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def summary_lines(summary: Summary) -> list[str]:
    """The summary as plain lines for a terminal."""
    rows = [(label, value) for label, value, _ in facts(summary)]
    total = sum(summary.seconds_by_phase.values())
    if total > 0:
        shares = sorted(summary.seconds_by_phase.items(), key=lambda item: -item[1])
        rows.append(("time by phase", "  ".join(f"{name} {100 * part / total:.1f}%" for name, part in shares)))
    if summary.unreadable_lines:
        rows.append(("unreadable lines", f"{summary.unreadable_lines} in metrics.jsonl"))
    width = max(len(label) for label, _ in rows)
    return [f"{label:<{width}}  {value}" for label, value in rows]


def summary_dict(summary: Summary) -> dict[str, Any]:
    """The summary as JSON values."""
    return asdict(summary)
