"""The pipeline's part of a report: the last step that was drawn, and the same table with nothing to wait for."""

from __future__ import annotations

import json
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

from pyjpllm.parallel.pipeline import Action, Costs, Event, Kind, Schedule, Timeline, draw, simulate


def read_timeline(path: Path) -> tuple[int, Timeline] | None:
    """The step and the timeline in a run's ``pipeline.json``; None where it has no such content."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        rows = tuple(
            tuple(
                Event(Action(Kind(kind), chunk, micro_batch), start, end)
                for kind, chunk, micro_batch, start, end in row
            )
            for row in found["rows"]
        )
        table = tuple(tuple(event.action for event in row) for row in rows)
        schedule = Schedule(found["schedule"], tuple(found["rank_of"]), found["micro_batches"], table)
        return found["step"], Timeline(schedule, rows)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def planned(measured: Timeline) -> Timeline:
    """The same table where each action takes the mean time that its kind took in its chunk, and messages take none."""
    times: dict[tuple[Kind, int], list[float]] = defaultdict(list)
    for row in measured.rows:
        for action, start, end in row:
            times[action.kind, action.chunk].append(end - start)

    def mean(*kinds: Kind) -> tuple[float, ...]:
        taken = ([time for kind in kinds for time in times[kind, chunk]] for chunk in range(measured.schedule.chunks))
        return tuple(sum(some) / len(some) if some else 0.0 for some in taken)

    return simulate(measured.schedule, Costs(mean(Kind.F), mean(Kind.B, Kind.BW), mean(Kind.W)))


def section(folder: Path) -> str:
    """The report's section as HTML, empty for a run without a pipeline."""
    path = folder / "pipeline.json"
    if not path.exists():
        return ""
    found = read_timeline(path)
    if found is None:
        return f'<p class="warn">{escape(path.name)} could not be read: the pipeline is not drawn.</p>'
    step, measured = found
    plan = planned(measured)
    span = max(measured.length, plan.length)
    pictures = "".join(
        f'<div class="card"><p class="soft">{escape(text)}: {timeline.bubble:.1%} idle, '
        f"{timeline.length:.3g} s</p>{draw.svg(timeline, span=span)}</div>"
        for text, timeline in (
            (f"{measured.schedule.name}, measured at step {step:,}", measured),
            ("planned: the same actions at their mean times, messages taking none", plan),
        )
    )
    return f'<section id="pipeline"><h2>Pipeline</h2>{pictures}</section>'
