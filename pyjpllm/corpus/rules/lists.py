"""Word lists: a word a line, `#` begins a comment. Those of the package are in lists/, each with its source on top."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyjpllm.errors import UserError, did_you_mean

FOLDER = Path(__file__).with_name("lists")
_HOST = re.compile(r"[\w-]+(?:\.[\w-]+)*|[0-9a-f]*:[0-9a-f:.]+")


def list_names() -> list[str]:
    """The lists of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def read_words(path: Path) -> list[str]:
    """The words of a file, without those that come again. Raises UserError when it cannot be read or holds none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: the word list cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the word list is not UTF-8; convert it, e.g. with iconv") from None
    lines = (line.strip() for line in text.splitlines())
    words = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not words:
        raise UserError(f"{path}: the word list holds no word")
    return words


def read_hosts(path: Path) -> list[str]:
    """The hosts of a file, in small letters as ``known.host_of`` gives them; those of other letters than ASCII also in
    the form that IDNA gives them (`例え.jp`, `xn--r8jz45g.jp`).

    Raises UserError as ``read_words`` does, and for a line that is no host, such as an address.
    """
    hosts = []
    for line in read_words(path):
        host = line.lower().strip(".")
        if not _HOST.fullmatch(host):
            meant = _HOST.search(host.rpartition("//")[2]) if "/" in host else None
            raise UserError(f"{path}: {line!r} is no host" + (f"; did you mean {meant[0]!r}?" if meant else ""))
        hosts.append(host)
        if not host.isascii():
            with contextlib.suppress(UnicodeError):
                hosts.append(host.encode("idna").decode())
    return hosts


def means_file(name: str) -> bool:
    """Whether a list's name is the path of a file: one of no list of the package, with a `/` or a suffix."""
    return name not in list_names() and ("/" in name or Path(name).suffix != "")


def load_list(name: str) -> list[str]:
    """The words of a list: of the package by name, or of a file by its path (anything with a `/` or a suffix).

    Raises UserError with the nearest name.
    """
    if name in list_names():
        return read_words(FOLDER / f"{name}.txt")
    if means_file(name):
        return read_words(Path(name))
    raise UserError(f"no word list {name!r}{did_you_mean(name, list_names())}, or a path such as ./{name}.txt")


def load_lists(lists: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Lists by name, each put together of lists of the package and of files."""
    return {
        name: list(dict.fromkeys(word for part in parts for word in load_list(part))) for name, parts in lists.items()
    }
