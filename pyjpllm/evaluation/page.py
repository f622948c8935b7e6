"""The report's style sheet, script and HTML skeleton. Nothing is fetched; it shows all without script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from pyjpllm.evaluation.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart

STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#5c6877;--rule:#e2e6eb;--bad:#c8321f;
--c0:#2563c9;--c1:#d9541e;--c2:#12876f;--c3:#a13fb0;--c4:#b98300;--c5:#3d8fb5;--c6:#8a5a44;--c7:#7a828c}
@media (prefers-color-scheme:dark){:root:not([data-theme=light]){--bg:#12161c;--card:#1a2029;--ink:#e6eaf0;
--soft:#98a4b3;--rule:#2c3542;--bad:#ff7a66;--c0:#6ea3ff;--c1:#ff9160;--c2:#45c9a8;--c3:#d98be6;--c4:#e8bb4b;
--c5:#76c4e8;--c6:#c99a80;--c7:#a7b0bb}}
:root[data-theme=dark]{--bg:#12161c;--card:#1a2029;--ink:#e6eaf0;--soft:#98a4b3;--rule:#2c3542;--bad:#ff7a66;
--c0:#6ea3ff;--c1:#ff9160;--c2:#45c9a8;--c3:#d98be6;--c4:#e8bb4b;--c5:#76c4e8;--c6:#c99a80;--c7:#a7b0bb}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI","Hiragino Sans","Noto Sans CJK JP","Noto Sans JP","Yu Gothic UI",
sans-serif}
main{max-width:1240px;margin:0 auto;padding:20px 20px 60px}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 14px;margin-bottom:14px}
h1{font-size:1.45rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:30px 0 10px}
.state{font-size:.8rem;padding:1px 10px;border-radius:99px;border:1px solid currentColor;color:var(--c2)}
.state.open{color:var(--c1)}
.soft,figcaption .legend,.tick{color:var(--soft)}
.sub{flex-basis:100%;color:var(--soft);font-size:.92rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(148px,1fr));gap:10px}
.tile,figure,.card{background:var(--card);border:1px solid var(--rule);border-radius:10px}
.tile{padding:9px 13px}.tile b{display:block;font-size:1.22rem;font-variant-numeric:tabular-nums;font-weight:620}
.tile span{color:var(--soft);font-size:.78rem}
.bar{display:flex;flex-wrap:wrap;gap:8px 20px;margin:20px 0 10px;font-size:.86rem;color:var(--soft)}
.bar span{display:inline-flex;gap:2px;align-items:center}
button{font:inherit;color:var(--soft);background:none;border:1px solid var(--rule);border-radius:7px;padding:1px 9px;
cursor:pointer}button[aria-pressed=true]{color:var(--card);background:var(--c0);border-color:var(--c0)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:12px}
figure{margin:0;padding:10px 12px 4px}
figcaption{display:flex;flex-wrap:wrap;gap:2px 12px;font-size:.84rem;min-height:2.6em;align-content:flex-start}
figcaption strong{font-size:.95rem;flex-basis:100%}
.legend i{display:inline-block;width:9px;height:9px;border-radius:3px;margin-right:5px}
.legend b{font-weight:600;color:var(--ink);font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto}
.grid{stroke:var(--rule);stroke-width:1}.tick{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}
.line{fill:none;stroke-width:1.7;stroke-linejoin:round;stroke-linecap:round}.band{opacity:.17;stroke:none}
.faint{opacity:.26;stroke-width:1}.area{stroke:none;opacity:.86}.bad{stroke:var(--bad);stroke-width:1.4}
.pad{fill:transparent}.cross{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3;visibility:hidden}
.s1,.s2,.s12,.log{display:none}
[data-smooth="1"] .s0,[data-smooth="2"] .s0{display:none}
[data-smooth="1"] .s1,[data-smooth="2"] .s2,[data-smooth="1"] .s12,[data-smooth="2"] .s12{display:inline}
[data-scale=log] .log{display:inline}[data-scale=log] .lin:not(.only){display:none}
.shares{display:flex;height:22px;border-radius:6px;overflow:hidden;margin:4px 0 8px}
.shares i{display:block;min-width:1px}
.card{padding:12px 16px;overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;width:100%}th{color:var(--soft);font-weight:500;text-align:left}
th.n{width:1%}th,td{padding:4px 14px 4px 0;border-bottom:1px solid var(--rule);vertical-align:top}
tr:last-child td{border-bottom:0}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.prompt{font-weight:600;margin:0 0 6px}.text{white-space:pre-wrap;overflow-wrap:anywhere}
.card+.card{margin-top:10px}pre{margin:0;font-size:.82rem;white-space:pre-wrap;overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--soft);font-size:.9rem}details[open] summary{margin-bottom:8px}
.warn{color:var(--bad)}
"""

_COLOURS = "".join(
    f".line.c{i}{{stroke:var(--c{i})}}.band.c{i},.area.c{i},circle.c{i}{{fill:var(--c{i})}}i.c{i}{{background:var(--c{i})}}"
    for i in range(8)
)

