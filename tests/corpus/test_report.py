"""What `jpllm corpus stats` shows of a report."""

from __future__ import annotations

from typing import Any

from pyjpllm.corpus.counts import Counts, StageCounts, Tally
from pyjpllm.corpus.report import report_of, show


def counts() -> Counts:
    stage = StageCounts(
        "rules",
        read=Tally(1000, 50_000, 150_000),
        dropped={"short": Tally(100, 1000, 3000), "kana": Tally(300, 9000, 27_000)},
        kept=Tally(600, 40_000, 120_000),
        measures={"kana": {"1.0e-01": 300, "5.0e-01": 700}},
    )
    seconds = {"read": 2.0, "rules": 0.5, "write": 0.0}
    return Counts(read=stage.read, stages=[stage], written=stage.kept, seconds=seconds, set_aside={"too-long": 3})


def lines(**fields: Any) -> list[str]:
    return list(show(report_of(counts(), 3, 2, {"rules": {"kana": (0.21, None)}}), **fields))


def test_yield_and_speed_by_stage() -> None:
    shown = [line.split() for line in lines(measures=False)]
    assert shown[2][-1] == "documents/s"
    assert ["read", "1,000", "100.0%", "50,000", "100.0%", "2.00", "500"] in shown
    assert ["rules", "600", "60.0%", "40,000", "80.0%", "0.50", "2,000"] in shown
    assert shown.index(["-", "kana", "300", "30.0%", "9,000", "18.0%"]) < shown.index(
        ["-", "short", "100", "10.0%", "1,000", "2.0%"]
    )
    assert ["written", "600", "60.0%", "40,000", "80.0%", "0.00"] in shown
    assert "2.5 s of CPU time: 400 documents/s, 0.06 MB/s" in lines()
    assert "set aside: 3 too-long" in lines()


def test_the_threshold_stands_between_the_bars_it_parts() -> None:
    shown = lines()
    start = shown.index("rules: kana (1,000 documents)")
    bars = [line.split() for line in shown[start + 1 :]]
    limit = next(place for place, bar in enumerate(bars) if bar[-2:] == ["at", "least"])
    assert float(bars[limit][0]) == 0.21
    assert all(float(bar[0]) <= 0.21 for bar in bars[:limit])
    assert all(float(bar[0]) > 0.21 for bar in bars[limit + 1 :])
    assert bars[0][-1] == "300"
    assert bars[-1][-1] == "700"
