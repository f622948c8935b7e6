"""A user's mistakes in a config, in words: one line each, with the field as written and the nearest right one."""

from __future__ import annotations

import datetime
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pyjpllm.config.dump import format_value
from pyjpllm.config.presets import PRESETS
from pyjpllm.config.schema import Config
from pyjpllm.errors import UserError, nearest

Location = tuple[str | int, ...]

# What other trainers call the same thing; only for the "did you mean" of an unknown key.
_ELSEWHERE = {
    "batch_size": "train.global_batch",
    "bf16": "precision.dtype",
    "block_size": "data.sequence_length",
    "d_model": "model.hidden_size",
    "cp": "parallel.context",
    "ep": "parallel.expert",
    "pp": "parallel.pipeline",
    "dropout": None,
    "ffn_hidden_size": "model.intermediate_size",
    "fp16": "precision.dtype",
    "grad_accum": "train.micro_batch",
    "gradient_accumulation_steps": "train.micro_batch",
    "grad_clip": "optimizer.clip_grad_norm",
    "learning_rate": "optimizer.lr",
    "max_iters": "train.steps",
    "max_lr": "optimizer.lr",
    "max_seq_len": "data.sequence_length",
    "max_steps": "train.steps",
    "min_lr": "schedule.min_lr_ratio",
    "n_head": "model.num_heads",
    "n_layer": "model.num_layers",
    "save_interval": "checkpoint.interval",
    "seq_length": "data.sequence_length",
    "seq_len": "data.sequence_length",
    "tp": "parallel.tensor",
    "dp": "parallel.data",
    "train_iters": "train.steps",
    "warmup": "schedule.warmup_steps",
}
# And what is called otherwise among the choices of a field.
_OTHER_WORDS = {"gpu": "cuda", "float": "fp32", "float32": "fp32", "double": "fp64", "float64": "fp64", "mpi": "mpi4py"}


@dataclass(frozen=True)
class Mistake:
    """One mistake: where in the tree, and what to say after the field's name and value."""

    location: Location
    text: str


class ConfigError(UserError):
    """All that was found wrong with a config: ``lines`` has one line a mistake, ``str()`` joins them."""

    LIMIT = 10

    def __init__(self, lines: Sequence[str]) -> None:
        shown = [line.replace("\n", " ") for line in lines[: self.LIMIT]]
        if len(lines) > self.LIMIT:
            shown.append(f"and {len(lines) - self.LIMIT} more mistakes")
        self.lines = tuple(shown)
        super().__init__("\n".join(shown))


def dotted(location: Iterable[str | int]) -> str:
    """``("data", "train", 0, "path")`` as ``data.train.0.path``, which is also how an override names it."""
    return ".".join(str(part) for part in location)


def shown(value: object, limit: int = 60) -> str:
    """A value as TOML would have it, cut when it is long."""
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    try:
        text = format_value(value)
    except TypeError:
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def plain(annotation: Any) -> Any:
    """The annotation without Annotated and Optional."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return plain(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        kept = [a for a in typing.get_args(annotation) if a is not type(None)]
        return plain(kept[0]) if len(kept) == 1 else annotation
    return annotation


def annotation_at(location: Location, root: Any = Config) -> Any:
    """The type of the field at ``location`` below a table's type, without Annotated and Optional; None when there is no
    such field."""
    here: Any = root
    for part in location:
        if isinstance(part, int):
            if typing.get_origin(here) is not list:
                return None
            here = plain(typing.get_args(here)[0])
        elif typing.get_origin(here) is dict:
            here = plain(typing.get_args(here)[1])
        else:
            field = fields_of(here).get(part)
            if field is None:
                return None
            here = plain(field.annotation)
    return here


def fields_of(annotation: Any) -> Mapping[str, FieldInfo]:
    """The fields of a table's type; empty for any other type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields
    return {}


def all_names(annotation: Any = Config, prefix: str = "") -> list[str]:
    """Every field below a table's type, dotted, tables themselves left out."""
    names: list[str] = []
    for name, field in fields_of(annotation).items():
        below = all_names(plain(field.annotation), f"{prefix}{name}.")
        names += below or [prefix + name]
    return names


