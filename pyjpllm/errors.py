"""The one error a user sees for a mistake of their own, and the search for the nearest right thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's: one line that says what, where, and the nearest right thing.

    The command line prints it without a traceback and exits with 2.
    """


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like ``word``, or None when nothing is close."""
    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or ``"; allowed: a, b, c"`` when nothing is close, or nothing at all to offer."""
    known = list(candidates)
    match = nearest(word, known)
    if match is not None:
        return f"; did you mean {match!r}?"
    return f"; allowed: {', '.join(known)}" if known else ""


def nearest_divisor(value: int, of: int) -> int:
    """The divisor of ``of`` nearest to ``value`` (the smaller one on a tie)."""
    divisors = [d for d in range(1, of + 1) if of % d == 0]
    return min(divisors, key=lambda d: (abs(d - value), d))
