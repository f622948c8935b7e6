"""Repeated passages: every long one is cut, and nothing that does not stand earlier."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.planted import Planter
from pyjpllm.corpus.dedup import RepeatedSubstringsStep
from pyjpllm.corpus.stage import Decision
from tests.corpus.dedup.shards import by_number, run_alone, write_shards


def cut_characters(step: RepeatedSubstringsStep, texts: list[str], shards: int = 2) -> list[set[int]]:
    with tempfile.TemporaryDirectory() as folder:
        found = by_number(run_alone(step, write_shards(Path(folder), texts, shards)), len(texts), shards)
    return [characters(found.get(number), text) for number, text in enumerate(texts)]


def characters(decision: Decision | None, text: str) -> set[int]:
    if decision is None:
        return set()
    assert decision.reason is None
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(decision.cuts))
    assert decision.cuts[-1][1] <= len(text)
    return {place for start, stop in decision.cuts for place in range(start, stop)}


def earlier(texts: list[str], number: int, start: int, size: int) -> bool:
    """Whether these characters stand in an earlier text, or earlier in this one without overlap."""
    passage = texts[number][start : start + size]
    return passage in texts[number][:start] or any(passage in text for text in texts[:number])


@given(st.lists(st.text("ab", max_size=40), max_size=4), st.integers(2, 8), st.data())
def test_against_a_search(texts: list[str], length: int, data: st.DataObject) -> None:
    slack = data.draw(st.integers(1, length // 2))
    step = RepeatedSubstringsStep("substrings", length, slack)
    cut = cut_characters(step, texts) if texts else []
    for number, text in enumerate(texts):
        inside: set[int] = set()
        allowed: set[int] = set()
        for start in range(len(text)):
            if start + length <= len(text) and earlier(texts, number, start, length):
                inside |= set(range(start + slack - 1, start + length - slack + 1))
            if start + step.window <= len(text) and earlier(texts, number, start, step.window):
                allowed |= set(range(start, start + step.window))
        assert inside <= cut[number] <= allowed


def test_planted_passages() -> None:
    planter = Planter(4)
    passages = [planter.text(length) for length in range(100, 200)]
    texts = [planter.text(50) + passage + planter.text(70) for passage in passages]
    texts += [planter.text(90) + passage + planter.text(30) for passage in passages]
    cut = cut_characters(RepeatedSubstringsStep("substrings", 100, 16), texts, 4)
    assert cut[:100] == [set()] * 100
    for passage, found in zip(passages, cut[100:], strict=True):
        assert set(range(90 + 15, 90 + len(passage) - 15)) <= found <= set(range(90, 90 + len(passage)))
    assert cut_characters(RepeatedSubstringsStep("substrings", 300, 50), texts) == [set()] * 200


def test_a_run_of_one_character_keeps_a_window() -> None:
    (cut,) = cut_characters(RepeatedSubstringsStep("substrings", 20, 5), ["始め" + "ー" * 200 + "終わり"], 1)
    assert set(range(2 + 16 + 5, 195)) <= cut <= set(range(2 + 16, 202))


def test_wrong_settings() -> None:
    for length, slack in ((1, 1), (100, 0), (100, 51)):
        with pytest.raises(ValueError, match="slack"):
            RepeatedSubstringsStep("substrings", length, slack)