def right_name(location: Location, root: Any = Config) -> str | None:
    """The dotted name that was most likely meant by a location that does not exist below a table's type."""
    *parents, last = location
    word = str(last).lower().replace("-", "_")
    if not parents and word in fields_of(root):
        return word
    if root is Config and _ELSEWHERE.get(word):
        return _ELSEWHERE[word]
    everything = all_names(root)
    elsewhere = [name for name in everything if name.rsplit(".", 1)[-1] == word]
    siblings = list(fields_of(annotation_at(tuple(parents), root)))
    if word in siblings:
        return dotted([*parents, word])
    if len(elsewhere) == 1:
        return elsewhere[0]
    match = nearest(word, siblings)
    if match is not None:
        return dotted([*parents, match])
    if elsewhere:
        return elsewhere[0]
    tails: dict[str, str] = {}
    for name in everything:
        tails.setdefault(name.rsplit(".", 1)[-1], name)
    match = nearest(word, tails)
    return tails[match] if match is not None else None


def unknown(location: Location, value: object, root: Any = Config) -> Mistake:
    """A key or a section that the schema does not have."""
    right = right_name(location, root)
    what = "no such section" if len(location) == 1 and isinstance(value, dict) else "no such field"
    if right is not None:
        return Mistake(location, f"{what}; did you mean {right!r}?")
    parent = location[:-1]
    allowed = ", ".join(fields_of(annotation_at(parent, root)))
    return Mistake(location, f"{what}; allowed{' in ' + dotted(parent) if parent else ''}: {allowed}")


def kind_of(annotation: Any) -> str:
    """A type in a user's words."""
    here = plain(annotation)
    if typing.get_origin(here) is Literal:
        return "one of " + ", ".join(str(a) for a in typing.get_args(here))
    if typing.get_origin(here) is list:
        inner = plain(typing.get_args(here)[0])
        if fields_of(inner):
            return 'a list of tables such as [{path = "tokens/web"}]'
        return "a list of " + ("texts in quotes" if inner is str else "values")
    if fields_of(here) or typing.get_origin(here) is dict:
        return "a table"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}.get(here, "a value")


def wrong_type(location: Location, value: object, root: Any = Config) -> Mistake:
    """A value of another type than the field has."""
    want = annotation_at(location, root)
    better = _converted(value, want)
    hint = f"; did you mean {shown(better)}?" if better is not None else ""
    return Mistake(location, f"must be {kind_of(want)}{hint}")


def _converted(value: object, want: Any) -> object:
    """The value as the wanted type, when it is clear what was meant; else None."""
    if want is str and isinstance(value, (int, float, datetime.date)) and not isinstance(value, bool):
        return str(value)
    if want is bool:
        word = str(value).lower()
        return True if word in ("true", "1", "yes", "on") else False if word in ("false", "0", "no", "off") else None
    if want in (int, float) and isinstance(value, (str, float)):
        try:
            number = float(str(value).replace(",", "").replace("_", ""))
        except ValueError:
            return None
        whole = number == number and abs(number) != float("inf") and number == int(number)
        return int(number) if whole else (number if want is float else None)
    if typing.get_origin(want) is list and typing.get_args(want)[0] is str and isinstance(value, str):
        return [value]
    if typing.get_origin(want) is list and fields_of(plain(typing.get_args(want)[0])) and isinstance(value, str):
        return [{"path": value}]
    return None


def not_a_choice(location: Location, value: object, root: Any = Config) -> Mistake:
    """A value that is not in a field's list of choices."""
    choice = annotation_at(location, root)
    if location[-1] == "[key]":  # what pydantic puts behind a key that is wrong itself
        location = location[:-1]
        choice = plain(typing.get_args(annotation_at(location[:-1], root))[0])
    choices = [str(a) for a in typing.get_args(choice)]
    word = str(value).lower()
    match = _OTHER_WORDS.get(word.split(":")[0])
    if match not in choices:
        match = nearest(word, choices)
    hint = f"did you mean {shown(match)}? " if match is not None else ""
    listed = f"allowed: {', '.join(choices)}"
    return Mistake(location, f"{hint}({listed})" if hint else listed)


