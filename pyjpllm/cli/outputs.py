"""Where a command is to write: asked before it works, so that hours of work do not end in a path that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

from pyjpllm.errors import UserError


def file_to_write(option: str, path: Path) -> None:
    """Raise UserError where no file can be written at ``path``; folders that are missing are made when it is."""
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():  # it would be replaced by a file
        raise UserError(f"{option} {path}: is a device or a pipe; name a file")
    folder_to_write(option, path, path.parent)


def folder_to_write(option: str, path: Path, folder: Path | None = None) -> None:
    """Raise UserError where ``folder`` (by default ``path``) is none, or nothing may be written there."""
    wanted = (folder or path).absolute()
    there = next(each for each in (wanted, *wanted.parents) if os.path.lexists(each))
    if there == path.absolute() and not there.is_dir():
        raise UserError(f"{option} {path}: is a file; name a folder")
    if not there.is_dir():
        raise UserError(f"{option} {path}: {_shown(there)} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: nothing may be written into {_shown(there)}")


def _shown(path: Path) -> str:
    """As the user would write it: from the working directory, if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
