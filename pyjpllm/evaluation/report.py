"""The report of a run: its figures in short (terminal, JSON) and one self-contained HTML page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pyjpllm.errors import UserError
from pyjpllm.evaluation import pipeline
from pyjpllm.evaluation.charts import Chart, Line, line_chart, stacked_chart
from pyjpllm.evaluation.metrics import Metrics, Run, Sample, read_run
from pyjpllm.evaluation.page import document, figure, switches, table, tile
from pyjpllm.evaluation.series import short
from pyjpllm.evaluation.summary import Summary, duration, facts, phases_of, size, summarize
from pyjpllm.files import atomic_write

MAX_SAMPLES = 12
"""Texts shown a prompt: the first, the last and evenly spaced ones between."""


def _domain(metrics: Metrics) -> tuple[float, float]:
    if len(metrics.steps) == 0:
        return (0.0, 1.0)
    first, last = float(metrics.steps[0]), float(metrics.steps[-1])
    return (first, last) if last > first else (first - 0.5, last + 0.5)


def _charts(metrics: Metrics, domain: tuple[float, float]) -> list[tuple[Chart, list[str]]]:
    """The charts that have something to show, each with the values its legend shows at rest."""

    def line(name: str, column: str, colour: int, *, sparse: bool = False, scale: float = 1.0) -> Line:
        return Line(name, metrics.steps, metrics.column(column) * scale, colour, sparse)

    found = [
        line_chart(
            "loss",
            "Loss (nats a token)",
            [line("training", "loss", 0), line("validation", "valid_loss", 1, sparse=True)],
            domain,
        ),
        line_chart(
            "bits", "Validation (bits per byte)", [line("validation", "valid_bits_per_byte", 1, sparse=True)], domain
        ),
        line_chart("lr", "Learning rate", [line("rate", "lr", 2)], domain, zero=True),
        line_chart("grad", "Gradient norm, before clipping", [line("norm", "grad_norm", 3)], domain),
        line_chart(
            "speed", "Tokens a second", [line("tokens/s", "tokens_per_second", 5)], domain, zero=True, log=False
        ),
        line_chart("mfu", "MFU (% of peak)", [line("MFU", "mfu", 4, scale=100.0)], domain, zero=True, log=False),
    ]
    if np.isfinite(metrics.column("bubble")).any():
        bubble = [line("idle", "bubble", 7, scale=100.0)]
        found.append(line_chart("bubble", "Pipeline, idle (% of its time)", bubble, domain, zero=True, log=False))
    if np.nansum(metrics.column("z_loss")) > 0:
        found.append(line_chart("z", "z-loss (logged apart from the loss)", [line("z-loss", "z_loss", 6)], domain))
    if (metrics.last("skipped") or 0) > 0:
        found.append(
            line_chart(
                "skipped", "Skipped steps, in all", [line("skipped", "skipped", 1)], domain, zero=True, log=False
            )
        )
    charts = [(chart, [_rest(series["y"]) for series in chart.data["series"]]) for chart in found if chart is not None]
    phases = phases_of(metrics)
    stacked = stacked_chart(
        "phases", "Seconds a step, by phase", list(phases), metrics.steps, list(phases.values()), domain
    )
    if stacked is not None:
        total = sum(part.sum() for part in phases.values())
        charts.append((stacked, [f"{100 * part.sum() / total:.1f}%" for part in phases.values()]))
    return charts


def _rest(values: Sequence[float | None]) -> str:
    return next((short(value) for value in reversed(values) if value is not None), "–")


def _shape(run: Run) -> str:
    """One line: what is trained, in what precision, on what layout."""
    config = run.config
    model, train, parallel = (config.get(name, {}) for name in ("model", "train", "parallel"))
    words = []
    if "hidden_size" in model:
        words.append(
            f"hidden {model['hidden_size']}, {model.get('num_layers')} layers, {model.get('num_heads')} heads "
            f"({model.get('num_kv_heads')} kv), FFN {model.get('intermediate_size')}, "
            f"vocabulary {model.get('vocab_size', 0):,}"
        )
    if "dtype" in config.get("precision", {}):
        words.append(str(config["precision"]["dtype"]).upper())
    if "global_batch" in train:
        words.append(
            f"{train['global_batch']} sequences of {config.get('data', {}).get('sequence_length')} tokens a step"
        )
    if parallel:
        axes = (("dp", "data"), ("tp", "tensor"), ("pp", "pipeline"), ("cp", "context"), ("ep", "expert"))
        layout = [f"{name} {parallel[key]}" for name, key in axes if parallel.get(key, -1) > 0]
        words.append(", ".join(layout) + (", sequence parallel" if parallel.get("sequence") else ""))
    if "kernels" in train:
        words.append(f"{train['kernels']} kernels on {train.get('device')}")
    return " · ".join(word for word in words if word)


def _pick(samples: list[Sample]) -> list[Sample]:
    if len(samples) <= MAX_SAMPLES:
        return samples
    return [samples[round(i * (len(samples) - 1) / (MAX_SAMPLES - 1))] for i in range(MAX_SAMPLES)]


def _samples(run: Run) -> str:
    prompts = dict.fromkeys(sample.prompt for sample in run.samples)
    cards = []
    for prompt in prompts:
        rows = "".join(
            f'<tr><td class="n">{sample.step:,}</td><td class="text" lang="ja">{escape(sample.text)}</td></tr>'
            for sample in _pick([sample for sample in run.samples if sample.prompt == prompt])
        )
        cards.append(
            f'<div class="card"><p class="prompt" lang="ja">{escape(prompt) or "(no prompt)"}</p><table><thead><tr>'
            f'<th class="n">step</th><th>text</th></tr></thead><tbody>{rows}</tbody></table></div>'
        )
    return f'<section id="samples"><h2>Text by step</h2>{"".join(cards)}</section>' if cards else ""


def _checkpoints(run: Run) -> str:
    if not run.checkpoints:
        return ""
    rows = [
        (
            c.name,
            f"{c.step:,}",
            "complete" if c.complete else "no manifest: an interrupted save",
            size(c.bytes),
            f"{c.files}",
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(c.modified)),
        )
        for c in run.checkpoints
    ]
    head = ("folder", "step", "state", "size", "files", "written")
    inner = table(head, rows, (False, True, False, True, True, False))
    return f'<section id="checkpoints"><h2>Checkpoints</h2><div class="card">{inner}</div></section>'


def render(run: Run, summary: Summary) -> str:
    """The page as HTML text."""
    domain = _domain(run.metrics)
    charts = _charts(run.metrics, domain)
    name = run.folder.resolve().name
    state = ("finished", "state") if summary.finished else ("not finished", "state open")
    body = [
        f'<header><h1>{escape(name)}</h1><span class="{state[1]}">{state[0]}</span>'
        f'<div class="sub">{escape(_shape(run))}</div></header>',
        '<div class="tiles">' + "".join(tile(*fact) for fact in facts(summary)) + "</div>",
    ]
    if run.metrics.unreadable:
        body.append(f'<p class="warn">{run.metrics.unreadable} lines of metrics.jsonl could not be read.</p>')
    if run.metrics.rewinds:
        places = ", ".join(f"{step:,}" for step in run.metrics.rewinds[:8])
        body.append(
            f'<p class="soft">Resumed from an older checkpoint at step {places}; only the newest values are shown.</p>'
        )
    if charts:
        body.append(switches())
        body.append('<div class="charts">' + "".join(figure(chart, rest) for chart, rest in charts) + "</div>")
    elif len(run.metrics.steps):
        body.append('<p class="warn">The steps have no finite values.</p>')
    else:
        body.append('<p class="soft">No step has been written yet.</p>')
    body += [_shares(summary), pipeline.section(run.folder), _samples(run), _checkpoints(run)]
    if run.environment:
        rows = [(str(key), _plain(value)) for key, value in run.environment.items()]
        body.append(
            f'<section id="environment"><h2>Machine and software</h2><div class="card">'
            f"{table(('what', 'value'), rows, (False, False))}</div></section>"
        )
    if run.config_text:
        body.append(
            '<section id="config"><h2>Config, resolved</h2><div class="card"><details><summary>config.toml</summary>'
            f"<pre>{escape(run.config_text)}</pre></details></div></section>"
        )
    return document(f"{name}: pyjpllm run", "\n".join(part for part in body if part), [c for c, _ in charts], domain)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _shares(summary: Summary) -> str:
    total = sum(summary.seconds_by_phase.values())
    if not total > 0:
        return ""
    parts = list(enumerate(summary.seconds_by_phase.items()))
    blocks = "".join(
        f'<i class="c{i % 8}" style="flex:{part / total:.6f}" title="{escape(name)} {100 * part / total:.1f}%"></i>'
        for i, (name, part) in parts
    )
    rows = [(name, duration(part), f"{100 * part / total:.1f}%") for _, (name, part) in parts]
    inner = table(("phase", "time", "share"), rows, (False, True, True))
    return (
        f'<section id="time"><h2>Where the time went</h2><div class="card"><div class="shares">{blocks}</div>{inner}'
        "</div></section>"
    )


def write_page(run: Run, summary: Summary, out: Path | None = None) -> Path:
    """Write the page of a run that was read already; see ``write_report``. UserError where it can't be written."""
    target = out if out is not None else run.folder / "report.html"
    if target.is_dir():
        raise UserError(f"--out {target} is a folder; name a file, such as {target / 'report.html'}")
    with atomic_write(target) as temporary:
        temporary.write_text(render(run, summary), encoding="utf-8")
    return target


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of ``run_dir`` to ``out`` (default: ``report.html`` in the run folder) and return its path.

    UserError when ``run_dir`` is no run folder.
    """
    run = read_run(run_dir)
    return write_page(run, summarize(run), out)
