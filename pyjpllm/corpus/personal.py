"""Personal data in documents: found, counted, masked; or the document dropped for it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pydantic import Field, model_validator

from pyjpllm.config.schema import NonNegative
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.personal_patterns import KINDS, plain
from pyjpllm.corpus.stage import Stage, Verdict
from pyjpllm.corpus.stage_config import StageConfig

PersonalKind = Literal["email", "card", "my_number", "ipv4", "ipv6", "phone", "postal_code", "address"]
Mode = Literal["count", "mask", "drop"]
_ALL: tuple[PersonalKind, ...] = get_args(PersonalKind)


@dataclass(frozen=True, slots=True)
class Found:
    """One piece of personal data: ``text[start:stop]``."""

    kind: str
    start: int
    stop: int


def find_personal(text: str, kinds: Sequence[str] = _ALL) -> list[Found]:
    """The personal data in ``text``, in its order, none overlapping; ``kinds``: of ``PersonalKind``."""
    form = plain(text)
    found: list[Found] = []  # in the order of the text; none overlaps another
    for kind in KINDS:
        if kind.name not in kinds or kind.needs not in form:
            continue
        starts = [one.start for one in found]
        more = []
        for match in kind.pattern.finditer(form):
            start, stop = match.span()
            after = bisect_left(starts, stop)  # the first piece behind it; the one before may reach into it
            if (not after or found[after - 1].stop <= start) and kind.holds(match):
                more.append(Found(kind.name, start, stop))
        if more:
            found = sorted([*found, *more], key=lambda one: one.start)
    return found


def mask_personal(text: str, found: Sequence[Found]) -> str:
    """``text`` with each piece replaced by its kind, such as `<PHONE>`."""
    parts = []
    left = 0
    for one in found:
        parts += [text[left : one.start], f"<{one.kind.upper()}>"]
        left = one.stop
    return "".join([*parts, text[left:]])


class PersonalStage:
    """Counts personal data by kind, and masks it or drops the document (pyjpllm.corpus.stage.Stage)."""

    def __init__(self, name: str, mode: Mode, kinds: Sequence[str], limit: int) -> None:
        self.name = name
        self._mode = mode
        self._kinds = tuple(kinds)
        self._limit = limit

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """One verdict a document; its measures are the counts, by kind."""
        return [self._judge(document) for document in documents]

    def _judge(self, document: Document) -> Verdict:
        found = find_personal(document.text, self._kinds)
        measures = {kind: float(sum(one.kind == kind for one in found)) for kind in self._kinds}
        if self._mode == "mask" and found:
            document = replace(document, text=mask_personal(document.text, found))
        reason = "personal-data" if self._mode == "drop" and len(found) > self._limit else None
        return Verdict(document, reason, measures)


class PersonalConfig(StageConfig):
    """Finds personal data: e-mail, telephone, postal code and address, My Number, cards, IP addresses."""

    kind: Literal["pii"]
    mode: Mode = "mask"
    """`count` only measures; `mask` writes the kind in its place, such as `<PHONE>`; `drop`: see `limit`."""
    kinds: list[PersonalKind] = Field(default=list(_ALL), min_length=1)
    """What is looked for; what an earlier one of the default list has found is not looked at for a later one."""
    limit: NonNegative = 0
    """With `drop`: a document with more pieces than this is dropped (`personal-data`)."""

    @model_validator(mode="after")
    def _limit_is_read(self) -> PersonalConfig:
        if self.mode != "drop" and "limit" in self.model_fields_set:
            raise ValueError(f"limit is for mode = 'drop'; this is {self.mode!r}")
        return self

    def build(self) -> Stage:
        """The stage."""
        return PersonalStage(self.name or self.kind, self.mode, self.kinds, self.limit)