def out_of_range(location: Location, value: object, error: ErrorDetails, root: Any = Config) -> Mistake:
    """A number beyond the field's limits."""
    limits = error.get("ctx", {})
    whole = annotation_at(location, root) is int
    if error["type"] == "greater_than":
        limit = limits["gt"]
        text = f"must be at least {int(limit) + 1}" if whole else f"must be greater than {limit:g}"
    elif error["type"] == "greater_than_equal":
        text = f"must be at least {limits['ge']:g}"
    elif error["type"] == "less_than":
        text = f"must be less than {limits['lt']:g}"
    elif error["type"] == "less_than_equal":
        text = f"must be at most {limits['le']:g}"
    elif error["type"] == "multiple_of":
        step = limits["multiple_of"]
        below = int(value) // step * step if isinstance(value, int) else step
        near = [str(n) for n in (below, below + step) if n > 0]
        text = f"must be a multiple of {step}; nearest: {' or '.join(near)}"
    else:
        text = "must be a finite number"
    return Mistake(location, text)


def missing(location: Location, root: Any = Config) -> Mistake:
    """A required field that is not there."""
    annotation = annotation_at(location, root)
    if len(location) == 1 and root is Config:
        needs = [name for name, field in fields_of(annotation).items() if field.is_required()]
        return Mistake(location, f"section is missing; it needs {', '.join(dotted([*location, n]) for n in needs)}")
    field = fields_of(annotation_at(location[:-1], root)).get(str(location[-1]))
    about = (field.description or "").split(". ")[0].split(";")[0].rstrip(".:") if field is not None else ""
    if typing.get_origin(annotation) is Literal:
        return Mistake(location, f"is missing: {kind_of(annotation)}")
    return Mistake(location, f"is missing: {about} ({kind_of(annotation)})")


def from_pydantic(errors: Iterable[ErrorDetails], root: Any = Config) -> list[Mistake]:
    """Pydantic's findings about ``root`` in this house's words, without those that only follow from another one."""
    mistakes: list[Mistake] = []
    meant: set[str] = set()
    absent: list[Location] = []
    for error in errors:
        location: Location = error["loc"]
        value, kind = error["input"], error["type"]
        if kind == "extra_forbidden":
            mistakes.append(unknown(location, value, root))
            meant.add(right_name(location, root) or "")
        elif kind == "missing":
            absent.append(location)
        elif kind == "literal_error":
            mistakes.append(not_a_choice(location, value, root))
        elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"):
            mistakes.append(out_of_range(location, value, error, root))
        elif kind == "finite_number":
            mistakes.append(Mistake(location, "must be a finite number"))
        elif kind == "too_short":
            mistakes.append(
                Mistake(location, f"must have at least one entry: {kind_of(annotation_at(location, root))}")
            )
        elif kind == "value_error":
            mistakes.append(Mistake(location, str(error["ctx"]["error"])))
        else:
            mistakes.append(wrong_type(location, value, root))
    bad = {m.location for m in mistakes}
    for location in absent:
        if dotted(location) in meant or any(name.startswith(dotted(location) + ".") for name in meant):
            continue
        if location == ("model", "head_dim") and _sizes_wrong(bad, absent):
            continue
        if location == ("model", "num_kv_heads") and (
            ("model", "num_heads") in bad or ("model", "num_heads") in absent or "model.num_heads" in meant
        ):
            continue
        mistakes.append(missing(location, root))
    return mistakes


def _sizes_wrong(bad: set[Location], absent: Sequence[Location]) -> bool:
    sizes: list[Location] = [("model", "hidden_size"), ("model", "num_heads")]
    return any(size in bad or size in absent for size in sizes)


def no_such_preset(name: object) -> Mistake:
    """A preset that is not in the table."""
    match = nearest(str(name).lower(), PRESETS)
    hint = f"did you mean {shown(match)}? " if match is not None else ""
    return Mistake(("model", "preset"), f"no such preset; {hint}(allowed: {', '.join(PRESETS)})")


def nearest_path(path: Path) -> str:
    """``"; did you mean 'dir/x.toml'?"`` from the names in the deepest folder that exists, or what does not exist."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        path, folder = folder, folder.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return ""
    match = nearest(path.name, names)
    if match is not None and match != path.name:
        return f"; did you mean {str(folder / match)!r}?"
    return f"; there is no {path.name!r} in {str(folder.absolute())!r}"
