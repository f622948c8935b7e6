"""What HojiChar and datatrove say of documents, and how long they take; run under a Python that has them.

    python corpus_peers.py hojichar|fineweb2 DOCUMENTS.jsonl

It imports nothing of pyjpllm. It reads a line `judge FIRST LAST`, `time FIRST LAST`, `words PLACE` or `about` and
answers with a line of JSON, until its input ends: for each of the documents the reasons of the filters that drop it (of
all filters for HojiChar; for FineWeb2's of the first one, as its pipeline runs them); the CPU seconds of that, with
what the pipeline does, where the first filter that drops a document is the last; HojiChar's words of one document, each
with its part of speech, and what its two filters of words measure there; versions, and HojiChar's word lists.
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
    """HojiChar's filters that judge documents, by the names of our rules; those that cut words are last."""
    from hojichar import Document
    from hojichar.filters import document_filters as of

    if not of.is_loaded_extras:
        sys.exit("HojiChar's extras are missing: pip install emoji fugashi unidic-lite")
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
        "special_characters": of.DiscardTooManySpecialToken,
        "nouns": of.DiscardTooManyNouns,
        "word_repetition": of.WordRepetitionRatioFilter,
    }

    def judge(name: str, each: Any) -> Callable[[str], str | None]:
        return lambda text: name if each.apply(Document(text)).is_rejected else None

    return [(name, judge(name, maker())) for name, maker in makers.items()]


def hojichar_words(text: str) -> dict[str, Any]:
    """HojiChar's words as (surface, part of speech), and the two measures. DiscardTooManyNouns keeps its share to
    itself: it is counted again here, from the filter's own words."""
    from hojichar.filters import document_filters as of

    nouns, repetition = of.DiscardTooManyNouns(), of.WordRepetitionRatioFilter()
    words = [(w.surface, w.feature.pos1) for chunk in nouns._chunk_text(text) for w in nouns.tagger(chunk)]
    counted = [part for _, part in words if part != "補助記号"]
    return {
        "nouns": counted.count("名詞") / max(len(counted), 1),
        "word_repetition": repetition.compute_word_repetition_ratio(text, repetition.ngram_size),
        "words": words,
    }


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


def about(kind: str) -> dict[str, Any]:
    """The versions of what judges, and for HojiChar the files of its word lists by the names of our rules."""
    from importlib.metadata import version

    packages = ["datatrove", "spacy", "SudachiPy", "SudachiDict-core"]
    if kind == "hojichar":
        packages = ["hojichar", "fugashi", "unidic-lite"]
    found: dict[str, Any] = {"versions": {name: version(name) for name in packages}, "lists": {}}
    if kind == "hojichar":
        import hojichar

        folder = Path(hojichar.__file__).parent / "dict"
        names = {"adult": "adult_keywords_ja", "discrimination": "discrimination_keywords_ja"}
        names |= {"violence": "violence_keywords_ja", "advertising": "advertisement_keywords_ja"}
        found["lists"] = {name: str(folder / f"{file}.txt") for name, file in names.items()}
    return found


def main(kind: str, documents: str) -> None:
    with open(documents, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    filters = {"hojichar": hojichar_filters, "fineweb2": fineweb2_filters}[kind]()
    for _, why in filters:
        why(texts[0])  # dictionaries are read
    answers = sys.stdout
    sys.stdout = sys.stderr  # what the packages print is no answer
    for line in sys.stdin:
        what, *numbers = line.split()
        answer: Any
        if what == "about":
            answer = about(kind)
        elif what == "words":
            answer = hojichar_words(texts[int(numbers[0])])
        else:
            part = texts[slice(*map(int, numbers))]
            whole = what == "judge" and kind == "hojichar"
            started = time.process_time()
            reasons = []
            for text in part:
                found = (reason for _, why in filters if (reason := why(text)) is not None)
                reasons.append(list(found) if whole else list(itertools.islice(found, 1)))
            seconds = time.process_time() - started
            answer = reasons if what == "judge" else {"seconds": seconds}
        print(json.dumps(answer, ensure_ascii=False), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
