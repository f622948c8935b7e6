"""Pipeline schedules: every table is one, takes the time of its closed form, and keeps to its memory."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.parallel.pipeline import (
    NAMES,
    Action,
    Costs,
    Kind,
    Schedule,
    Timeline,
    check,
    draw,
    named,
    one_step_bubble,
    peak_memory,
    search,
    simulate,
    steady_bubble,
    straight,
    v_shape,
)
from pyjpllm.parallel.pipeline.greedy import list_schedule

TIMES = st.floats(0.1, 4.0)
SIZES = {"ranks": st.integers(1, 5), "micro_batches": st.integers(1, 11)}


def even(schedule: Schedule, forward: float = 1, gradient: float = 1, weight: float = 1, message: float = 0) -> Costs:
    """A rank's whole part takes these times, and one micro-batch of it one of memory."""
    pieces = schedule.chunks // schedule.ranks
    costs = Costs.even(schedule.chunks, forward / pieces, gradient / pieces, weight / pieces, message)
    return replace(costs, memory=(1 / pieces,) * schedule.chunks)


@st.composite
def uneven(draw: st.DrawFn, chunks: int) -> Costs:
    """Any times and memories."""
    times = [tuple(draw(st.lists(TIMES, min_size=chunks, max_size=chunks))) for _ in range(4)]
    return Costs(*times[:3], message=draw(st.floats(0, 1)), memory=times[3], kept=draw(st.floats(0, 1)))


def assert_possible(timeline: Timeline, costs: Costs) -> None:
    """No rank does two things at a time, and nothing starts before what it needs is there."""
    ends = {}
    for row in timeline.rows:
        for before, after in pairwise(row):
            assert after.start >= before.end
        for action, start, end in row:
            assert end - start == pytest.approx(costs.of(action))
            ends[Action(Kind.B, *action[1:]) if action.kind is Kind.BW else action] = end
    rank_of = timeline.schedule.rank_of
    for rank, row in enumerate(timeline.rows):
        for event in row:
            for need in timeline.schedule.needs(event.action):
                assert event.start >= ends[need] + (costs.message if rank_of[need.chunk] != rank else 0)


@given(name=st.sampled_from(NAMES), **SIZES, chunks=st.integers(2, 4), data=st.data())
def test_every_table_is_a_schedule(name: str, ranks: int, micro_batches: int, chunks: int, data: st.DataObject) -> None:
    schedule = named(name, ranks, micro_batches, chunks)
    check(schedule)
    costs = data.draw(uneven(schedule.chunks))
    assert_possible(simulate(schedule, costs), costs)
    assert peak_memory(schedule, even(schedule)) <= (micro_batches,) * ranks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("micro_batches", [8, 16, 48])
def test_bubbles_are_those_of_the_closed_forms(name: str, ranks: int, micro_batches: int) -> None:
    schedule = named(name, ranks, micro_batches)
    expected = one_step_bubble(name, ranks, micro_batches)
    if expected is None:
        assert (name, ranks, micro_batches) == ("zb-v", 8, 8)  # too few to fill it
        return
    timeline = simulate(schedule, even(schedule))
    assert timeline.bubble == pytest.approx(expected, abs=1e-12)
    between = steady_bubble(schedule, even(schedule))
    assert between == pytest.approx(0.0 if name == "zb-v" else expected, abs=1e-12)


def test_interleaved_goes_round_as_often_as_there_are_chunks() -> None:
    assert one_step_bubble("interleaved", 4, 8, 3) == 3 / 27
    timeline = simulate(named("interleaved", 4, 8, 3), even(named("interleaved", 4, 8, 3)))
    assert timeline.bubble == pytest.approx(3 / 27)
    assert one_step_bubble("interleaved", 4, 9) is None


@given(**SIZES)
def test_the_memory_of_1f1b_is_enough_for_the_zero_bubble_ones(ranks: int, micro_batches: int) -> None:
    of_1f1b = named("1f1b", ranks, micro_batches)
    assert peak_memory(of_1f1b, even(of_1f1b)) == tuple(
        float(min(micro_batches, ranks - rank)) for rank in range(ranks)
    )
    for name in ("zb-h1", "zb-v"):
        other = named(name, ranks, micro_batches)
        assert max(peak_memory(other, even(other))) <= min(ranks, micro_batches) + 1e-9


@given(**SIZES, v=st.booleans(), spread=st.booleans(), patience=st.floats(0, 1), extra=st.floats(0, 6), data=st.data())
def test_list_schedules_keep_to_their_memory(
    ranks: int, micro_batches: int, v: bool, spread: bool, patience: float, extra: float, data: st.DataObject
) -> None:
    rank_of = v_shape(ranks) if v else straight(ranks)
    costs = data.draw(uneven(len(rank_of)))
    needed = max(sum(costs.memory[c] for c in range(len(rank_of)) if rank_of[c] == rank) for rank in range(ranks))
    limits = [needed + extra] * ranks
    schedule = list_schedule("list", rank_of, micro_batches, costs, limits, patience=patience, spread=spread)
    check(schedule)
    assert_possible(simulate(schedule, costs), costs)
    assert max(peak_memory(schedule, costs)) <= needed + extra + 1e-6
    with pytest.raises(ValueError, match=r"one micro-batch takes .* of memory on rank \d+, more than"):
        list_schedule("list", rank_of, micro_batches, costs, [needed * 0.9] * ranks)


