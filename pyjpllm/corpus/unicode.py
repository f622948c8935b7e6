"""Unicode's normal forms in time that grows with the text.

Marks behind a character are sorted by their classes, and Python's sort takes quadratic time: 8 million marks in a row,
which a document of 16 MiB can hold, take days. Real text has a few in a row, Unicode's Stream-Safe Text Format 30 at
most (UAX #15, section 13), so a longer run is taken in parts of so many.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Literal

Form = Literal["NFC", "NFKC"]
MOST_MARKS = 30


def normalize(form: Form, text: str) -> str:
    """``text`` in the normal form; of a run of more than ``MOST_MARKS`` combining marks each so many by themselves."""
    parts = []
    start = 0
    for run in _long_runs().finditer(text):
        for at in range(run.start() + MOST_MARKS, run.end(), MOST_MARKS):
            parts.append(unicodedata.normalize(form, text[start:at]))
            start = at
    if not parts:
        return unicodedata.normalize(form, text)
    return "".join([*parts, unicodedata.normalize(form, text[start:])])


@cache
def _long_runs() -> re.Pattern[str]:
    """More marks in a row than text has. A half-width voiced sound mark becomes one."""
    ranges: list[list[int]] = []
    for code in range(0x300, 0x1F000):
        if 0xD800 <= code < 0xE000 or not all(map(unicodedata.combining, unicodedata.normalize("NFKD", chr(code)))):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    marks = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    return re.compile(f"[{marks}]{{{MOST_MARKS + 1},}}")
