"""From a TOML file and overrides to a ``Config``, with every mistake said in one line."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import ValidationError

from pyjpllm.config import mistakes as say
from pyjpllm.config.mistakes import ConfigError, Location, Mistake
from pyjpllm.config.overrides import Overrides, apply_overrides, parse_overrides
from pyjpllm.config.presets import PRESETS
from pyjpllm.config.schema import Config, ModelConfig
from pyjpllm.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SIZES = ("hidden_size", "num_layers", "num_heads", "intermediate_size")
# Written beside init_from these must be what the folder says, or its weights do not fit.
_FIXED_BY_WEIGHTS = (
    *("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size", "vocab_size"),
    *("tie_embeddings", "qkv_bias", "out_bias", "mlp_bias", "qk_norm"),
)
_FIXED_OF_EXPERTS = (
    *("num_experts", "intermediate_size", "shared_size", "shared_gate", "first_dense_layers", "layer_step"),
)


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    read_pretrained: Callable[[Path], Mapping[str, Any]] | None = None,
) -> Config:
    """Read ``path``, lay ``overrides`` (``section.key=value``) over it, fill sizes in, and validate the whole.

    A value of an override is TOML; a word that is not TOML is a text. What is written wins over a preset; ``head_dim``
    follows from ``hidden_size / num_heads`` and ``num_kv_heads`` from ``num_heads`` where they are not written.
    ``read_pretrained`` takes the folder of ``model.init_from`` and gives ``ModelConfig`` fields; without it the sizes
    must be written, as they are in a run's own ``config.toml``.
    Raises ``ConfigError`` (a ``UserError``) whose lines name the file and line or the override, the field, its value,
    what is allowed and the nearest right one.
    """
    source = Path(path)
    text, written = read_toml(source)
    raw = copy.deepcopy(written)
    given, lines = parse_overrides(overrides)
    found = apply_overrides(raw, given)
    pretrained = _read_pretrained(raw, read_pretrained, found)
    derived = _fill_model(raw, pretrained, found)
    config: Config | None = None
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        covered = {m.location for m in found}
        found += [
            m
            for m in say.from_pydantic(error.errors(include_url=False))
            if m.location not in covered and m.location not in derived
        ]
    lines += _lines(found, raw, written, text, source, given)
    if lines or config is None:
        raise ConfigError(lines)
    return config


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """A config file's text, and what it says. Raises ``ConfigError``."""
    text = _read(path)
    return text, _parse(text, path)


def _read(path: Path) -> str:
    if path.is_dir():
        inside = sorted(str(p) for p in path.glob("*.toml"))
        hint = f"; did you mean {inside[0]!r}?" if inside else "; it has no .toml file"
        raise ConfigError([f"{path}: is a folder, not a config file{hint}"])
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file{say.nearest_path(path)}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}{say.nearest_path(path)}"]) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: not UTF-8 (byte {error.start}); save the file as UTF-8"]) from None


# What tomllib says, and what is said instead.
_SYNTAX = (
    (r"Cannot overwrite a value", "written twice"),
    (r"Cannot declare .* twice", "declared twice"),
    (r"Illegal character '\\n'", "the quotes are not closed"),
    (r"Invalid value$", "no value of TOML (a text stands in quotes)"),
)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.fullmatch(r"(.*?)\s*\(at (?:line (\d+), column \d+|end of document)\)", str(error), re.S)
        message, number = (match[1], match[2]) if match is not None else (str(error), None)
        for pattern, instead in _SYNTAX:
            message = re.sub(f"^{pattern}", instead, message)
        lines = text.replace("\r\n", "\n").split("\n")
        written = lines[int(number) - 1].strip() if number is not None else ""
        where = f" in {written[:60]!r}" if written else " at the end"
        raise ConfigError([f"{path}:{number or len(lines)}: not valid TOML: {message}{where}"]) from None


def _read_pretrained(
    raw: Mapping[str, Any], reader: Callable[[Path], Mapping[str, Any]] | None, found: list[Mistake]
) -> Mapping[str, Any] | None:
    model = raw.get("model")
    folder = model.get("init_from") if isinstance(model, dict) else None
    if not isinstance(folder, str) or reader is None:
        return None
    where: Location = ("model", "init_from")
    if not Path(folder).is_dir():
        found.append(Mistake(where, f"no such folder{say.nearest_path(Path(folder))}"))
        return {}
    try:
        return {k: v for k, v in reader(Path(folder)).items() if v is not None and k not in ("preset", "init_from")}
    except UserError as error:
        found.append(Mistake(where, str(error)))
        return {}


