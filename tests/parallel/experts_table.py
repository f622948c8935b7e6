"""How far experts on several ranks are from one process: ``python -m tests.parallel.experts_table 16``.

The number of ranks is 4 or 8, as the tests walk them, or 16: 8 experts over ep 4, beside tp 2 and pp 2, which costs too
much for them.
"""

from __future__ import annotations

import sys

from tests.parallel.test_expert import cases_of, table

if __name__ == "__main__":
    ranks = int(sys.argv[1])
    for case, differences in table(ranks, "mpi4py", cases_of(ranks)).items():
        print(case, differences)
