"""From what a user writes (files, folders, patterns) to a sorted list of readable files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pyjpllm.errors import UserError, nearest

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt", ".txt.gz", ".txt.zst")
"""What every command reads."""


def suffix_of(path: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> str | None:
    """Which of ``suffixes`` the name ends in, or None."""
    name = os.path.basename(os.fspath(path)).lower()
    return max((s for s in suffixes if name.endswith(s)), key=len, default=None)


def expand_inputs(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], suffixes: Sequence[str] = SUFFIXES
) -> list[Path]:
    """The files behind paths, folders (all readable files below them) and patterns (`data/**/*.jsonl.gz`).

    Inputs keep their order; the files of a folder or a pattern are sorted by name. A file named twice is taken once,
    however it is written; linked folders are looked into. Raises UserError for a name that matches nothing, a folder
    that cannot be read, and a file of a kind that is not in ``suffixes``.
    """
    given: Sequence[str | os.PathLike[str]] = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not given:
        raise UserError("no input files")
    files: dict[str, Path] = {}
    for item in given:
        for file in _expand(os.fspath(item), suffixes):
            files.setdefault(os.path.realpath(file), file)
    return list(files.values())


def _expand(item: str, suffixes: Sequence[str]) -> list[Path]:
    path = Path(item)
    if path.is_file():
        if suffix_of(path, suffixes) is None:
            raise UserError(f"{item}: files of this kind are not read; allowed: {', '.join(suffixes)}")
        return [path]
    if path.is_dir():
        found = sorted(file for file in _below(path) if suffix_of(file, suffixes) and file.is_file())
        if not found:
            raise UserError(f"{item}: no readable file in this folder; looked for {', '.join(suffixes)}")
        return found
    if glob.has_magic(item):
        found = sorted(Path(name) for name in glob.glob(item, recursive=True) if os.path.isfile(name))
        wrong = [file for file in found if suffix_of(file, suffixes) is None]
        if not found:
            raise UserError(f"{item}: no file matches this pattern")
        if wrong:
            raise UserError(
                f"{item}: matches {str(wrong[0])!r}, a kind that is not read; allowed: {', '.join(suffixes)}"
            )
        return found
    raise UserError(f"{item}: no such file or folder{_nearest(path)}")


def _below(folder: Path) -> Iterator[Path]:
    """What is in a folder and those below it, linked ones too, each once; not what is hidden. Raises UserError."""

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror})")

    seen: set[str] = set()
    for where, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(where)
        if real in seen:  # a link back up, or a second one
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(where, name) for name in names if not name.startswith("."))


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {str(path.parent)!r} does not exist"
    match = nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()))
    return f"; did you mean {str(path.parent / match)!r}?" if match else ""
