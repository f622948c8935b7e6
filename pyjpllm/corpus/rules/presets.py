"""Presets: the rules of a corpus as data, one TOML file each in presets/; every threshold can be changed alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat

from pyjpllm.errors import UserError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).with_name("presets")
BOUNDS = ("at_least", "at_most", "below")


class Rule(BaseModel):
    """Keeps a document whose measure, or number in the meta, lies within the bounds, or whose host or page's
    language may be kept; one of which nothing of the kind is known is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    measure: str | None = None
    meta: str | None = None
    """The key of a number in the document's meta, in place of a measure of its text."""
    compatible: str | None = None
    """The measure in its place with `compatible`, where a published code does not do what its description says."""
    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None
    below: FiniteFloat | None = None
    japanese_page: bool = False
    """Pages that are not in Japanese by their `<html lang>` and title are dropped."""
    not_hosts: tuple[str, ...] = ()
    """These hosts are dropped, and all below them (`wikipedia.org` is also `ja.wikipedia.org`)."""
    top_level_domains: tuple[str, ...] = ()
    """Hosts of other top-level domains are dropped."""

    @property
    def subject(self) -> str:
        """What it looks at, in a word."""
        return self.measure or self.meta or ("page's language" if self.japanese_page else "host")

    def keeps(self, value: float) -> bool:
        """Whether a value of the measure lies within the bounds."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def keeps_host(self, host: str) -> bool:
        """Whether documents of a host may be kept."""
        if self.top_level_domains and host.rpartition(".")[2] not in self.top_level_domains:
            return False
        parts = host.split(".")
        return not any(".".join(parts[i:]) in self._blocked for i in range(len(parts)))

    @cached_property
    def _blocked(self) -> frozenset[str]:
        return frozenset(self.not_hosts)  # lists of hosts have millions

    def bounds(self) -> str:
        """The bounds in words, as in `>= 20, <= 90`."""
        signs = {"at_least": ">=", "at_most": "<=", "below": "<"}
        said = [f"{signs[name]} {getattr(self, name):g}" for name in BOUNDS if getattr(self, name) is not None]
        if self.japanese_page:
            said.append("lang ja, or kana in the title; without a lang also kanji")
        if self.top_level_domains:
            said.append(f"top-level domain {', '.join(self.top_level_domains)}")
        if self.not_hosts:
            shown = ", ".join(self.not_hosts[:5]) + (", ..." if len(self.not_hosts) > 5 else "")
            said.append(f"not {shown}")
        return ", ".join(said)


class Preset(BaseModel):
    """The rules of a corpus, in their order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    about: str
    source: str
    not_done: tuple[str, ...]
    """What the corpus did besides, and the rules here do not."""
    words: Literal["script", "sudachi"] = "script"
    """What cuts the text into words, where a rule asks for words."""
    stop_words: str | None = None
    """The list that `stop_words` counts in."""
    edits: tuple[str, ...]
    """Changes of the text of documents that the rules keep."""
    lists: Mapping[str, tuple[str, ...]] = {}
    """Lists by the name that rules call them, each put together of several; a list that is not here is its own."""
    rule: tuple[Rule, ...]

    def changed(self, without: Sequence[str], override: Mapping[str, Mapping[str, float]], compatible: bool) -> Preset:
        """The preset without some rules, with bounds of others changed. Raises UserError for a rule that is none."""
        names = [rule.name for rule in self.rule]
        for name in [*without, *override]:
            if name not in names:
                raise UserError(f"the preset {self.name} has no rule {name!r}{did_you_mean(name, names)}")
        if compatible and not any(rule.compatible for rule in self.rule):
            raise UserError(f"the preset {self.name} has no compatible mode: its rules do as the published code does")
        rules = []
        for rule in self.rule:
            if rule.name in without:
                continue
            values: dict[str, Any] = rule.model_dump()
            if compatible and rule.compatible is not None:
                values["measure"] = rule.compatible
            for bound, value in override.get(rule.name, {}).items():
                has = [each for each in BOUNDS if values[each] is not None]
                if bound not in has:
                    hint = did_you_mean(bound, has)
                    raise UserError(f"the rule {rule.name} of the preset {self.name} has no bound {bound!r}{hint}")
                values[bound] = value
            rules.append(Rule(**values))
        return self.model_copy(update={"rule": tuple(rules)})


def preset_names() -> list[str]:
    """The presets of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_preset(name: str) -> Preset:
    """A preset by its name. Raises UserError with the nearest one."""
    if name not in preset_names():
        raise UserError(f"no preset {name!r}{did_you_mean(name, preset_names())}")
    return Preset(name=name, **tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")))
