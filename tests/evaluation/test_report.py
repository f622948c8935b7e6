"""The report: one page that needs nothing else, whatever state the run is in."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pyjpllm.errors import UserError
from pyjpllm.evaluation import summarize, write_report
from pyjpllm.evaluation.charts import Line, _marks
from pyjpllm.evaluation.metrics import read_run
from pyjpllm.evaluation.page import json_in_script
from pyjpllm.evaluation.summary import duration, size, summary_dict, summary_lines
from tests.evaluation.fake_run import make_run

VOID = {"meta", "link", "line", "rect", "circle", "path", "br"}


class Checker(HTMLParser):
    """Elements must close in order; collects ids and everything that could be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            assert found["id"] not in self.ids
            self.ids.add(str(found["id"]))
        self.links += [str(value) for key, value in attrs if key in ("src", "href", "srcset", "action", "xlink:href")]
        if tag not in VOID or tag == "path":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag


def check(page: Path) -> tuple[str, Checker]:
    """The page is well formed, fetches nothing, and has no coordinate that is no number."""
    text = page.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert checker.links == ["data:,"]
    assert not re.search(r"https?://|url\((?!#)|@import", text)
    assert not re.search(r'(d|x|y|cx|cy|x1|y1|points)="[^"]*(nan|inf)', text)
    return text, checker


def test_a_whole_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 300)
    page = write_report(run)
    assert page == run / "report.html"
    text, checker = check(page)
    wanted = {"loss", "bits", "lr", "grad", "speed", "mfu", "phases"}
    assert {f"chart-{key}" for key in wanted} <= checker.ids
    assert {"time", "samples", "checkpoints", "config", "data"} <= checker.ids
    assert "chart-skipped" not in checker.ids  # nothing was skipped
    assert "finished" in text
    assert "猫である" in text


def test_text_of_the_run_is_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    run = make_run(tmp_path / evil.replace("/", "_"), 5)
    (run / "samples.jsonl").write_text(json.dumps({"step": 1, "prompt": evil, "text": evil}) + "\n")
    (run / "config.toml").write_text(f"name = {json.dumps(evil)}\n")
    (run / "environment.json").write_text(json.dumps({evil: {"a": [evil, 1]}}))
    lines = (run / "metrics.jsonl").read_text().replace('"forward"', json.dumps("</script><b>"))
    (run / "metrics.jsonl").write_text(lines)
    text, _ = check(write_report(run))
    assert "<img" not in text
    assert text.count("<script") == 2
    assert text.count("</script>") == 2


def test_json_for_a_script_element() -> None:
    text = json_in_script({"a": "</script>\u2028", "b": [1.5, None]})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"a": "</script>\u2028", "b": [1.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        json_in_script(math.nan)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 21])
def test_short_runs(tmp_path: Path, steps: int) -> None:
    run = make_run(tmp_path / "run", steps, planned=500)
    text, checker = check(write_report(run))
    assert ("chart-loss" in checker.ids) == (steps > 0)
    assert "not finished" in text


def test_an_empty_metrics_file_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    text, _ = check(write_report(tmp_path))
    assert "No step has been written yet." in text
    assert summary_lines(summarize(read_run(tmp_path)))[0].endswith("none yet")


def test_nan_spikes_skips_and_a_resume_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 60)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines[30:]:
        line["skipped"] = 2
    lines[30] |= {"loss": None, "grad_norm": math.inf}
    lines[31] |= {"loss": math.nan, "z_loss": 0.5}
    text = "".join(json.dumps(line) + "\n" for line in [*lines[:50], *lines[45:]])
    (run / "metrics.jsonl").write_text("nonsense\n" + text + '{"step": 6')
    page, checker = check(write_report(run))
    assert 'class="bad"' in page
    assert {"chart-skipped", "chart-z"} <= checker.ids
    assert "Resumed from an older checkpoint at step 46" in page
    assert "1 lines of metrics.jsonl could not be read" in page
    assert summarize(read_run(run)).skipped == 2


def test_all_values_nan(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": null}\n')
    text, _ = check(write_report(tmp_path))
    assert "No step has been written yet." not in text


def test_values_of_zero_and_below(tmp_path: Path) -> None:
    """A chart with values that have no logarithm keeps its linear axis under the log switch."""
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "loss": {s - 3}, "lr": 0}}\n' for s in range(9)))
    text, _ = check(write_report(tmp_path))
    assert text.count('<g class="lin only">') == 2
    assert '<g class="log">' not in text


def test_a_long_run_gives_a_small_page_that_keeps_its_spike(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 50_001):
            loss = 77.0 if step == 12_345 else 3 + 1000 / (step + 100)
            file.write(f'{{"step": {step}, "loss": {loss}, "seconds": {{"forward": 1.0, "total": 1.5}}}}\n')
    text, _ = check(write_report(tmp_path))
    assert len(text) < 700_000
    assert 'class="band c0"' in text
    summary = summarize(read_run(tmp_path))
    assert summary.seconds_by_phase == {"forward": 50_000.0, "other": 25_000.0}


