"""Prints the table of docs/parallelism-measured.md: every layout's worst difference from one process, over all models.

``python -m tests.parallel.table``
"""

from __future__ import annotations

import itertools
import sys

from tests.parallel.test_equality import BACKENDS, Case, every_case, largest, line, table


def summary() -> str:
    """The worst of every layout over all models, as a table in Markdown."""
    lines = [
        "| dp | tp | sequence | backend | models | loss | gradients | norm | weights after 10 steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size, backend in [(1, "none"), *itertools.product((2, 4), BACKENDS)]:
        found = table(size, backend, every_case(size))
        for key in dict.fromkeys((c.dp, c.tp, c.sequence) for c in found):
            same = [d for c, d in found.items() if (c.dp, c.tp, c.sequence) == key]
            lines.append(line(Case(*key, str(len(same))), backend, largest(same)))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(summary() + "\n")