# One pointer moves a line over all charts at once and shows every series' value there.
SCRIPT = """
"use strict";
(() => {
  const page = document.documentElement, data = JSON.parse(document.getElementById("data").textContent);
  const {left, right, width, domain} = data.frame;
  const press = (name, value) => {
    page.dataset[name] = value;
    for (const b of document.querySelectorAll(`button[data-set=${name}]`))
      b.setAttribute("aria-pressed", String(b.value === value));
  };
  for (const b of document.querySelectorAll("button[data-set]"))
    b.addEventListener("click", () => press(b.dataset.set, b.value));
  const unit = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]];
  const show = v => {
    if (v === null) return "–";
    const size = Math.abs(v);
    for (const [limit, name] of unit)
      if (size >= limit) return (v / (name === "k" ? 1e3 : limit)).toPrecision(4) + name;
    return size !== 0 && size < 1e-3 ? v.toExponential(2) : String(Number(v.toPrecision(4)));
  };
  const nearest = (x, step) => {
    let low = 0, high = x.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (x[middle] < step) low = middle + 1; else high = middle;
    }
    return low > 0 && step - x[low - 1] < x[low] - step ? low - 1 : low;
  };
  const charts = [...document.querySelectorAll("svg[data-chart]")].map(svg => ({
    svg, cross: svg.querySelector(".cross"), series: data.charts[svg.dataset.chart].series,
    shown: [...svg.closest("figure").querySelectorAll(".legend b")], step: svg.closest("figure").querySelector(".at"),
  }));
  for (const chart of charts) chart.rest = chart.shown.map(b => b.textContent);
  const point = step => {
    const at = left + (step - domain[0]) / (domain[1] - domain[0] || 1) * (width - left - right);
    for (const {cross, series, shown, step: label} of charts) {
      cross.setAttribute("x1", at); cross.setAttribute("x2", at); cross.style.visibility = "visible";
      label.textContent = "step " + Math.round(step).toLocaleString("en");
      series.forEach((s, i) => { if (s.x.length) shown[i].textContent = show(s.y[nearest(s.x, step)]); });
    }
  };
  const leave = () => {
    for (const {cross, shown, rest, step} of charts) {
      cross.style.visibility = "hidden"; step.textContent = "";
      shown.forEach((b, i) => { b.textContent = rest[i]; });
    }
  };
  for (const {svg} of charts) {
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * width;
      const share = Math.min(1, Math.max(0, (x - left) / (width - left - right)));
      point(domain[0] + share * (domain[1] - domain[0]));
    });
    svg.addEventListener("pointerleave", leave);
  }
})();
"""


def json_in_script(value: Any) -> str:
    """JSON that can stand inside a script element: no ``<`` that could end it, no NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def tile(label: str, value: str, hint: str = "") -> str:
    """A number with its name below."""
    title = f' title="{escape(hint)}"' if hint else ""
    return f'<div class="tile"{title}><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    """An HTML table; all cells are escaped."""
    kind = [' class="n"' if number else "" for number in numeric]
    top = "".join(f"<th{k}>{escape(cell)}</th>" for k, cell in zip(kind, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{escape(cell)}</td>" for k, cell in zip(kind, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def figure(chart: Chart, latest: Sequence[str]) -> str:
    """A chart with its legend; ``latest`` is what the legend shows while no pointer is over a chart."""
    legend = "".join(
        f'<span class="legend"><i class="c{colour}"></i>{escape(name)} <b>{escape(value)}</b></span>'
        for (name, colour), value in zip(chart.legend, latest, strict=True)
    )
    return (
        f'<figure id="chart-{escape(chart.key)}"><figcaption><strong>{escape(chart.title)} '
        f'<span class="soft at"></span></strong>{legend}</figcaption>{chart.svg}</figure>'
    )


def switches() -> str:
    """The page's switches; they set attributes that the style sheet reads."""

    def group(name: str, label: str, options: Sequence[tuple[str, str]], chosen: str) -> str:
        buttons = "".join(
            f'<button type="button" data-set="{name}" value="{value}" aria-pressed="{str(value == chosen).lower()}">'
            f"{text}</button>"
            for value, text in options
        )
        return f"<span>{label}&nbsp;{buttons}</span>"

    return (
        '<nav class="bar">'
        + group("smooth", "smoothing", (("0", "none"), ("1", "light"), ("2", "strong")), "1")
        + group("scale", "scale", (("lin", "linear"), ("log", "log")), "lin")
        + group("theme", "theme", (("auto", "auto"), ("light", "light"), ("dark", "dark")), "auto")
        + "</nav>"
    )


def document(title: str, body: str, charts: Sequence[Chart], domain: tuple[float, float]) -> str:
    """The whole page."""
    frame = {"left": LEFT, "right": RIGHT, "width": WIDTH, "domain": domain}
    data = json_in_script({"frame": frame, "charts": {chart.key: chart.data for chart in charts}})
    clip = (
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><clipPath id="plot">'
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath></svg>'
    )
    return (
        '<!doctype html>\n<html lang="en" data-smooth="1" data-scale="lin" data-theme="auto">\n<head>\n'
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{_COLOURS}</style>\n</head>\n<body>\n{clip}\n<main>\n{body}\n</main>\n"
        f'<script type="application/json" id="data">{data}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )
