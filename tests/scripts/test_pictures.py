"""The pictures that are drawn by rule are those in docs/images, and docs/parallelism.md shows each."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree

from tests.scripts.conftest import REPO

IMAGES = REPO / "docs" / "images"


def test_they_are_as_drawn(tmp_path: Path) -> None:
    script = runpy.run_path(str(REPO / "scripts" / "pictures.py"))
    script["main"]([str(tmp_path)])
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert drawn == {name: (IMAGES / name).read_text(encoding="utf-8") for name in script["PICTURES"]}


def test_each_is_shown_and_says_what_it_shows() -> None:
    page = (REPO / "docs" / "parallelism.md").read_text(encoding="utf-8")
    for name in ("data", "zero", "tensor", "sequence", "context", "experts", "pipeline", "axes"):
        assert f"(images/{name}.svg)" in page
        root = ElementTree.parse(IMAGES / f"{name}.svg").getroot()
        described = root.find("{http://www.w3.org/2000/svg}desc")
        assert described is not None
        assert described.text
        assert root.get("aria-labelledby") == "title desc"
