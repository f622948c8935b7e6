"""From what a user writes to files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pyjpllm.corpus import expand_inputs
from pyjpllm.errors import UserError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.jsonl.gz", "c.txt", "notes.md", ".hidden.jsonl", "sub/d.parquet", "sub/.git/e.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def names(paths: list[Path], tree: Path) -> list[str]:
    return [str(path.relative_to(tree)) for path in paths]


def test_folders_patterns_and_files(tree: Path) -> None:
    assert names(expand_inputs(tree), tree) == ["a.jsonl.gz", "b.jsonl", "c.txt", "sub/d.parquet"]
    assert names(expand_inputs([tree / "c.txt", str(tree / "*.jsonl*")]), tree) == ["c.txt", "a.jsonl.gz", "b.jsonl"]
    assert names(expand_inputs(str(tree / "**" / "*.parquet")), tree) == ["sub/d.parquet"]
    assert names(expand_inputs([tree / "b.jsonl", tree / "b.jsonl", tree]), tree)[:2] == ["b.jsonl", "a.jsonl.gz"]
    (tree / "x[1].jsonl").write_text("")
    assert names(expand_inputs(tree / "x[1].jsonl"), tree) == ["x[1].jsonl"]


def test_linked_folders_and_other_spellings(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = tmp_path_factory.mktemp("store")
    (store / "x.jsonl").write_text("")
    (store / "up").symlink_to(store)  # a loop
    (tree / "sub" / "linked").symlink_to(store)
    (tree / "sub" / "z.jsonl").symlink_to(tree / "b.jsonl")
    assert names(expand_inputs(tree / "sub"), tree) == ["sub/d.parquet", "sub/linked/x.jsonl", "sub/z.jsonl"]
    again = [tree / "b.jsonl", tree / "sub" / ".." / "b.jsonl", tree / "sub" / "z.jsonl", tree / "c.txt"]
    assert names(expand_inputs(again), tree) == ["b.jsonl", "c.txt"]


def test_a_folder_that_cannot_be_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"sub: the folder cannot be read \(Permission denied\)"):
        expand_inputs(tree)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("b.json", r"b\.json: no such file or folder; did you mean '.*b\.jsonl'\?"),
        ("none/b.jsonl", r"the folder '.*none' does not exist"),
        ("notes.md", r"notes\.md: files of this kind are not read; allowed: \.jsonl, "),
        ("*.zip", r"\*\.zip: no file matches"),
        ("*.md", r"matches '.*notes\.md', a kind that is not read"),
        ("sub/.git/../../empty", "no readable file in this folder"),
    ],
)
def test_mistakes(tree: Path, given: str, message: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        expand_inputs(str(tree / given))


def test_nothing() -> None:
    with pytest.raises(UserError, match="no input files"):
        expand_inputs([])
