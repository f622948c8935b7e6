"""Which kernel an instruction belongs to: the functions that were inlined around it, from the line tables."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """The kernel an instruction belongs to, the family of kernels (a folder of kernels/src), and file:line; each is
    empty where the line tables do not tell."""

    kernel: str
    family: str
    line: str


def find_places(path: Path, symbolizer: str, addresses: list[int]) -> list[Place]:
    """The place of each address of a library or object file, from its line tables."""
    if not addresses:
        return []
    command = [symbolizer, f"--obj={path}", "--inlines", "--output-style=JSON", "--functions=linkage", "--demangle"]
    text = "".join(f"{address:#x}\n" for address in addresses)
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return [_place(json.loads(line).get("Symbol") or []) for line in result.stdout.splitlines() if line.strip()]


# Functions of these files are the means of a kernel, not its name.
_MEANS = re.compile(r"^/usr/|/simd/|/core/|arm_sve\.h$|intrin\.h$")
_MEANS_BY_NAME = re.compile(r"operator|for_vectors|sum_of|load_part|store_part")


def _place(frames: list[dict[str, object]]) -> Place:
    """The innermost frame that is a kernel of this project, and the family its file is in."""
    files = [str(frame.get("FileName", "")) for frame in frames]
    family = next((m[1] for name in reversed(files) if (m := re.search(r"kernels/src/(\w+)/", name))), "")
    for frame, name in zip(frames, files, strict=True):
        kernel = short_name(str(frame.get("FunctionName", "")))
        if not _MEANS.search(name) and not _MEANS_BY_NAME.match(kernel):
            return Place(kernel, family, f"{Path(name).name}:{frame.get('Line')}")
    return Place("", family, f"{Path(files[0]).name}:{frames[0].get('Line')}" if frames else "")


def short_name(name: str) -> str:
    """A demangled name without its return type, namespaces and arguments: `tile<8, 3>`."""
    name = re.sub(r"\(anonymous namespace\)::|jpllm::\w+::|jpllm::", "", name)
    name = re.sub(r"\(lambda at [^)]*\)", "lambda", name)
    depth, end, start = 0, len(name), 0
    for index, letter in enumerate(name):
        depth += (letter in "<") - (letter in ">")
        if depth == 0 and letter == "(":
            end = index
            break
        if depth == 0 and letter == " ":
            start = index + 1
    return name[start:end]
