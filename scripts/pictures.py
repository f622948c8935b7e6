"""Draws the pictures of docs/parallelism.md that are made by rule: one file a form, in one style.

    python scripts/pictures.py [FOLDER]        # docs/images

The pipeline's is the real table, drawn by what `jpllm plan schedule --html` draws with.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from pyjpllm.files import atomic_write
from pyjpllm.parallel.pipeline import Costs, draw, named, simulate

STYLE = (
    ".t{font-size:16px;font-weight:600}.s{fill:#4a5a68}.l{text-anchor:start}"
    ".a{stroke:#5b6b7a;stroke-width:1.6;fill:none}"
)
FONT = (
    'font-family="\'Noto Sans\',\'Noto Sans CJK JP\',Helvetica,Arial,sans-serif" font-size="13" text-anchor="middle" '
    'fill="#1b2733" color="#1b2733"'
)
HEAD = (
    '<defs><marker id="h" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 L10 5 L0 10 z" fill="#5b6b7a"/></marker></defs>'
)
# By rank, fill and edge; then what is nobody's own.
COLORS = (("#dce8f7", "#5c86c4"), ("#e0f0e0", "#6aa56a"), ("#fbeccb", "#d8a53a"), ("#f3dfea", "#b86a9a"))
PLAIN, EMPTY = ("#eef1f4", "#9aa7b2"), ("#ffffff", "#d5dce2")
Color = tuple[str, str]


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """One line; `kind` is of STYLE."""
    return f'<text x="{x:g}" y="{y:g}"' + (f' class="{kind}"' if kind else "") + f">{escape(words)}</text>"


def box(x: float, y: float, width: float, height: float, color: Color, words: str = "", below: str = "") -> str:
    """A box with a word or two in it."""
    fill, edge = color
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" fill="{fill}" stroke="{edge}"/>'
    middle, centre = y + height / 2 + 4.5, x + width / 2
    if below:
        return shape + text(centre, middle - 8, words) + text(centre, middle + 9, below, "s")
    return shape + (text(centre, middle, words) if words else "")


def arrow(*points: tuple[float, float]) -> str:
    """A line through the points, with a head at its end."""
    path = " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{path}" class="a" marker-end="url(#h)"/>'


def picture(width: int, height: int, title: str, described: str, parts: Sequence[str]) -> str:
    """The file: a light sheet of its own, so that it is read on dark pages, too."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-labelledby="title desc" {FONT}>',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="desc">{escape(described)}</desc>',
            f"<style>{STYLE}</style>",
            HEAD,
            f'<rect width="{width}" height="{height}" rx="14" fill="#fbfcfd" stroke="#dfe5ea"/>',
            *parts,
            "</svg>\n",
        ]
    )


def data() -> str:
    """Buckets over time."""
    parts = [text(430, 32, "Buckets leave while backward goes on", "t")]
    left, step, tops = 330, 66, (60, 208)
    for rank, top in enumerate(tops):
        color = COLORS[rank]
        parts.append(text(20, top + 22, f"rank {rank}", "l"))
        parts += [box(84, top, 50, 34, color, "F"), box(136, top, 100, 34, color, "B")]
        parts.append(box(250, top, 78, 34, color, "F"))
        parts += [box(left + step * i, top, step, 34, color, f"B of {name}") for i, name in enumerate("edcba")]
        parts.append(box(752, top, 84, 34, color, "optimizer"))
    parts.append(text(160, 122, "first micro-batch: its", "s"))
    parts.append(text(160, 140, "gradients are added", "s"))
    parts.append(text(160, 158, "up where they are", "s"))
    parts += [text(284, 122, "last", "s"), text(284, 140, "micro-batch", "s")]
    for i, name in enumerate("edcba"):
        x, end = left + step * i + step + 6, left + step * (i + 1)
        parts.append(box(x, 134, 56, 34, PLAIN, name))
        parts += [arrow((end, 94), (x + 18, 131)), arrow((end, 208), (x + 18, 171))]
    parts += [arrow((724, 134), (750, 97)), arrow((724, 168), (750, 205))]
    parts.append(text(270, 272, "F: forward, B: backward", "s"))
    parts.append(text(600, 272, "buckets summed over the ranks, in one order on all", "s"))
    parts.append(arrow((84, 290), (836, 290)))
    parts.append(text(108, 282, "time", "s"))
    return picture(
        860,
        306,
        "Data parallel: buckets of gradients over time",
        "Two ranks compute forward and backward of their own micro-batches. In the last one's backward each bucket "
        "of gradients is summed over the ranks as soon as it is complete, while backward goes on; the optimizer "
        "follows the last bucket.",
        parts,
    )


