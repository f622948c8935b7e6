"""The stages `rules` and `edit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.rules.edits import EDITS
from pyjpllm.corpus.rules.lists import load_list, load_lists
from pyjpllm.corpus.rules.measures import LIST_MEASURES, Meter
from pyjpllm.corpus.rules.presets import Preset, Rule
from pyjpllm.corpus.rules.words import segmenter
from pyjpllm.corpus.stage import Limits, Verdict


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says of one document."""

    rule: Rule
    value: float | None
    """What was measured; None for a rule of hosts."""
    kept: bool


def host_of(document: Document) -> str:
    """The host of the document's `url`, in small letters; empty when it has none that can be read."""
    url = document.meta.get("url")
    try:
        return (urlsplit(url).hostname or "").rstrip(".") if isinstance(url, str) else ""
    except ValueError:  # a bracket that is no IPv6 address
        return ""


def lists_of(preset: Preset, replaced: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The words of every list that the preset's rules measure; ``replaced`` has other parts for some."""
    names = []
    for rule in preset.rule:
        name, dot, what = (rule.measure or "").rpartition(".")
        if dot and what in LIST_MEASURES:
            names.append(name)
    return load_lists({name: replaced.get(name) or preset.lists.get(name) or (name,) for name in dict.fromkeys(names)})


class RulesStage:
    """Keeps the documents that every rule keeps; the verdict names the first rule that does not."""

    def __init__(self, preset: Preset, lists: Mapping[str, Sequence[str]] | None = None, name: str = "rules") -> None:
        """``lists``: other lists than the preset's, by its names, each of names and paths.

        Raises UserError for what is not there: a list, a measure, a tagger.
        """
        self.name = name
        self.preset = preset
        self.words = lists_of(preset, lists or {})
        self._edits = [EDITS[edit]() for edit in preset.edits]
        self._segmenter = segmenter(preset.words) if _asks_for_words(preset) else None
        self._meter = Meter(
            [rule.measure for rule in preset.rule if rule.measure is not None],
            lists=self.words,
            segmenter=self._segmenter,
            stop_words=() if preset.stop_words is None else load_list(preset.stop_words),
        )
        self.limits: dict[str, Limits] = {
            rule.measure: (rule.at_least, rule.at_most if rule.below is None else rule.below)
            for rule in preset.rule
            if rule.measure is not None
        }

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """One verdict for each document."""
        verdicts = []
        for document in documents:
            edited, findings, measures = self.judge(document)
            reason = next((finding.rule.name for finding in findings if not finding.kept), None)
            verdicts.append(Verdict(edited, reason, measures))
        return verdicts

    def words_of(self, text: str) -> list[tuple[int, int]] | None:
        """The ranges of the words that rules are measured with; None: those of the scripts."""
        return None if self._segmenter is None else [(a, b) for a, b in self._segmenter(text).tolist()]

    def judge(self, document: Document) -> tuple[Document, list[Finding], dict[str, float]]:
        """The document after the edits, what every rule says of it, and all measures."""
        text = document.text
        for edit in self._edits:
            text = edit(text)
        edited = document if text == document.text else replace(document, text=text)
        measures = self._meter(text)
        host = host_of(document)
        findings = []
        for rule in self.preset.rule:
            if rule.measure is None:
                findings.append(Finding(rule, None, not host or rule.keeps_host(host)))
            else:
                value = measures[rule.measure]
                findings.append(Finding(rule, value, rule.keeps(value)))
        return edited, findings, measures


def _asks_for_words(preset: Preset) -> bool:
    return any("word" in (rule.measure or "") for rule in preset.rule)


class EditStage:
    """Changes the text of every document, and drops none."""

    def __init__(self, edits: Sequence[str], name: str = "edit") -> None:
        self.name = name
        self._edits = [EDITS[edit]() for edit in edits]

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """The documents, changed."""
        verdicts = []
        for document in documents:
            text = document.text
            for edit in self._edits:
                text = edit(text)
            verdicts.append(Verdict(document if text == document.text else replace(document, text=text)))
        return verdicts