def _fill_model(raw: dict[str, Any], pretrained: Mapping[str, Any] | None, found: list[Mistake]) -> set[Location]:
    """Put the preset's, the pretrained folder's and the derived sizes into ``raw["model"]``.

    Returns locations about which validation has nothing to add, since their cause is in ``found``.
    """
    model = raw.setdefault("model", {})
    if not isinstance(model, dict):
        return set()
    written = dict(model)
    base: dict[str, Any] = {}
    silent: set[Location] = set()
    preset = written.get("preset")
    if preset is not None and written.get("init_from") is not None:
        found.append(Mistake(("model", "init_from"), "its folder gives the sizes; leave model.preset out"))
    if isinstance(preset, str):
        if preset in PRESETS:
            base = _preset_beside(PRESETS[preset], written)
        else:
            found.append(say.no_such_preset(preset))
            silent = _required_sizes()
    elif preset is not None:
        silent = _required_sizes()  # its type is wrong, which is said
    elif pretrained is not None:
        base = dict(pretrained)
        if not base:
            silent = _required_sizes()
        found += _unlike_the_weights(("model",), written, base, _FIXED_BY_WEIGHTS)
        if isinstance(written.get("moe"), dict) and isinstance(base.get("moe"), dict):
            found += _unlike_the_weights(("model", "moe"), written["moe"], base["moe"], _FIXED_OF_EXPERTS)
    elif not any(name in written for name in _SIZES) and not _typos(written):
        found.append(
            Mistake(("model", "preset"), f'is missing: write preset = "tiny" ({", ".join(PRESETS)}) or the sizes')
        )
        silent = _required_sizes()
    for name, value in base.items():
        model.setdefault(name, value)
    if isinstance(base.get("moe"), dict) and isinstance(model["moe"], dict):
        model["moe"] = {**base["moe"], **model["moe"]}
    heads, width = model.get("num_heads"), model.get("hidden_size")
    if _whole(heads):
        model.setdefault("num_kv_heads", heads)
    if "head_dim" not in model and _whole(heads) and _whole(width):
        head_dim = width // heads
        if width % heads == 0 and head_dim % 2 == 0:
            model["head_dim"] = head_dim
        else:
            step = 2 * heads
            near = " or ".join(str(n) for n in (width // step * step, (width // step + 1) * step) if n > 0)
            text = f"must be a multiple of 2 x model.num_heads = {step} (or write model.head_dim); nearest: {near}"
            found.append(Mistake(("model", "hidden_size"), text))
            silent = silent | {("model", "head_dim")}
    return silent


def _unlike_the_weights(
    table: Location, written: Mapping[str, Any], base: Mapping[str, Any], names: Sequence[str]
) -> list[Mistake]:
    """The sizes that are written beside init_from and are not those of its folder."""
    return [
        Mistake((*table, name), f"the weights in model.init_from have {say.shown(base[name])}; leave it out")
        for name in names
        if name in written
        and name in base
        and written[name] != base[name]
        and (name, written[name]) != ("vocab_size", 0)
    ]


def _preset_beside(preset: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The preset without what follows from other sizes that are written."""
    base = dict(preset)
    if "hidden_size" in written or "num_heads" in written:
        del base["head_dim"]
    if "num_heads" in written and preset["num_kv_heads"] == preset["num_heads"]:
        del base["num_kv_heads"]
    return base


def _required_sizes() -> set[Location]:
    return {("model", name) for name, field in ModelConfig.model_fields.items() if field.is_required()}


def _typos(written: Mapping[str, Any]) -> bool:
    """Is one of the written keys a misspelt size or preset?"""
    meant = {say.right_name(("model", key)) for key in written if key not in ModelConfig.model_fields}
    return any(f"model.{name}" in meant for name in (*_SIZES, "preset", "init_from"))


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _lines(
    found: Sequence[Mistake],
    raw: Mapping[str, Any],
    written: Mapping[str, Any],
    text: str,
    source: Path,
    given: Overrides,
) -> list[str]:
    """One line a location: overrides in their order, then the file's mistakes from top to bottom."""
    unique = {m.location: m for m in reversed(found)}.values()
    places = list(given)
    told: list[tuple[int, int, str]] = []
    for mistake in unique:
        location = mistake.location
        cause = _cause(location, written, given)
        if cause is not None:
            name = "" if location == cause[: len(location)] else f"{say.dotted(location)}{_glue(mistake)}"
            told.append((0, places.index(cause), f"override {given[cause][0]!r}: {name}{mistake.text}"))
        else:
            line = line_of(text, location)
            told.append((1, line or 0, _line(mistake, raw, source, line)))
    return [line for *_, line in sorted(told, key=lambda entry: entry[:2])]


def _cause(location: Location, written: Mapping[str, Any], given: Overrides) -> Location | None:
    """The override that ``location`` comes from: one of it, of a table above it, or of what only overrides made."""
    for length in range(len(location), 0, -1):
        part = location[:length]
        if part in given:
            return part
        if not _look_up(written, part)[0]:
            below = next((other for other in given if other[:length] == part), None)
            if below is not None:
                return below
    return None


def _line(mistake: Mistake, raw: Mapping[str, Any], source: Path, line: int | None) -> str:
    location = mistake.location
    present, value = _look_up(raw, location)
    where = f"{source}:{line}" if line is not None else f"{source}"
    name = say.dotted(location)
    if len(location) == 1 and (isinstance(value, dict) or not present):
        name = f"[{name}]"
    if not present or isinstance(value, dict):
        return f"{where}: {name}{_glue(mistake)}{mistake.text}"
    return f"{where}: {name} = {say.shown(value)}: {mistake.text}"


def _glue(mistake: Mistake) -> str:
    return " " if mistake.text.startswith(("is missing", "section is missing")) else ": "


def _look_up(raw: Any, location: Location) -> tuple[bool, Any]:
    here = raw
    for part in location:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, here


def line_of(text: str, location: Location) -> int | None:
    """The line on which ``location`` (or the nearest table above it that has one) is written; None when not found."""
    best: tuple[int, int] | None = None
    names = [str(part) for part in location if isinstance(part, str)]
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\[?([^\[\]]+)\]\]?\s*(#.*)?$", line)
        if header is not None:
            section = _names(header[1])
            here = section
        else:
            key = re.match(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""", line)
            if key is None:
                continue
            here = section + _names(key[1])
        if here == names[: len(here)] and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return best[1] if best is not None else None


def _names(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]