def zero() -> str:
    """What each of four ranks holds, by stage."""
    kinds = ("values", "grads", "master", "m, v")
    travels = (
        ("all-reduce", "of gradients"),
        ("reduce-scatter of gradients,", "all-gather of values"),
        ("reduce-scatter each", "micro-batch, all-gather"),
        ("all-gather of a block twice,", "reduce-scatter"),
    )
    parts = [text(22, 34, "What each of four ranks holds", "t l")]
    for rank in range(4):
        parts.append(text(22, 124 + 34 * rank, f"rank {rank}", "l"))
    for stage in range(4):
        left = 84 + 226 * stage
        parts.append(text(left + 104, 66, f"zero = {stage}", "t"))
        for place, kind in enumerate(kinds):
            x = left + 53 * place
            parts.append(text(x + 24, 92, kind, "s"))
            whole = stage < (3, 2, 1, 1)[place]
            for rank in range(4):
                for piece in range(4):
                    color = COLORS[piece] if whole or piece == rank else EMPTY
                    parts.append(box(x + 12 * piece, 106 + 34 * rank, 11, 24, color))
        parts += [text(left + 104, 264, travels[stage][0], "s"), text(left + 104, 282, travels[stage][1], "s")]
    return picture(
        1000,
        300,
        "ZeRO: what each of four replicas holds",
        "Values, gradients, master weights and moments in four slices each. Without ZeRO every rank holds all slices; "
        "with stage 1 its own slice of master and moments, with 2 of the gradients too, with 3 of the values too.",
        parts,
    )


def _matrix(x: float, y: float, rank: int, by: str, name: str) -> list[str]:
    """A weight matrix with the rank's half: its columns are outputs, its rows inputs."""
    parts = [box(x, y, 48, 48, EMPTY)]
    halves = [(x, y, 24, 48), (x + 24, y, 24, 48)] if by == "outputs" else [(x, y, 48, 24), (x, y + 24, 48, 24)]
    return [*parts, box(*halves[rank], COLORS[rank]), text(x + 24, y - 7, name)]


def tensor() -> str:
    """The split matrices of a block on two ranks."""
    parts = [text(480, 32, "A block on two ranks: every matrix split, two sums", "t")]
    columns = ((112, "outputs", "q k v"), (286, "inputs", "o"), (530, "outputs", "gate up"), (704, "inputs", "down"))
    for rank, top in enumerate((76, 202)):
        middle = top + 24
        parts += [text(16, middle + 5, f"rank {rank}", "l"), box(66, top + 4, 20, 40, PLAIN, "x")]
        parts.append(arrow((88, middle), (109, middle)))
        for x, by, name in columns:
            parts += _matrix(x, top, rank, by, name)
        between = (("its heads", 178), ("its width", 596))
        for words, x in between:
            parts += [arrow((x - 16, middle), (x, middle)), box(x + 3, top + 6, 84, 36, COLORS[rank], words)]
            parts.append(arrow((x + 89, middle), (x + 105, middle)))
        for x in (336, 754):
            parts.append(arrow((x, middle), (x + 40, middle), (x + 52, 160 if rank == 0 else 170)))
        for x in (432, 850):
            parts.append(arrow((x - 12, 160 if rank == 0 else 170), (x + 8, middle), (x + 20, middle)))
            parts.append(box(x + 23, top + 4, 20, 40, PLAIN, "x"))
        parts.append(arrow((477, middle), (527, middle)))
    for x in (404, 822):
        parts.append(f'<circle cx="{x}" cy="165" r="17" fill="#fff7e6" stroke="#d8a53a"/>')
        parts.append(text(x, 170, "sum"))
    parts.append(text(228, 282, "split by outputs, then by inputs", "s"))
    parts.append(text(646, 282, "the same in the feed-forward", "s"))
    return picture(
        960,
        302,
        "Tensor parallel: a block on two ranks",
        "Both ranks have the same residual stream x. Queries, keys, values, gate and up are split by outputs, the "
        "output projections by inputs; one sum over the ranks follows attention, another the feed-forward.",
        parts,
    )