def test_many_samples_are_thinned_with_both_ends_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 4)
    samples = [json.dumps({"step": s, "prompt": "p", "text": f"text<{s}>"}) for s in range(100)]
    (run / "samples.jsonl").write_text("\n".join(samples))
    text, _ = check(write_report(run))
    shown = re.findall(r"text&lt;(\d+)&gt;", text)
    assert len(shown) == 12
    assert (shown[0], shown[-1]) == ("0", "99")


def test_the_summary_in_figures(tmp_path: Path) -> None:
    summary = summarize(read_run(make_run(tmp_path / "run", 200)))
    assert summary.finished
    assert summary.tokens == 200 * 8192
    assert summary.best_valid_loss is not None
    assert summary.valid_loss is not None
    assert summary.best_valid_loss <= summary.valid_loss
    assert summary.valid_bits_per_byte == pytest.approx(summary.valid_loss / math.log(2) / 4.7)
    assert set(summary.seconds_by_phase) >= {"forward", "backward", "communicate", "optimizer", "data", "evaluate"}
    assert summary.parameters is not None
    assert json.loads(json.dumps(summary_dict(summary)))["step"] == 200
    text = "\n".join(summary_lines(summary))
    assert "validation bits per byte" in text
    assert "backward" in text


def test_where_the_page_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 3)
    assert write_report(run, tmp_path / "new" / "page.html").exists()
    with pytest.raises(UserError, match="is a folder"):
        write_report(run, tmp_path)


def test_units() -> None:
    assert [duration(s) for s in (1.25, 245, 3600 * 30 + 60)] == ["1.2 s", "4 min 05 s", "30 h 01 min"]
    assert [size(n) for n in (10, 2048, 3 << 20, 5 << 30, 7 << 40)] == [
        "10 B",
        "2.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
        "7.0 TiB",
    ]


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

PROBE = """<script>
const out = [], legend = () => document.querySelector("#chart-loss .legend b").textContent;
const shown = selector => [...document.querySelectorAll(selector)]
  .filter(e => getComputedStyle(e).display !== "none").length;
const press = (name, value) => document.querySelector(`button[data-set=${name}][value="${value}"]`).click();
const rest = legend(), svg = document.querySelector("#chart-loss svg"), box = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * 0.1, clientY: box.top + 50}));
out.push(["pointer", legend() !== rest && Number(legend()) > Number(rest)]);
out.push(["step", document.querySelector("#chart-lr .at").textContent.startsWith("step ")]);
svg.dispatchEvent(new PointerEvent("pointerleave"));
out.push(["rest", legend() === rest]);
out.push(["linear", shown("#chart-loss g.lin") === 1 && shown("#chart-loss g.log") === 0]);
press("scale", "log");
out.push(["log", shown("#chart-loss g.lin") === 0 && shown("#chart-loss g.log") === 1]);
out.push(["only", shown("#chart-speed g.lin") === 1]);
press("smooth", "0");
out.push(["smooth", shown("#chart-lr .s0") > 0 && shown("#chart-lr .s1") === 0 && shown("#chart-lr .s2") === 0]);
press("theme", "light");
const light = getComputedStyle(document.body).backgroundColor;
press("theme", "dark");
out.push(["dark", getComputedStyle(document.body).backgroundColor !== light]);
out.push(["drawn", svg.querySelector(".log path.line").getBoundingClientRect().width > 100]);
out.push(["wide", document.documentElement.scrollWidth <= innerWidth]);
document.title = JSON.stringify(out);
</script>"""


@pytest.mark.browser
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    page = write_report(make_run(tmp_path / "run", 400))
    text = page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>")
    page.write_text(text, encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2000",
        "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in result.stderr, result.stderr
    title = re.search(r"<title>(.*?)</title>", result.stdout)
    assert title is not None
    outcome = dict(json.loads(title[1].replace("&quot;", '"').replace("&amp;", "&")))
    assert len(outcome) == 10
    assert all(outcome.values()), outcome


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([math.nan, math.nan, 1.0, 2.0], 0),  # a column that begins later than the run
        ([1.0, 2.0, math.nan, math.nan], 2),  # a run that diverges
        ([math.nan, 1.0, math.nan, math.inf, 2.0], 2),
        ([math.nan, math.inf], 2),  # nothing else was ever seen
        ([1.0, 2.0], 0),
    ],
)
def test_values_that_are_missing_are_marked(values: list[float], marks: int) -> None:
    line = Line("loss", np.arange(len(values)), np.array(values), 0)
    assert _marks(line, lambda step: 10 * step).count("M") == marks
