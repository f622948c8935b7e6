"""Fetching packages: the table, checksums, another version, no apt, what the cache is good for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from pyjpllm.errors import UserError
from pyjpllm.files import sha256_of
from tests.scripts.test_text import make_deb

Modules = dict[str, ModuleType]


def test_the_table(quickstart: Modules) -> None:
    packages = quickstart["fetch"].read_table()
    assert len({package.name for package in packages}) == len(packages) >= 10
    for package in packages:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", package.name)
        assert re.fullmatch(r"[\w.+~:-]+", package.version)
        assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)
        assert package.licence
        assert package.kind in ("man", "html")
        assert package.pages.startswith("usr/")


class Archive:
    """An apt-get that hands out packages from a folder and counts how often it was asked."""

    def __init__(self, folder: Path, *, works_after: int = 0) -> None:
        self.folder = folder
        self.works_after = works_after
        self.calls: list[list[str]] = []

    def __call__(self, arguments: Sequence[str], target: Path) -> str:
        self.calls.append(list(arguments))
        names = arguments[arguments.index("download") + 1 :] if "download" in arguments else []
        if len(self.calls) <= self.works_after:
            return "E: nobody there"
        found = [file for name in names for file in self.folder.glob(f"{name}_*.deb")]
        if len(found) < len(names):
            return "E: unknown"  # as apt-get, which fetches nothing when it does not know one of the names
        for file in found:
            shutil.copy(file, target)
        return ""


@pytest.fixture
def packages(quickstart: Modules, tmp_path: Path) -> list[tuple[str, ...]]:
    folder = tmp_path / "archive"
    folder.mkdir()
    rows = []
    for name in ("first", "second"):
        file = make_deb(folder, name, "1.0", {"usr/x": name.encode()})
        rows.append(quickstart["fetch"].Package(name, "1.0", sha256_of(file), "free", "man", "usr/*"))
    return rows


def use(quickstart: Modules, monkeypatch: pytest.MonkeyPatch, archive: Archive) -> Archive:
    monkeypatch.setattr(quickstart["fetch"], "_apt", archive)
    return archive


def test_fetch_and_cache(
    quickstart: Modules, packages: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = use(quickstart, monkeypatch, Archive(tmp_path / "archive"))
    fetch, cache, said = quickstart["fetch"].fetch, tmp_path / "cache", []
    found = fetch(packages, cache, said.append)
    assert sorted(found) == ["first", "second"]
    assert not said
    assert len(archive.calls) == 1
    assert fetch(packages, cache, said.append) == found
    assert len(archive.calls) == 1
    found["first"].write_bytes(b"cut off")
    assert fetch(packages, cache, said.append) == found
    assert archive.calls[1] == ["download", "first"]


def test_a_known_version_with_another_checksum_is_refused(
    quickstart: Modules, packages: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(quickstart, monkeypatch, Archive(tmp_path / "archive"))
    wrong = [packages[0]._replace(sha256="0" * 64)]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"first 1\.0: SHA-256 is [0-9a-f]{64}, packages\.tsv has 0000"):
        quickstart["fetch"].fetch(wrong, tmp_path / "cache", print)


def test_another_version_is_taken_and_named(
    quickstart: Modules, packages: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(quickstart, monkeypatch, Archive(tmp_path / "archive"))
    said: list[str] = []
    older = [packages[0]._replace(version="0.9", sha256="0" * 64)]  # type: ignore[attr-defined]
    assert list(quickstart["fetch"].fetch(older, tmp_path / "cache", said.append)) == ["first"]
    assert said == ["first: version 1.0 (the table has 0.9); apt verified its signed checksum"]


def test_a_package_that_is_not_there_is_left_out(
    quickstart: Modules, packages: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = use(quickstart, monkeypatch, Archive(tmp_path / "archive"))
    said: list[str] = []
    more = [*packages, packages[0]._replace(name="third")]  # type: ignore[attr-defined]
    assert sorted(quickstart["fetch"].fetch(more, tmp_path / "cache", said.append)) == ["first", "second"]
    assert said == ["third: not to be had from this machine's apt sources, left out"]
    assert "update" in archive.calls[1]


def test_old_package_lists_are_fetched_anew_without_root(
    quickstart: Modules, packages: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = use(quickstart, monkeypatch, Archive(tmp_path / "archive", works_after=1))
    assert len(quickstart["fetch"].fetch(packages, tmp_path / "cache", print)) == 2
    update = archive.calls[1]
    assert f"Dir::State::lists={tmp_path / 'cache' / 'apt' / 'lists'}" in update
    assert (tmp_path / "cache" / "apt" / "lists" / "partial").is_dir()


def test_private_lists_work_from_a_relative_folder(
    quickstart: Modules, packages: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    apt = tools / "apt-get"
    apt.write_text(
        f"""#!/bin/bash
for word in "$@"; do
    case $word in
    Dir::State::lists=*) [[ -d ${{word#*=}}/partial ]] || exit 100; private=yes ;;
    first | second)
        [[ -n ${{private:-}} ]] || {{ echo E: no lists >&2; exit 100; }}
        cp "{tmp_path}/archive/$word"_*.deb .
        ;;
    esac
done
"""
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.chdir(tmp_path)
    assert sorted(quickstart["fetch"].fetch(packages, Path("cache"), print)) == ["first", "second"]


def test_nothing_to_be_had(
    quickstart: Modules, packages: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(quickstart, monkeypatch, Archive(tmp_path / "archive", works_after=99))
    with pytest.raises(UserError, match=r"could fetch none of 2 packages \(E: nobody there\): .*--text FILE"):
        quickstart["fetch"].fetch(packages, tmp_path / "cache", print)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"apt-get and dpkg-deb are not on this machine.*--text FILE"):
        quickstart["fetch"].fetch(packages, tmp_path / "cache", print)
