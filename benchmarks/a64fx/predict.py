"""Predicts the kernels' speed on A64FX, core and CMG: the tables of docs/prediction.md.

    python -m benchmarks.a64fx.predict             every table
    python -m benchmarks.a64fx.predict gemm step   some of them
    python -m benchmarks.a64fx.predict --json      one JSON object a row
    python -m benchmarks.a64fx.predict --write docs/prediction.md    puts them in place in the page

Nothing here was measured on an A64FX, except what the tables name as measured by others.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from benchmarks.a64fx import toolchain
from benchmarks.a64fx.tables import TABLES, Table, read_tree


def markdown(table: Table) -> str:
    names = list(table[0])
    lines = [f"| {' | '.join(name.strip() for name in names)} |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *(f"| {' | '.join(row[name] for name in names)} |" for row in table)])


def write(page: Path, tables: dict[str, Table]) -> None:
    """Replaces what is between `<!-- NAME -->` and `<!-- end -->` in a page by the table of that name."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise toolchain.MissingError(f"{page} has no place <!-- {name} --> ... <!-- end -->")
        filled = markdown(table)
        text = place.sub(lambda match, filled=filled: f"{match[1]}{filled}\n{match[2]}", text)  # type: ignore[misc]
    page.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.a64fx.predict", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("tables", nargs="*", help=f"some of {', '.join(TABLES)} (default: all)")
    parser.add_argument("--compiler", choices=["gcc", "clang"], default="clang")
    parser.add_argument("--source", type=Path, default=toolchain.ROOT, help="the tree to build (default: this one)")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    arguments = parser.parse_args()
    wanted = arguments.tables or list(TABLES)
    try:
        if unknown := [name for name in wanted if name not in TABLES]:
            raise toolchain.MissingError(f"no table {unknown[0]}; there are {', '.join(TABLES)}")
        tree = read_tree(arguments.compiler, arguments.source.resolve())
        tables = {name: TABLES[name](tree) for name in wanted}
        if arguments.write:
            write(arguments.write, tables)
            return 0
    except toolchain.MissingError as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    for name, table in tables.items():
        if arguments.json:
            print("\n".join(json.dumps({"table": name, **row}) for row in table))
        else:
            print(f"\n{name}\n\n{markdown(table)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
