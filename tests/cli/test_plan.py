"""`jpllm plan schedule`: the comparison, one drawing, the page, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyjpllm.cli.app import run


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What `jpllm plan schedule` answers, or complains of."""
    assert run(["plan", "schedule", *words]) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_all_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in said(capsys).splitlines()]
    assert lines[2] == ["1f1b", "27.3%", "27.3%", "4", "6"]
    assert lines[5] == ["zb-v", "5.9%", "0.0%", "4", "12"]
    answer = json.loads(said(capsys, "--json", "--chunks", "4"))
    assert [one["schedule"] for one in answer] == ["gpipe", "1f1b", "interleaved", "zb-h1", "zb-v"]
    assert answer[2]["messages_per_micro_batch"] == 30


def test_one_is_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = said(capsys, "zb-h1", "--ranks", "2", "--micro-batches", "3", "--html", str(page))
    assert text.startswith(
        "rank 0 F0 F1 ...B0 W0 F2 B1 W1 B2 W2\nrank 1 ...F0 B0 F1 B1 W0 F2 B2 W1 W2\n\nzb-h1: bubble"
    )
    assert "<svg" in page.read_text()
    answer = json.loads(said(capsys, "1f1b", "--ranks", "1", "--micro-batches", "1", "--json"))
    assert answer["rows"] == [[["F", 0, 0], ["BW", 0, 0]]]
    assert answer["bubble"] == 0


def test_one_is_searched(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["searched", "--times", "1,1.2,0.9", "--message", "0.1", "--tries", "50", "--json"]
    found = [json.loads(said(capsys, *words, *more)) for more in ([], ["--one-step"], ["--placement", "straight"])]
    assert found[0]["peak_memory"] <= 4
    without = json.loads(said(capsys, "zb-v", *words[1:5], "--json"))
    assert found[0]["bubble_between_steps"] <= without["bubble_between_steps"]
    assert found[1]["bubble"] <= found[0]["bubble"]
    assert found[2]["rank_of"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zbv"], "plan schedule 'zbv': no such schedule; did you mean 'zb-v'?"),
        (["searched", "--placement", "straigt"], "--placement 'straigt'; did you mean 'straight'?"),
        (["--times", "1,2"], "--times '1,2': three numbers are needed, as in 1,1,1"),
        (["--times", "1,0,1"], "--times '1,0,1': each must be above 0"),
        (["searched", "--memory", "0.5"], "--memory 0.5: a rank holds at least one micro-batch of its part: 1 or more"),
        (["--ranks", "0"], "--ranks"),
        (["zb-v", "--chunks", "4"], "--chunks is for the schedule interleaved; leave it out, or write plan schedule"),
        (["--memory", "4"], "--memory is for the schedule searched; leave it out, or write plan schedule searched"),
        (["1f1b", "--one-step"], "--one-step is for the schedule searched"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, *words, code=2)
    assert message in text
    assert len(text.splitlines()) == 1
