"""Repeated lines and paragraphs against a count in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.corpus.dedup import RepeatedUnitsStep
from pyjpllm.corpus.dedup.lines import units
from tests.corpus.dedup.shards import apply, by_number, run_alone, write_shards


@given(st.text("あ \n\u3000", max_size=30), st.sampled_from(["line", "paragraph"]))
def test_units_are_the_text(text: str, unit: Any) -> None:
    ranges = units(text, unit)
    assert "".join(text[start:stop] for start, stop in ranges) == text
    if unit == "line":
        assert [text[start:stop] for start, stop in ranges] == text.splitlines(keepends=True)


def test_paragraphs() -> None:
    text = "\n一行目\n二行目\n\n \n次の段落\n\n\n最後"
    assert [text[a:b] for a, b in units(text, "paragraph")] == ["\n", "一行目\n二行目\n\n \n", "次の段落\n\n\n", "最後"]


def cut(step: RepeatedUnitsStep, texts: list[str], folder: Path) -> list[str | None]:
    found = by_number(run_alone(step, write_shards(folder, texts, 2)), len(texts), 2)
    return [apply(text, found.get(number)) for number, text in enumerate(texts)]


HEAD = "このサイトについて  ＡＢＣ"
TEXTS = [
    f"{HEAD}\n一つ目の記事の本文\n短い\n",
    "このサイトについて abc\n二つ目の記事の本文\n短い",
    "二つ目の記事の本文\n\nこのサイトについて ａｂｃ\n",
    f"三つ目の記事の本文\n{HEAD}",
]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [TEXTS[0], "二つ目の記事の本文\n短い", None, "三つ目の記事の本文\n"]),
        ({"keep": 2}, [TEXTS[0], TEXTS[1], "二つ目の記事の本文\n\n", "三つ目の記事の本文\n"]),
        (
            {"keep": 0, "min_copies": 3},
            [
                "一つ目の記事の本文\n短い\n",
                "二つ目の記事の本文\n短い",
                "二つ目の記事の本文\n\n",
                "三つ目の記事の本文\n",
            ],
        ),
        ({"folding": "none"}, [TEXTS[0], TEXTS[1], "\nこのサイトについて ａｂｃ\n", "三つ目の記事の本文\n"]),
        ({"min_characters": 0}, [TEXTS[0], "二つ目の記事の本文\n", None, "三つ目の記事の本文\n"]),
        ({"unit": "paragraph"}, TEXTS),
    ],
)
def test_lines(settings: dict[str, Any], expected: list[str | None], tmp_path: Path) -> None:
    step = RepeatedUnitsStep(**{"name": "lines", "unit": "line", "min_characters": 4, **settings})
    assert cut(step, TEXTS, tmp_path) == expected


def test_paragraphs_that_come_again(tmp_path: Path) -> None:
    texts = [
        "最初の段落です。\nその続き。\n\n\n次の段落です。",
        "別の段落。\n\n最初の段落です。 その続き。\n\n終わり。",
    ]
    step = RepeatedUnitsStep("paragraphs", min_characters=4)
    assert cut(step, texts, tmp_path) == [texts[0], "別の段落。\n\n終わり。"]
