"""Writes the reference of all config fields from the schema.

python -m pyjpllm.config.reference > docs/configuration.md
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pyjpllm.config.dump import format_value
from pyjpllm.config.mistakes import plain
from pyjpllm.config.presets import PRESETS
from pyjpllm.config.schema import Config, Section

_HEAD = """\
# Configuration

<!-- Written by `python -m pyjpllm.config.reference > docs/configuration.md`; edit pyjpllm/config/schema.py instead. -->

A run is described by one TOML file. A small one:

```toml
[model]
preset = "25m"

[data]
train = [{path = "tokens/web", weight = 9}, {path = "tokens/wiki"}]
valid = [{path = "tokens/heldout"}]
tokenizer = "tokenizer"
sequence_length = 1024

[train]
steps = 2000
global_batch = 64
micro_batch = 4
eval_interval = 200

[optimizer]
lr = 1e-3
```

- On the command line `section.key=value` sets a field over the file's: `jpllm train config.toml train.steps=100
  model.rope_scaling.factor=8 data.train.0.weight=2 --run runs/first`. The value is TOML; a word that is not TOML is a
  text, so `precision.dtype=bf16` needs no quotes. A number in a name is a place in a list, the first is 0. A field may
  be set once.
- A value is never converted: `"100"` is no number and `100.0` no whole number. A whole number is a number, too.
- Paths are relative to the folder the command is started in.
- `model.preset` and `model.init_from` fill the sizes that are not written. Beside a preset, a written `hidden_size` or
  `num_heads` also takes `head_dim` with it, and `num_kv_heads` where the preset has as many as `num_heads`. Beside
  `init_from`, a written size must be that of the folder.
- `head_dim` is `hidden_size / num_heads` and `num_kv_heads` is `num_heads` where nothing gives them.
- The whole config is checked before any rank starts work: unknown names, types, ranges, sizes that must divide, ranks,
  files. `jpllm train config.toml --check --ranks 8` does only that.
- The run's folder gets the config as it was used, all defaults written out, as `config.toml`.
"""


def reference() -> str:
    """The text of docs/configuration.md."""
    parts = [_HEAD]
    for name, field in Config.model_fields.items():
        parts.append(section(name, plain(field.annotation)))
    parts.append(_presets())
    return "\n".join(parts)


def section(path: str, table: type[BaseModel]) -> str:
    """A heading, the class's docstring and a table of its fields; the tables within it below."""
    about = inspect.getdoc(table) or ""
    about = about.removeprefix(f"`[{path}]`: ")
    lines = [f"## [{path}]", "", about[:1].upper() + about[1:], "", "| field | type | default | meaning |"]
    lines.append("|---|---|---|---|")
    below: list[str] = []
    for name, field in table.model_fields.items():
        lines.append(
            f"| `{name}` | {_type(field)} | {_default(path, name, field)} | {_cell(field.description or '')} |"
        )
        for inner in _tables_in(plain(field.annotation)):
            below.append(section(f"{path}.{name}", inner).replace("## ", "### ", 1))
    return "\n".join(lines) + "\n" + "".join("\n" + text for text in below)


def _tables_in(annotation: Any) -> Iterator[type[Section]]:
    inner = plain(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is list else annotation
    if isinstance(inner, type) and issubclass(inner, Section):
        yield inner


def _type(field: FieldInfo) -> str:
    annotation = plain(field.annotation)
    if typing.get_origin(annotation) is Literal:
        return ", ".join(f"`{format_value(choice)}`" for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        inner = plain(typing.get_args(annotation)[0])
        if typing.get_origin(inner) is Literal:
            return "list of " + ", ".join(f"`{format_value(choice)}`" for choice in typing.get_args(inner))
        return {str: "list of texts", float: "list of numbers"}.get(inner, "list of tables")
    if typing.get_origin(annotation) is dict:
        inner = plain(typing.get_args(annotation)[1])
        return "table of lists of texts" if typing.get_origin(inner) is list else "table of tables"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "table"
    kinds = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}
    several = [kind for kind in typing.get_args(annotation) if kind in kinds]
    kind = " or ".join(kinds[kind] for kind in several or [annotation])
    return kind + _limits(field, whole=annotation is int)


def _limits(field: FieldInfo, *, whole: bool) -> str:
    rules: list[Any] = list(field.metadata)
    for argument in typing.get_args(field.annotation):  # the limits of an Optional are one level down
        rules += getattr(argument, "__metadata__", ())
    found: dict[str, Any] = {}
    for rule in rules:
        for item in getattr(rule, "metadata", [rule]):
            for name in ("gt", "ge", "lt", "le", "multiple_of"):
                value = getattr(item, name, None)
                if value is not None:
                    found[name] = value
    texts = []
    if "gt" in found:
        texts.append(f">= {found['gt'] + 1}" if whole else f"> {found['gt']:g}")
    texts += [f"{sign} {found[name]:g}" for name, sign in (("ge", ">="), ("lt", "<"), ("le", "<=")) if name in found]
    if "multiple_of" in found:
        texts.append(f"a multiple of {found['multiple_of']}")
    return " " + ", ".join(texts) if texts else ""


def _default(path: str, name: str, field: FieldInfo) -> str:
    if field.is_required():
        if path != "model":
            return "required"
        derived = {"num_kv_heads": "`num_heads`", "head_dim": "`hidden_size / num_heads`"}
        return f"the preset's, or {derived.get(name, 'required')}"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    return f"`{format_value(value)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _presets() -> str:
    columns = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
    lines = ["## Presets", "", "Values of `model.preset`:", "", f"| preset | {' | '.join(columns)} | other |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for name, sizes in PRESETS.items():
        other = ", ".join(f"`{k} = {format_value(v)}`" for k, v in sizes.items() if k not in columns)
        lines.append(f"| `{name}` | {' | '.join(str(sizes[c]) for c in columns)} | {other} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
