"""A measured pipeline, read back from a run and drawn beside its plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyjpllm.evaluation.pipeline import planned, read_timeline, section
from pyjpllm.parallel.pipeline import NAMES, Costs, Timeline, named, simulate
from tests.evaluation.fake_run import make_run
from tests.evaluation.test_report import check


def write(folder: Path, timeline: Timeline) -> None:
    schedule = timeline.schedule
    rows = [[(e.action.kind.value, *e.action[1:], e.start, e.end) for e in row] for row in timeline.rows]
    found = {"step": 7, "schedule": schedule.name, "rank_of": schedule.rank_of, "micro_batches": schedule.micro_batches}
    (folder / "pipeline.json").write_text(json.dumps({**found, "rows": rows}))


@pytest.mark.parametrize("name", NAMES)
def test_what_was_measured_comes_back(tmp_path: Path, name: str) -> None:
    schedule = named(name, 3, 6)
    late = simulate(schedule, Costs.even(schedule.chunks, 1.0, 1.5, 0.5, message=0.25))
    write(tmp_path, late)
    assert read_timeline(tmp_path / "pipeline.json") == (7, late)
    # Each action takes as long as in the plan, only messages do not.
    expected = simulate(schedule, Costs.even(schedule.chunks, 1.0, 1.5, 0.5))
    assert planned(late).length == pytest.approx(expected.length)
    assert planned(late).bubble == pytest.approx(expected.bubble)
    assert late.bubble > expected.bubble


def test_on_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 20)
    assert section(run) == ""
    write(run, simulate(named("zb-v", 2, 4), Costs.even(4)))
    from pyjpllm.evaluation.report import write_report

    text, _ = check(write_report(run))
    assert "zb-v, measured at step 7" in text
    assert text.count("on 2 ranks") == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": 3}', '{"rows": [[["X", 0, 0, 0, 1]]]}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "pipeline.json").write_text(content)
    assert "pipeline.json could not be read" in section(tmp_path)
