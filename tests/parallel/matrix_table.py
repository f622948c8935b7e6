"""Walks every layout for ten steps and prints the largest differences by number of ranks, as a table in Markdown.

``python -m tests.parallel.matrix_table``
"""

from __future__ import annotations

from tests.parallel import matrix
from tests.parallel import reference as one
from tests.parallel.test_equality import largest
from tests.parallel.test_matrix import SIZES, prove


def row(size: int) -> str:
    """All layouts of some ranks, and the largest differences over them."""
    cases = matrix.cases(size)
    found = prove(size, "mpi4py", cases, one.STEPS)
    worst = largest(list(found.values()))
    models: dict[tuple[int, ...], list[str]] = {}
    for case in cases:
        models.setdefault(case.layout, []).append(case.model[0])
    cells = [f"{''.join(map(str, layout))} {''.join(names)}" for layout, names in models.items()]
    figures = (worst.loss, worst.gradients, worst.norm, worst.weights)
    return f"| {size} | {len(cases)} | {', '.join(cells)} | {' | '.join(f'{x:.1e}' for x in figures)} |"


def table() -> str:
    """Markdown."""
    head = "| ranks | cases | pp dp cp ep tp, and models | loss | gradients | norm | weights after 10 steps |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *map(row, SIZES)])


if __name__ == "__main__":
    print(table())
