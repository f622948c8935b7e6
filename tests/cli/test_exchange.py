"""The exchange of a corpus job's ranks. Several over MPI: tests/corpus/dedup/test_ranks.py, where ranks run anyway."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyjpllm.cli.exchange import MPIExchange
from pyjpllm.corpus.exchange import Alone, Exchange


def part(source: int, to: int) -> np.ndarray[Any, Any]:
    """What rank ``source`` sends to rank ``to``: lengths differ, and some are 0."""
    return np.arange((source * 7 + to * 3) % 5 * 40, dtype=np.uint64).reshape(-1, 2) + 1000 * source + to


def talk(ranks: Exchange) -> list[bool]:
    """Whether each way of talking gave this rank what it must."""
    got = ranks.all_to_all([part(ranks.rank, to) for to in range(ranks.size)])
    ranks.barrier()
    return [
        all(np.array_equal(got[source], part(source, ranks.rank)) for source in range(ranks.size)),
        ranks.all_gather({"rank": ranks.rank}) == [{"rank": rank} for rank in range(ranks.size)],
        ranks.broadcast(("from", ranks.rank)) == ("from", 0),
    ]


def test_alone() -> None:
    alone: Exchange = Alone()
    sent = part(1, 0)
    assert np.array_equal(alone.all_to_all([sent])[0], sent)
    assert talk(alone) == [True, True, True]
    assert alone.all_gather(3) == [3]
    assert alone.broadcast("x") == "x"
    alone.barrier()


def test_a_message_fits_into_what_mpi_counts_with() -> None:
    with pytest.raises(ValueError, match="piece_bytes"):
        MPIExchange(None, None, 1 << 31)
