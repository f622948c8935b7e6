"""Fetch Debian packages by `apt-get download` into a cache, without root and without touching the system's apt state.

A version that packages.tsv knows must have its checksum. Another version (a point release, another Debian) has only the
checksum in apt's signed index, which apt itself verifies: it is taken and named.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pyjpllm.errors import UserError
from pyjpllm.files import fsync_directory, fsync_file, sha256_of

TABLE = Path(__file__).with_name("packages.tsv")
OWN_TEXT = "give your own text with --text FILE"


class Package(NamedTuple):
    """A row of packages.tsv."""

    name: str
    version: str
    sha256: str
    licence: str
    kind: str
    pages: str


def read_table(path: Path = TABLE) -> list[Package]:
    """The rows of packages.tsv."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    return [Package(*row) for row in rows[1:]]


def fetch(packages: Sequence[Package], cache: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """Package names to files in ``cache``; what is there already is checked and used.

    Raises UserError where apt-get is missing, nothing can be had, or a known version has another checksum.
    """
    cache = cache.absolute()  # apt-get runs in another folder
    cache.mkdir(parents=True, exist_ok=True)
    found = {package.name: path for package in packages if (path := _cached(package, cache))}
    wanted = [package for package in packages if package.name not in found]
    if not wanted:
        return found
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise UserError(f"apt-get and dpkg-deb are not on this machine, so Debian's text cannot be fetched: {OWN_TEXT}")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as folder:
        problem = _download([package.name for package in wanted], Path(folder), cache)
        files = {package: sorted(Path(folder).glob(f"{package.name}_*.deb")) for package in wanted}
        if not found and not any(files.values()):
            raise UserError(f"apt-get could fetch none of {len(packages)} packages ({problem}): {OWN_TEXT}")
        for package in wanted:
            if files[package]:
                found[package.name] = _accept(package, files[package][0], cache, say)
            else:
                say(f"{package.name}: not to be had from this machine's apt sources, left out")
    return found


def _cached(package: Package, cache: Path) -> Path | None:
    """A file in the cache that was accepted before and has the checksum it had then."""
    for note in sorted(cache.glob(f"{package.name}_*.deb.sha256")):
        path = note.with_suffix("")
        if path.exists() and sha256_of(path) == note.read_text(encoding="utf-8").strip():
            return path
    return None


def _accept(package: Package, file: Path, cache: Path, say: Callable[[str], None]) -> Path:
    version = _run(["dpkg-deb", "-f", str(file), "Version"]).stdout.strip()
    digest = sha256_of(file)
    if version == package.version and digest != package.sha256:
        raise UserError(
            f"{package.name} {version}: SHA-256 is {digest}, {TABLE.name} has {package.sha256}: "
            "this is not the package that Debian published"
        )
    if version != package.version:
        say(f"{package.name}: version {version} (the table has {package.version}); apt verified its signed checksum")
    target = cache / file.name
    fsync_file(file)
    os.replace(file, target)
    note = target.with_name(target.name + ".sha256")
    note.write_text(digest + "\n", encoding="utf-8")
    fsync_file(note)
    fsync_directory(cache)
    return target


def _download(names: Sequence[str], folder: Path, cache: Path) -> str:
    """Leave what can be had of ``names`` in ``folder``, by the system's package lists or else by fresh private ones.

    Returns apt-get's last complaint, empty when there was none.
    """
    problem = _apt(["download", *names], folder)
    if not problem:
        return ""
    lists, archives = cache / "apt" / "lists", cache / "apt" / "cache"
    for path in (lists / "partial", archives / "archives" / "partial"):
        path.mkdir(parents=True, exist_ok=True)
    private = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={archives}"]
    # An update fails when one source of many is down: the downloads tell.
    _apt([*private, "-o", "Acquire::Languages=none", "update"], folder)
    problem = _apt([*private, "download", *names], folder)
    if problem:  # apt-get fetches nothing when it does not know one of the names
        for name in names:
            if not list(folder.glob(f"{name}_*.deb")):
                problem = _apt([*private, "download", name], folder) or problem
    return problem


def _apt(arguments: Sequence[str], folder: Path) -> str:
    """Run apt-get in ``folder``: empty when it went well, else the last line of what it complained about."""
    options = ["-qq", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30"]
    result = _run(["apt-get", *options, *arguments], folder)
    lines = [line for line in result.stderr.splitlines() if line.startswith("E:")] or [f"exit {result.returncode}"]
    return lines[-1] if result.returncode else ""


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
