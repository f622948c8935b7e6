"""The fewest edits between a pattern and any stretch of a text.

G. Myers, "A fast bit-vector algorithm for approximate string matching based on dynamic programming", 1999, in the form
of H. Hyyrö, "Explaining and extending the bit-parallel approximate string matching algorithm of Myers", 2001. A column
of the table is two numbers of as many bits as the pattern has characters, which Python's integers hold at any length.
"""

from __future__ import annotations


def least_edits(pattern: str, text: str) -> int:
    """Characters replaced, removed or put in (Levenshtein's distance) from ``pattern`` to the stretch of ``text``,
    which may be empty, where they are fewest: 0 where it stands there, ``len(pattern)`` at most."""
    masks: dict[str, int] = {}
    for place, character in enumerate(pattern):
        masks[character] = masks.get(character, 0) | 1 << place
    every = (1 << len(pattern)) - 1
    last = 1 << len(pattern) >> 1
    up, down = every, 0  # rows of the column that are one more, one less, than the row above
    least = edits = len(pattern)
    for character in text:
        equal = masks.get(character, 0)
        straight = equal | down
        across = (((equal & up) + up) ^ up) | equal
        more = down | (every & ~(across | up))
        fewer = up & across
        if more & last:
            edits += 1
        elif fewer & last:
            edits -= 1
            least = min(least, edits)
        more <<= 1
        fewer <<= 1
        up = (fewer | ~(straight | more)) & every
        down = more & straight & every
    return least
