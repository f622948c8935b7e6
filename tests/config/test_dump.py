"""A config as TOML and back; the generated reference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.config import load_config, to_toml
from pyjpllm.config.dump import format_value
from pyjpllm.config.reference import reference
from tests.config.builders import config, write_project

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent.parent

scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(values)
def test_any_value_comes_back(value: Any) -> None:
    assert tomllib.loads(f"value = {format_value(value)}")["value"] == value


def test_what_toml_has_not_is_refused() -> None:
    with pytest.raises(TypeError):
        format_value(None)
    with pytest.raises(TypeError):
        format_value(object())
    assert format_value(float("inf")) == "inf"


def test_a_loaded_config_comes_back_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = load_config(
        write_project(tmp_path),
        [
            "model.rope_scaling.kind=llama3",
            "model.rope_scaling.factor=8",
            'log.sample_prompts=["「\\"", "a\\nb\\t\\u007f"]',
        ],
    )
    again = tmp_path / "config.toml"
    again.write_text(to_toml(first), encoding="utf-8")
    second = load_config(again)
    assert second == first
    assert to_toml(second) == to_toml(first)


prompts = st.lists(st.text(st.characters(codec="utf-8")), max_size=3)


@settings(deadline=None)
@given(
    st.integers(1, 10**12),
    st.floats(1e-300, 1e300),
    prompts,
    st.lists(st.tuples(st.text(min_size=1, max_size=8), st.floats(1e-6, 1e6)), min_size=1, max_size=4),
)
def test_every_config_comes_back(steps: int, lr: float, texts: list[str], corpora: list[tuple[str, float]]) -> None:
    first = config(
        train={"steps": steps},
        optimizer={"lr": lr},
        log={"sample_prompts": texts},
        data={"train": [{"path": path, "weight": weight} for path, weight in corpora]},
    )
    assert type(first).model_validate(tomllib.loads(to_toml(first))) == first


def test_sections_stand_in_the_order_of_the_schema() -> None:
    text = to_toml(config(model={"rope_scaling": {"kind": "linear", "factor": 2.0}}))
    headers = [line for line in text.splitlines() if line.startswith("[")]
    assert headers == [
        *("[model]", "[model.rope_scaling]", "[data]", "[precision]", "[parallel]", "[optimizer]"),
        *("[schedule]", "[train]", "[checkpoint]", "[log]"),
    ]
    assert "None" not in text


def test_the_reference_is_up_to_date() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m pyjpllm.config.reference > docs/configuration.md"


def test_the_example_in_the_reference_is_valid(tmp_path: Path) -> None:
    example = reference().split("```toml\n")[1].split("```")[0]
    path = tmp_path / "example.toml"
    path.write_text(example, encoding="utf-8")
    assert load_config(path).model.hidden_size == 512
