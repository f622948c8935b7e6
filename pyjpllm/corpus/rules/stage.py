"""The stages `rules` and `edit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import EMPTIED
from pyjpllm.corpus.rules.edits import EDITS
from pyjpllm.corpus.rules.known import Finding, known
from pyjpllm.corpus.rules.lists import load_list, load_lists
from pyjpllm.corpus.rules.measures import LIST_MEASURES, PARTS_OF_SPEECH, WORDS, Meter, cost_class
from pyjpllm.corpus.rules.presets import Preset, Rule
from pyjpllm.corpus.rules.words import SCRIPT, Segmenter, segmenter
from pyjpllm.corpus.stage import Limits, Verdict
from pyjpllm.errors import UserError, did_you_mean


def lists_of(preset: Preset, replaced: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The words of every list that the preset's rules measure; ``replaced`` has other parts for some."""
    names: dict[str, None] = {}
    for rule in preset.rule:
        name, dot, what = (rule.measure or "").rpartition(".")
        if dot and what in LIST_MEASURES:
            names[name] = None
    for name in replaced:
        if name not in names:
            hint = did_you_mean(name, names) if names else "; they ask for none"
            raise UserError(f"lists.{name}: no rule of the preset {preset.name} counts the words of this list{hint}")
    return load_lists({name: replaced.get(name, preset.lists.get(name, (name,))) for name in names})


def segmenter_of(preset: Preset, rules: Sequence[Rule]) -> Segmenter | None:
    """What cuts the words that these rules of the preset measure.

    Raises UserError for a tagger that is not there, and for words that do not say what the rules ask of them.
    """
    asking = [rule for rule in rules if rule.measure in PARTS_OF_SPEECH]
    if asking and preset.words == "script":
        raise UserError(
            f'words = "script" has no parts of speech, which the rule {asking[0].name} of the preset {preset.name} '
            f'measures ({asking[0].measure}): take words = "sudachi", or {_leave_out(asking)}'
        )
    return segmenter(preset.words, _leave_out(rules) if asking else SCRIPT)


def _leave_out(rules: Sequence[Rule]) -> str:
    names = ", ".join(f'"{rule.name}"' for rule in rules)
    return f"leave out what needs them: without = [{names}]"


class RulesStage:
    """Keeps the documents that every rule keeps; the verdict names the first rule that does not.

    Rules are judged by what they cost: those of hosts and of numbers in the meta, those that look at characters alone,
    of n-grams and compression, of words; in each of these classes in the order of the preset. A document that is
    dropped is measured no further.
    """

    def __init__(
        self,
        preset: Preset,
        lists: Mapping[str, Sequence[str]] | None = None,
        name: str = "rules",
        *,
        all_measures: bool = False,
    ) -> None:
        """``lists``: other lists than the preset's, by its names, each of names and paths.

        ``all_measures``: dropped documents are measured to the end too. The verdict is the same.
        Raises UserError for what is not there: a list, a measure, a tagger.
        """
        self.name = name
        self.preset = preset
        self.words = lists_of(preset, lists or {})
        self._all_measures = all_measures
        self._edits: list[Callable[[str], str]] = [EDITS[edit]() for edit in preset.edits]
        classes: dict[int, list[Rule]] = {}
        for rule in preset.rule:
            classes.setdefault(-1 if rule.measure is None else cost_class(rule.measure), []).append(rule)
        self._segmenter = segmenter_of(preset, classes[WORDS]) if WORDS in classes else None
        stop_words = () if preset.stop_words is None else load_list(preset.stop_words)
        self._steps: list[tuple[list[Rule], Meter | None]] = [
            (rules, None if cost < 0 else self._meter(rules, stop_words)) for cost, rules in sorted(classes.items())
        ]
        self.limits: dict[str, Limits] = {
            rule.subject: (rule.at_least, rule.at_most if rule.below is None else rule.below)
            for rule in preset.rule
            if rule.measure is not None or rule.meta is not None
        }

    def _meter(self, rules: Sequence[Rule], stop_words: Sequence[str]) -> Meter:
        names = [rule.measure for rule in rules if rule.measure is not None]
        return Meter(names, lists=self.words, segmenter=self._segmenter, stop_words=stop_words)

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """One verdict for each document, with what was measured on the way to it."""
        verdicts = []
        for document in documents:
            changed, findings, measures = self._judge(document, whole=self._all_measures)
            reason = next((finding.rule.name for finding in findings if not finding.kept), None)
            if reason is None and self.empties(changed):
                changed, reason = document, EMPTIED
            verdicts.append(Verdict(changed, reason, measures))
        return verdicts

    def empties(self, changed: Document) -> bool:
        """Whether the preset's edits have left nothing of a document that its rules keep."""
        return bool(self._edits) and not changed.text.strip()

    def words_of(self, text: str) -> list[tuple[int, int, int]] | None:
        """The words that rules are measured with, as a segmenter gives them; None: those of the scripts."""
        return None if self._segmenter is None else [(a, b, kind) for a, b, kind in self._segmenter(text).tolist()]

    def judge(self, document: Document) -> tuple[Document, list[Finding], dict[str, float]]:
        """The document, with the preset's edits if it is kept, what every rule says of it, and all measures."""
        return self._judge(document, whole=True)

    def _judge(self, document: Document, *, whole: bool) -> tuple[Document, list[Finding], dict[str, float]]:
        measures: dict[str, float] = {}
        findings: list[Finding] = []
        for rules, meter in self._steps:
            if meter is None:
                found = [known(rule, document) for rule in rules]
                measures |= {f.rule.meta: f.value for f in found if f.rule.meta is not None and f.value is not None}
                findings += found
            else:
                measures |= meter(document.text)
                for rule in rules:
                    value = measures[rule.measure or ""]
                    findings.append(Finding(rule, value, rule.keeps(value)))
            if not whole and not all(finding.kept for finding in findings):
                break
        if self._edits and all(finding.kept for finding in findings):
            document = edited(document, self._edits)
        return document, findings, measures


def edited(document: Document, edits: Sequence[Callable[[str], str]]) -> Document:
    """The document with its text changed; itself if nothing changes."""
    text = document.text
    for edit in edits:
        text = edit(text)
    return document if text == document.text else replace(document, text=text)


class EditStage:
    """Changes the text of every document, and drops those of which nothing is left (`emptied`)."""

    def __init__(self, edits: Sequence[str], name: str = "edit") -> None:
        self.name = name
        self._edits = [EDITS[edit]() for edit in edits]

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """The documents, changed."""
        return [self._edited(document) for document in documents]

    def _edited(self, document: Document) -> Verdict:
        changed = edited(document, self._edits)
        if changed is not document and not changed.text.strip():
            return Verdict(document, EMPTIED)
        return Verdict(changed)
