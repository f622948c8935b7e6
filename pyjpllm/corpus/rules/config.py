"""The tables `[[stage]]` of `kind = "rules"` and `kind = "edit"`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from pyjpllm.corpus.rules.lists import means_file, read_hosts
from pyjpllm.corpus.rules.presets import Preset, Rule, load_preset
from pyjpllm.corpus.rules.stage import EditStage, RulesStage
from pyjpllm.corpus.stage_config import StageConfig, checksum_of

Bound = Literal["at_least", "at_most", "below"]
Edit = Literal["footer", "japanese-lines", "nwjc-sentences", "prose-lines", "swallow-punctuation"]


class RulesConfig(StageConfig):
    """Keeps or drops a document by what is measured in its text; docs/corpus-rules.md has the measures and presets."""

    kind: Literal["rules"]
    preset: str
    """Whose rules: `jpllm` (our own), `swallow-v1`, `hojichar`, `llm-jp-v1`, `llm-jp-v1-strict`, `fineweb2-ja`,
    `uzushio`, `uzushio-strict`, `ccnet`, `nwjc`."""
    compatible: bool = False
    """`swallow-v1`: duplicate n-grams by types, as its code counts, in place of by occurrence, as its README says."""
    without: list[str] = Field(default_factory=list)
    """Rules of the preset to leave out, by name."""
    override: dict[str, dict[Bound, FiniteFloat]] = Field(default_factory=dict)
    """Other bounds of rules: a table by the rule's name with `at_least`, `at_most` or `below`."""
    words: Literal["preset", "script", "sudachi"] = "preset"
    """What cuts the text into words, for rules that ask for words: runs of one script, which have no parts of
    speech, or SudachiPy's short units."""
    lists: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """Other word lists, by the name that rules call them: names of the package's lists and paths of files."""
    blocked_hosts: str | None = None
    """A file of hosts, one a line (`bad.example`), to drop, with all below them, by the document's `url`."""

    all_measures: bool = False
    """Measures dropped documents to the end too, for whole histograms in the report. Without it, a document that a
    cheap rule drops is not cut into words. What is kept and dropped is the same."""

    def files_read(self) -> Mapping[str, str]:
        """The word lists that are files, and the one of hosts."""
        paths = [] if self.blocked_hosts is None else [Path(self.blocked_hosts)]
        paths += [Path(part) for parts in self.lists.values() for part in parts if means_file(part)]
        return {str(path): checksum_of(path) for path in paths}

    def judged_meta(self) -> frozenset[str]:
        """Those of the preset's rules that are not left out. Raises UserError as ``build`` does."""
        return frozenset(rule.meta for rule in self._changed().rule if rule.meta is not None)

    def _changed(self) -> Preset:
        override = {name: {str(bound): value for bound, value in new.items()} for name, new in self.override.items()}
        return load_preset(self.preset).changed(self.without, override, self.compatible)

    def build(self) -> RulesStage:
        """The stage. Raises UserError for a preset, rule, bound, list or tagger that is not there."""
        preset = self._changed()
        if self.words != "preset":
            preset = preset.model_copy(update={"words": self.words})
        if self.blocked_hosts is not None:
            rule = Rule(name="blocked_host", not_hosts=tuple(read_hosts(Path(self.blocked_hosts))))
            preset = preset.model_copy(update={"rule": (rule, *preset.rule)})
        return RulesStage(preset, self.lists, self.name or self.kind, all_measures=self.all_measures)


class EditConfig(StageConfig):
    """Changes the text of every document, and drops those of which nothing is left (`emptied`)."""

    kind: Literal["edit"]
    edits: Annotated[list[Edit], Field(min_length=1)]
    """In this order. `footer` cuts the text at the first of its last ten lines that is footer words by more than 30%,
    `swallow-punctuation` makes `、。` of `，．` where the text uses those more, `prose-lines` leaves only lines of at
    least ten characters that have hiragana and are Japanese letters by at least 30%, `nwjc-sentences` leaves only
    sentences of 6 to 1023 characters with 5% hiragana and 70% Japanese letters (NWJC), `japanese-lines` leaves out
    lines without kana, addresses and long runs of ASCII, and joins the rest (llm-jp)."""

    def build(self) -> EditStage:
        """The stage."""
        return EditStage(self.edits, self.name or self.kind)
