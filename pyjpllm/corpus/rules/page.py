"""The page of `jpllm corpus inspect --html`: kept and dropped side by side, the reason marked in the text.

Nothing is fetched, and there is no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pyjpllm.corpus.rules.inspect import Inspected, decision, shown
from pyjpllm.corpus.rules.known import Finding
from pyjpllm.corpus.rules.presets import Preset

# More of a text than this is not shown; a marked range beyond it is counted in the line below.
SHOWN = 20_000

_STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#5c6877;--rule:#e2e6eb;--bad:#c8321f;--good:#12876f;--mark:#ffe08a}
@media (prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1a2029;--ink:#e6eaf0;--soft:#98a4b3;--rule:#2c3542;
--bad:#ff7a66;--good:#45c9a8;--mark:#6b5200}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI","Hiragino Sans","Noto Sans CJK JP","Noto Sans JP","Yu Gothic UI",
sans-serif}
main{max-width:1500px;margin:0 auto;padding:20px}h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:0 0 10px}
.soft{color:var(--soft);font-size:.9rem}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:18px;margin-top:18px}
.sides>section{min-width:0}
article{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 16px;margin-bottom:12px}
article h3{font-size:.95rem;margin:0 0 6px;overflow-wrap:anywhere}.dropped h3 b{color:var(--bad)}
.kept h3 b{color:var(--good)}
.text{white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow-y:auto;font-size:.92rem}
mark{background:var(--mark);color:inherit;border-radius:3px}
table{border-collapse:collapse;font-size:.84rem;width:100%;margin-top:8px}
th{color:var(--soft);font-weight:500;text-align:left}
th,td{padding:2px 12px 2px 0;border-bottom:1px solid var(--rule);vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr.against td{color:var(--bad);font-weight:600}
summary{cursor:pointer;color:var(--soft);font-size:.86rem;margin-top:8px}
"""


def marked(text: str, ranges: Sequence[tuple[int, int]]) -> str:
    """The text as HTML with the ranges in <mark>; at most ``SHOWN`` characters."""
    out, at = [], 0
    for first, last in ranges:
        first, last = min(first, SHOWN), min(last, SHOWN)
        if first < last:
            out.append(f"{escape(text[at:first])}<mark>{escape(text[first:last])}</mark>")
            at = last
    out.append(escape(text[at:SHOWN]))
    return "".join(out)


def _row(finding: Finding) -> str:
    kind = "" if finding.kept else ' class="against"'
    cells = f"<td>{escape(finding.rule.name)}</td><td>{escape(finding.rule.subject)}</td>"
    return f'<tr{kind}>{cells}<td class="n">{escape(shown(finding))}</td><td>{escape(finding.rule.bounds())}</td></tr>'


def _article(one: Inspected) -> str:
    reason = one.reason
    text = one.document.text
    name = next((str(one.document.meta[key]) for key in ("url", "title", "id") if key in one.document.meta), "")
    marks = f", {len(one.ranges):,} marked" if one.ranges else ""
    more = f", the first {SHOWN:,} shown" if len(text) > SHOWN else ""
    rows = "".join(map(_row, one.findings))
    kind = "kept" if one.against is None else "dropped"
    return (
        f'<article class="{kind}" id="document-{one.index}"><h3><b>{escape(decision(one))}</b> '
        f"document {one.index} {escape(name)}</h3>"
        f'<div class="text" lang="ja">{marked(text, one.ranges)}</div>'
        f'<div class="soft">{len(text):,} characters{marks}{more}</div>'
        f"<details{' open' if reason is not None else ''}><summary>rules</summary>"
        '<table><thead><tr><th>rule</th><th>measure</th><th class="n">value</th><th>kept if</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></details></article>"
    )


def page(preset: Preset, source: str, inspected: Sequence[Inspected]) -> str:
    """The whole page."""
    sides = []
    for title, keep in (("Kept", True), ("Dropped", False)):
        chosen = [one for one in inspected if (one.against is None) is keep]
        body = "".join(map(_article, chosen)) or '<p class="soft">none</p>'
        sides.append(f'<section id="{title.lower()}"><h2>{title}: {len(chosen):,}</h2>{body}</section>')
    head = escape(f"{source} by {preset.name}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{head}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{head}</h1>\n"
        f'<div class="soft">{escape(preset.about)}; {escape(preset.source)}</div>\n'
        f'<div class="sides">{"".join(sides)}</div>\n</main>\n</body>\n</html>\n'
    )