def sequence() -> str:
    """Tokens between and inside the split matrices."""
    parts = [text(480, 32, "Between the split matrices a rank holds its part of the tokens", "t")]

    def tokens(x: float, top: float, rank: int, whole: bool) -> list[str]:
        here = range(8) if whole else range(4 * rank, 4 * rank + 4)
        return [box(x, top + 9 * i, 26, 8, COLORS[i // 4] if i in here else EMPTY) for i in range(8)]

    for rank, top in enumerate((72, 196)):
        middle = top + 36
        parts += [text(16, middle + 5, f"rank {rank}", "l"), *tokens(72, top, rank, False)]
        for left, split in ((0, "q k v, attention, o"), (428, "gate, up, down")):
            parts += [arrow((101 + left, middle), (115 + left, middle))]
            parts += [box(118 + left, middle - 18, 52, 36, COLORS[rank], "norm")]
            parts += [arrow((172 + left, middle), (216 + left, middle)), *tokens(220 + left, top, rank, True)]
            parts += [arrow((249 + left, middle), (263 + left, middle))]
            parts += [box(266 + left, middle - 22, 136, 44, COLORS[rank], split, "a part of each")]
            parts += [arrow((404 + left, middle), (496 + left - 1, middle))]
            parts += tokens(500 + left, top, rank, False) if left == 0 else tokens(904 + 22, top, rank, False)
    for x in (194, 622):
        parts += [box(x - 8, 62, 12, 216, ("#fff7e6", "#d8a53a"))]
        parts += [text(x - 2, 56, "all-gather", "s"), box(x + 252, 62, 12, 216, ("#fff7e6", "#d8a53a"))]
        parts += [text(x + 258, 56, "reduce-scatter", "s")]
    return picture(
        980,
        296,
        "Sequence parallel: tokens of a rank before, inside and after the split matrices",
        "Each of two ranks norms its own half of eight tokens; an all-gather gives both all tokens before the split "
        "matrices, a reduce-scatter sums the results and leaves each rank its half.",
        parts,
    )


def pipeline() -> str:
    """The real table of ZB-V."""
    schedule = named("zb-v", 4, 8)
    timeline = simulate(schedule, Costs.even(schedule.chunks, 1.0, 1.0, 1.0))
    inner = draw.svg(timeline, 1120.0).replace(
        "<svg ", '<svg text-anchor="start" x="20" y="52" width="1120" height="134" ', 1
    )
    parts = [text(580, 34, "ZB-V: four ranks, eight micro-batches; the number is the micro-batch", "t"), inner]
    return picture(
        1160,
        200,
        "Pipeline parallel: the table of ZB-V",
        "A row a rank, time to the right: forward (F), gradient of the input (B) and of the weights (W) of each of "
        "eight micro-batches, in two chunks a rank.",
        parts,
    )


def axes() -> str:
    """Thirty-two ranks on five axes."""
    parts = [text(480, 32, "pipeline 2 x data 2 x context 2 x expert 2 x tensor 2: 32 ranks", "t")]
    for pp in range(2):
        left = 66 + pp * 236
        parts.append(f'<rect x="{left - 10}" y="78" width="212" height="262" rx="8" fill="none" stroke="#9aa7b2"/>')
        parts.append(text(left + 96, 66, f"pipeline {pp}: layers {'0..L/2' if pp == 0 else 'L/2..L'}", "s"))
        for place in range(16):
            dp, cp, ep, tp = place >> 3, place >> 2 & 1, place >> 1 & 1, place & 1
            x, y = left + 102 * ep + 45 * tp, 88 + 132 * dp + 54 * cp
            parts.append(box(x, y, 44, 44, COLORS[2 * ep + tp], str(16 * pp + place)))
        for ep in range(2):
            parts.append(text(left + 102 * ep + 44.5, 358, f"expert {ep}", "s"))
    parts.append(arrow((260, 209), (287, 209)))
    for dp in range(2):
        parts.append(
            f'<text x="30" y="{140 + 132 * dp}" class="s" transform="rotate(-90 30 {140 + 132 * dp})">data {dp}</text>'
        )
        for cp in range(2):
            parts.append(text(514, 114 + 132 * dp + 54 * cp, f"context {cp}", "l s"))
    rows = (
        ("tensor", "side by side, one colour beside the next:", "sums in each layer; inside a node"),
        ("expert", "the pairs beside each other: rows of tokens", "to their experts and back"),
        ("context", "the rows of a replica: keys and values", "of the other tokens of a sequence"),
        ("data", "upper and lower half: gradients, once a step", ""),
        ("pipeline", "the two sheets: the residual stream", "of each micro-batch"),
    )
    for i, (name, first, second) in enumerate(rows):
        y = 98 + 50 * i
        parts += [text(610, y, name, "t l"), text(692, y, first, "l s"), text(692, y + 18, second, "l s")]
    return picture(
        980,
        378,
        "The five axes together",
        "Thirty-two ranks numbered in the order of the mesh: pipeline outermost, then data, context and expert, tensor "
        "innermost, so that tensor-parallel ranks are neighbours.",
        parts,
    )


PICTURES = {f"{make.__name__}.svg": make for make in (data, zero, tensor, sequence, pipeline, axes)}


def main(arguments: Sequence[str]) -> None:
    folder = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1] / "docs" / "images"
    for name, make in PICTURES.items():
        with atomic_write(folder / name) as beside:
            beside.write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
