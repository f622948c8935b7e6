"""Writes kernels/text/unicode_ranges.h from Python's Unicode database: python scripts/unicode_tables.py FILE.

The ranges are in the source, and not asked of the Python that runs, so that the same text has the same measures under
every Python. Made with Unicode 14.0 (Python 3.11); characters that came later are of no class.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

UNICODE = "14.0.0"

# Name in the header -> what it says of a character, and the comment above it.
TABLES: dict[str, tuple[Callable[[str], bool], str]] = {
    "kLetters": (str.isalpha, "General category L*, as Python's str.isalpha."),
    "kDigits": (str.isdecimal, "General category Nd, as Python's str.isdecimal."),
    "kPunctuation": (lambda c: unicodedata.category(c).startswith("P"), "General category P*."),
    "kSymbols": (lambda c: unicodedata.category(c).startswith("S"), "General category S*."),
    "kSpaces": (str.isspace, "As Python's str.isspace."),
    "kNumeric": (str.isalnum, "Python's str.isalnum: letters and all that has a numeric value."),
}


def ranges(belongs: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """Runs (first, last) of code points for which ``belongs`` holds; surrogates are none."""
    first = None
    for code in range(0x110001):
        inside = code < 0x110000 and not 0xD800 <= code < 0xE000 and belongs(chr(code))
        if inside and first is None:
            first = code
        elif not inside and first is not None:
            yield first, code - 1
            first = None


def header() -> str:
    """The text of the header."""
    lines = [
        f"// Classes of characters in Unicode {UNICODE} as runs (first, last). Made by scripts/unicode_tables.py.",
        "#pragma once",
        "#include <cstdint>",
        "",
        "namespace jpllm::text {",
        "",
        "struct Range {",
        "    std::uint32_t first, last;",
        "};",
    ]
    for name, (belongs, about) in TABLES.items():
        lines += ["", f"// {about}", "// clang-format off", f"inline constexpr Range {name}[] = {{"]
        line = "   "
        for first, last in ranges(belongs):
            item = f" {{{first:#x},{last:#x}}},"
            if len(line) + len(item) > 120:
                lines.append(line)
                line = "   "
            line += item
        lines += [line, "};", "// clang-format on"]
    return "\n".join([*lines, "", "}  // namespace jpllm::text", ""])


if __name__ == "__main__":
    if unicodedata.unidata_version != UNICODE:
        sys.exit(f"this Python has Unicode {unicodedata.unidata_version}; the tables are of {UNICODE} (Python 3.11)")
    Path(sys.argv[1]).write_text(header(), encoding="utf-8")
