"""What HojiChar and datatrove say of documents, and how long they take; run under a Python that has
them: python corpus_peers.py hojichar|fineweb2 DOCUMENTS.jsonl OUT.json MOST.

It imports nothing of pyjpllm. OUT has the CPU seconds, the characters, and for each of the first MOST documents the
reasons of the filters that drop it: of all filters for HojiChar, of the first one for FineWeb2's.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Filter = tuple[str, Callable[[str], str | None]]  # the name, and what says why a text is dropped

# huggingface/fineweb-2, configs/jpn_Jpan.yml
_TOP = ((2, 0.239), (3, 0.196), (4, 0.172))
_DUPLICATE = ((5, 0.243), (6, 0.225), (7, 0.207), (8, 0.19), (9, 0.175), (10, 0.159))
_STOP_WORDS = list("のにをはたてがとで年し・月れさ")


def hojichar_filters() -> list[Filter]:
    """HojiChar's filters that need no tagger, by the names of our rules."""
    from hojichar import Document
    from hojichar.filters import document_filters as of

    makers: dict[str, Any] = {
        "kana": of.AcceptJapanese,
        "kuten": of.DiscardRareKuten,
        "adult": of.DiscardAdultContentJa,
        "discrimination": of.DiscardDiscriminationContentJa,
        "violence": of.DiscardViolenceContentJa,
        "board": of.DiscardBBSComments,
        "advertising": of.DiscardAds,
        "repetition": of.CharRepetitionRatioFilter,
        "one_character": of.SingleCharacterRepetitionFilter,
        "ellipsis": of.DiscardTooManyEndingEllipsis,
        "short_lines": of.DiscardTooShortLines,
    }
    if of.is_loaded_extras:
        makers["special_characters"] = of.DiscardTooManySpecialToken

    def judge(name: str, each: Any) -> Callable[[str], str | None]:
        return lambda text: name if each.apply(Document(text)).is_rejected else None

    return [(name, judge(name, maker())) for name, maker in makers.items()]


def fineweb2_filters() -> list[Filter]:
    """datatrove's three filters as FineWeb2 runs them for Japanese."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    language = "jpn_Jpan"
    filters = {
        "repetition": GopherRepetitionFilter(
            language=language, dup_line_frac=0.328, dup_para_frac=0, dup_line_char_frac=0, dup_para_char_frac=0,
            top_n_grams=_TOP, dup_n_grams=_DUPLICATE,
        ),
        "fineweb": FineWebQualityFilter(
            language=language, short_line_thr=999, char_duplicates_ratio=0.1, line_punct_thr=0.096, new_line_ratio=0.13
        ),
        "quality": GopherQualityFilter(
            language=language, min_avg_word_length=1, max_avg_word_length=6, max_non_alpha_words_ratio=0.759,
            stop_words=_STOP_WORDS, min_stop_words=2,
        ),
    }  # fmt: skip

    def judge(each: Any) -> Callable[[str], str | None]:
        def why(text: str) -> str | None:
            try:
                result = each.filter(Document(text=text, id=""))
            except Exception as error:
                return f"error {type(error).__name__}"
            return None if result is True else result[1]

        return why

    return [(name, judge(each)) for name, each in filters.items()]


def main(kind: str, documents: str, out: str, most: str) -> None:
    with open(documents, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, int(most))]
    filters = {"hojichar": hojichar_filters, "fineweb2": fineweb2_filters}[kind]()
    for _, why in filters:
        why(texts[0])  # dictionaries are read
    reasons: list[list[str]] = []
    started = time.process_time()
    for text in texts:
        found = (reason for _, why in filters if (reason := why(text)) is not None)
        reasons.append(list(found) if kind == "hojichar" else list(itertools.islice(found, 1)))
    seconds = time.process_time() - started
    Path(out).write_text(json.dumps({"seconds": seconds, "reasons": reasons}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