def test_the_search_is_no_worse_than_what_is_known() -> None:
    straight_4, v_4 = straight(4), v_shape(4)
    twice = Costs.even(4)
    found = search(straight_4, 8, twice, 8.0, steady=True, tries=0)
    assert steady_bubble(found, twice) == pytest.approx(0, abs=1e-12)  # ZB-2 of the paper: twice the memory of 1F1B
    skewed = Costs.even(8, 1.0, 1.3, 0.8, 0.1)
    start = search(v_4, 8, skewed, 8.0, steady=True, tries=0)
    found = search(v_4, 8, skewed, 8.0, steady=True, tries=300)
    check(found)
    assert found == search(v_4, 8, skewed, 8.0, steady=True, tries=300)
    assert max(peak_memory(found, skewed)) <= 8.0
    assert steady_bubble(found, skewed) < steady_bubble(start, skewed)
    assert steady_bubble(start, skewed) <= steady_bubble(named("zb-v", 4, 8), skewed)
    seen: list[tuple[int, float]] = []
    search(straight_4, 4, twice, 4.0, tries=200, say=lambda count, bubble: seen.append((count, bubble)))
    assert [count for count, _ in seen] == [0, 100]
    with pytest.raises(ValueError, match="one micro-batch takes 2 of memory on rank 0, more than 1"):
        search(v_4, 8, skewed, 1.0)


@given(name=st.sampled_from(NAMES), **SIZES)
def test_messages_are_what_crosses_ranks(name: str, ranks: int, micro_batches: int) -> None:
    schedule = named(name, ranks, micro_batches)
    messages = list(schedule.messages())
    crossings = sum(a != b for a, b in pairwise(schedule.rank_of))
    assert len(messages) == 2 * crossings * micro_batches
    assert len({message.needed_by for message in messages}) == len(messages)
    for source, target, made_by, needed_by in messages:
        assert source != target
        assert made_by in schedule.rows[source]
        assert needed_by in schedule.rows[target]
        assert Action(Kind.B if made_by.kind is Kind.BW else made_by.kind, *made_by[1:]) in schedule.needs(needed_by)


def broken(row: int, edit: str) -> Schedule:
    """1F1B of two ranks and two micro-batches with a fault in one row."""
    good = named("1f1b", 2, 2)
    rows = list(good.rows)
    actions = list(rows[row])
    if edit == "missing":
        actions.pop()
    elif edit == "twice":
        actions.append(actions[0])
    elif edit == "elsewhere":
        actions = [action._replace(chunk=1 - action.chunk) for action in actions]
    elif edit == "backwards":
        actions.reverse()
    rows[row] = tuple(actions)
    return replace(good, rows=tuple(rows))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("missing", r"rank 1 has 1 times B or BW, 2 are needed"),
        ("twice", r"rank 1 has F of micro-batch 0 in chunk 1 twice"),
        ("elsewhere", r"F of micro-batch 0 in chunk 0 is on rank 1, where it does not belong"),
        ("backwards", r"rank 1 has BW of micro-batch 1 in chunk 1 before F of micro-batch 1 in chunk 1"),
    ],
)
def test_faults_of_a_table_are_named(edit: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(broken(1, edit))


def test_ranks_that_wait_for_each_other_are_named() -> None:
    good = named("1f1b", 2, 2)
    first = good.rows[0]
    # Rank 0 wants the gradient of micro-batch 0 before it has sent micro-batch 1; rank 1 wants 1 first.
    rows = ((first[0], first[2], first[1], first[3]), tuple(good.rows[1][i] for i in (2, 3, 0, 1)))
    with pytest.raises(ValueError, match=r"rank 0 waits for ever with BW of micro-batch 0 in chunk 0, which needs B"):
        simulate(replace(good, rows=rows), Costs.even(2))
    with pytest.raises(ValueError, match="has 2 chunks, the costs are of 3"):
        simulate(good, Costs.even(3))


@pytest.mark.parametrize("name", NAMES)
def test_the_drawings_have_every_action(name: str) -> None:
    schedule = named(name, 3, 6)
    timeline = simulate(schedule, even(schedule))
    lines = draw.text(timeline).splitlines()
    assert [line.split()[:2] for line in lines] == [["rank", str(rank)] for rank in range(3)]
    for line, row in zip(lines, schedule.rows, strict=True):
        drawn = [word.strip(".-").upper() for word in line.split()[2:] if word.strip(".-")]
        assert drawn == [f"{action.kind.value}{action.micro_batch}" for action in row]
    picture = ElementTree.fromstring(draw.svg(timeline))
    titles = [title.text for title in picture.iter("title")]
    assert len(titles) == sum(map(len, schedule.rows))
    assert math.isclose(timeline.length * 3 * (1 - timeline.bubble), timeline.busy)
    assert draw.page("<3>", [("a & b", timeline)]).count("<svg") == 1
    assert "&lt;3&gt;" in draw.page("<3>", [("a & b", timeline)])
