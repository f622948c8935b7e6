"""Whatever is written, loading and checking end in a config or in lines about mistakes, never in a crash."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.config import Config, ConfigError, check_config, load_config, to_toml
from pyjpllm.config.dump import format_value
from pyjpllm.config.mistakes import all_names
from tests.config.builders import TEXT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.sampled_from(["tiny", "bf16", "cpu", "", "linear", "昔々", "a\nb", "12", "tokens/web"]),
    st.text(max_size=6),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["path", "weight", "kind", "x", "é"]), inner)
    ),
    max_leaves=4,
)
names = st.one_of(
    st.sampled_from(all_names()),
    st.sampled_from(
        ["model", "data", "train", "data.train", "data.train.0", "data.train.1.path", "model.rope_scaling"]
    ),
    st.lists(st.sampled_from(["model", "train", "lr", "0", "steps", "ü", "rope_scaling"]), min_size=1, max_size=4).map(
        ".".join
    ),
)


def put(raw: dict[str, Any], name: str, value: Any) -> None:
    """Set (or, for None, remove) a dotted name as far as it goes."""
    here: Any = raw
    *parents, last = name.split(".")
    for part in parents:
        if isinstance(here, list):
            here = here[int(part)] if part.isdigit() and int(part) < len(here) else {}
        elif isinstance(here, dict):
            here = here.setdefault(part, {})
    if isinstance(here, dict):
        if value is None:
            here.pop(last, None)
        else:
            here[last] = value


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_none(v) for v in value if v is not None]
    return value


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "run.toml"


def outcome(file: Path, overrides: list[str], ranks: int) -> Config | ConfigError:
    try:
        config = load_config(file, overrides, read_pretrained=lambda _: {})
        check_config(config, ranks, machine=False)
    except ConfigError as error:
        return error
    assert Config.model_validate(tomllib.loads(to_toml(config))) == config
    return config


def well_said(found: Config | ConfigError) -> None:
    """Every mistake is one line with something on it."""
    if isinstance(found, ConfigError):
        assert found.lines
        assert all(line.strip() and "\n" not in line for line in found.lines)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(names, values), max_size=4), st.integers(1, 6))
def test_no_file_crashes(file: Path, changes: list[tuple[str, Any]], ranks: int) -> None:
    raw = tomllib.loads(TEXT)
    for name, value in changes:
        put(raw, name, copy.deepcopy(value))
    text = "".join(f"{format_value_key(k)} = {format_value(v)}\n" for k, v in without_none(raw).items())
    file.write_text(text, encoding="utf-8")
    well_said(outcome(file, [], ranks))


def format_value_key(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else format_value(name)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(names, values | st.text(max_size=8)), max_size=4), st.integers(1, 6))
def test_no_override_crashes(file: Path, changes: list[tuple[str, Any]], ranks: int) -> None:
    file.write_text(TEXT, encoding="utf-8")
    overrides = []
    for name, value in changes:
        written = without_none(value)
        overrides.append(f"{name}={written if isinstance(written, str) or written is None else format_value(written)}")
    found = outcome(file, overrides, ranks)
    well_said(found)
    if isinstance(found, ConfigError) and not any("override" in line for line in found.lines):
        # What the file alone has wrong in a folder without its tokens is said of the files.
        assert all(str(file) not in line for line in found.lines), found.lines


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(TEXT)), st.integers(0, 12), st.text(max_size=3))
def test_no_damage_to_the_text_crashes(file: Path, start: int, length: int, instead: str) -> None:
    damaged = TEXT[:start] + instead + TEXT[start + length :]
    file.write_bytes(damaged.encode("utf-8", "surrogatepass"))
    well_said(outcome(file, [], 1))
