"""A schedule in time as text and as a picture (SVG): a row a rank, time to the right, one box an action."""

from __future__ import annotations

from html import escape

from pyjpllm.parallel.pipeline.table import Action, Kind
from pyjpllm.parallel.pipeline.timeline import Timeline

COLORS = {Kind.F: "#4c78a8", Kind.B: "#54a24b", Kind.W: "#e9b44c", Kind.BW: "#54a24b"}
NAMES = {
    Kind.F: "F, forward",
    Kind.B: "B, gradient of the input",
    Kind.W: "W, gradient of the weights",
    Kind.BW: "BW, both gradients",
}


def text(timeline: Timeline) -> str:
    """Letters and micro-batches, to scale as far as boxes are wide enough; small letters are a rank's later chunks."""
    schedule = timeline.schedule
    labels = [
        [(event, _label(event.action, schedule.chunks_of(rank).index(event.action.chunk))) for event in row]
        for rank, row in enumerate(timeline.rows)
    ]
    widest = max(len(label) for row in labels for _, label in row) + 1
    shortest = min(event.end - event.start for row in labels for event, _ in row if event.end > event.start)
    head = len(f"rank {schedule.ranks - 1} ")
    lines = []
    for rank, row in enumerate(labels):
        line = f"rank {rank} ".ljust(head)
        for event, label in row:
            line = line.ljust(head + round(event.start / shortest * widest), ".")
            line += label.ljust(max(round((event.end - event.start) / shortest * widest) - 1, 0), "-") + " "
        lines.append(line.rstrip())
    return "\n".join(lines)


def _label(action: Action, place: int) -> str:
    letters = action.kind.value
    return f"{letters.lower() if place else letters}{action.micro_batch}"


def svg(timeline: Timeline, width: float = 1120.0, span: float | None = None) -> str:
    """A picture to stand in a page, with what an action is and when it runs under the pointer.

    ``span`` is the time that the whole width stands for, to draw several to one scale; None: this one's.
    """
    schedule, row_height, left = timeline.schedule, 26, 56
    start = min(row[0].start for row in timeline.rows)
    scale = (width - left - 8) / (timeline.length if span is None else span)
    height = schedule.ranks * row_height + 30
    kinds = [kind for kind in Kind if any(event.action.kind is kind for row in timeline.rows for event in row)]
    parts = [
        f'<svg viewBox="0 0 {width:g} {height}" role="img" '
        f'aria-label="{escape(schedule.name)} on {schedule.ranks} ranks" font-family="system-ui, sans-serif" '
        f'font-size="11">'
    ]
    for rank, row in enumerate(timeline.rows):
        top, mine = rank * row_height, schedule.chunks_of(rank)
        parts.append(f'<text x="0" y="{top + 16}" fill="currentColor">rank {rank}</text>')
        parts.append(
            f'<rect x="{left}" y="{top}" width="{timeline.length * scale:.2f}" height="{row_height - 4}" fill="#8882"/>'
        )
        for action, begin, end in row:
            x, wide = left + (begin - start) * scale, (end - begin) * scale
            place = mine.index(action.chunk)
            shade = 1 - 0.35 * place / max(1, len(mine) - 1)
            parts.append(
                f"<g><title>{action}: {begin:g} to {end:g}</title>"
                f'<rect x="{x:.2f}" y="{top}" width="{wide:.2f}" height="{row_height - 4}" '
                f'fill="{COLORS[action.kind]}" fill-opacity="{shade:.2f}" stroke="#fff" stroke-width="0.6"/></g>'
            )
            if wide > 7 * len(str(action.micro_batch)) + 2:
                parts.append(
                    f'<text x="{x + wide / 2:.2f}" y="{top + 15}" text-anchor="middle" fill="#fff" '
                    f'pointer-events="none">{action.micro_batch}</text>'
                )
    x, base = left, schedule.ranks * row_height + 6
    for kind in kinds:
        parts.append(f'<rect x="{x}" y="{base}" width="12" height="12" fill="{COLORS[kind]}"/>')
        parts.append(f'<text x="{x + 17}" y="{base + 10}" fill="currentColor">{NAMES[kind]}</text>')
        x += 190
    if len(schedule.rank_of) > schedule.ranks:
        parts.append(f'<text x="{x}" y="{base + 10}" fill="currentColor">paler: a rank\'s deeper chunks</text>')
    return "\n".join([*parts, "</svg>"])


def page(title: str, drawings: list[tuple[str, Timeline]]) -> str:
    """One HTML page by itself, nothing fetched: of each schedule a line of text and its picture, all to one scale."""
    span = max(timeline.length for _, timeline in drawings)
    sections = "\n".join(f"<h2>{escape(line)}</h2>\n{svg(timeline, span=span)}" for line, timeline in drawings)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        "<style>:root{color-scheme:light dark}body{max-width:1160px;margin:0 auto;padding:20px;"
        "font-family:system-ui,sans-serif}h1{font-size:1.4rem}h2{font-size:1rem;font-weight:500;margin:28px 0 8px}"
        f"svg{{width:100%;height:auto}}</style></head>\n<body><h1>{escape(title)}</h1>\n{sections}\n</body></html>\n"
    )
