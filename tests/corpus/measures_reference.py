"""Every measure of kernels/text/measures.h again, in Python that is slow and plain; tests compare the two."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

KUTEN_LIKE = "。．！？!?"
TERMINALS = "!.?\u203c\u203d\u2047\u2048\u2049。﹒﹖﹗！．？｡"
WEEKDAYS = "月火水木金土日"
BOARD = re.compile(
    r"\d{4}[年.\-/] *\d{1,2}[月.\-/] *\d{1,2}日*|コメント|SOLD OUT|レビュー|投稿|ページ"
    rf"|\([{WEEKDAYS}]\)|質問|\d+話|楽天市場|-"
)
URL = re.compile(r"https?://[!#-;=?-~]*")


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def kinds(*starts: str) -> Callable[[str], bool]:
    return lambda c: unicodedata.category(c)[0] in starts


def is_hiragana(c: str) -> bool:
    return "\u3041" <= c <= "\u3096"


def is_katakana(c: str) -> bool:
    return "\u30a1" <= c <= "\u30fa"


def is_kanji(c: str) -> bool:
    return c in "々〇〻" or "\u3400" <= c <= "\u9fff" or "\uf900" <= c <= "\ufaff" or "\U00020000" <= c <= "\U0002ffff"


def count(text: str, belongs: Callable[[str], bool]) -> int:
    return sum(1 for c in text if belongs(c))


def characters(text: str) -> dict[str, float]:
    n = len(text)
    hiragana, katakana, kanji = (count(text, f) for f in (is_hiragana, is_katakana, is_kanji))
    japanese = hiragana + katakana + kanji + count(text, "。．！？、，".__contains__)
    run = longest = 0
    for i, c in enumerate(text):
        run = run + 1 if i and text[i - 1] == c else 1
        longest = max(longest, run)
    urls = URL.findall(text)
    return {
        "characters": n,
        "japanese_letters": japanese,
        "hiragana": hiragana,
        "katakana": katakana,
        "kanji": kanji,
        "letters": count(text, str.isalpha),
        "digits": count(text, str.isdecimal),
        "punctuation": count(text, kinds("P")),
        "symbols": count(text, kinds("S")),
        "spaces": count(text, str.isspace),
        "full_width": count(text, lambda c: "\uff01" <= c <= "\uff60" or "\uffe0" <= c <= "\uffe6"),
        "half_width_kana": count(text, lambda c: "\uff66" <= c <= "\uff9f"),
        "japanese_fraction": share(japanese, n),
        "hiragana_of_japanese": share(hiragana, japanese),
        "katakana_of_japanese": share(katakana, japanese),
        "kanji_of_japanese": share(kanji, japanese),
        "hiragana_fraction": share(hiragana, n),
        "letter_fraction": share(count(text, str.isalpha), n),
        "digit_fraction": share(count(text, str.isdecimal), n),
        "punctuation_fraction": share(count(text, kinds("P")), n),
        "special_fraction": share(count(text, lambda c: kinds("P", "S")(c) or c.isspace()), n),
        "kuten_fraction": share(text.count("。"), n),
        "kana_in_first_50": count(text[:50], lambda c: is_hiragana(c) or is_katakana(c)),
        "longest_run": longest,
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "board_marks": len(BOARD.findall(text)),
        "urls": len(urls),
        "url_fraction": share(sum(map(len, urls)), n),
    }


def repeats(items: Sequence[str]) -> tuple[int, int]:
    """(items that were there before, their characters)."""
    again = [item for i, item in enumerate(items) if item in items[:i]]
    return len(again), sum(map(len, again))


def ends_in_ellipsis(line: str) -> bool:
    return line.endswith(("...", "…"))


def lines(text: str) -> dict[str, float]:
    split = text.split("\n")
    prose = [line for line in split if line.strip()]
    broken = text.splitlines()
    runs = re.split("\n+", text) if text else []
    blocks = re.split("\n{2,}", text.strip())
    return {
        "lines": len(split),
        "newlines": text.count("\n"),
        "mean_line_length": share(sum(map(len, split)), len(split)),
        "lines_to_10_fraction": share(sum(len(line) <= 10 for line in split), len(split)),
        "lines_to_30_fraction": share(sum(len(line) <= 30 for line in prose), len(prose)),
        "terminal_line_fraction": share(sum(line.endswith(tuple(TERMINALS)) for line in prose), len(prose)),
        "ellipsis_per_newline": len(re.findall(r"(?:\.{3}|…)\n", text)) / max(text.count("\n"), 1),
        "ellipsis_line_fraction": share(sum(ends_in_ellipsis(line.rstrip()) for line in broken), len(broken)),
        "bullet_line_fraction": share(sum(line.lstrip().startswith(("•", "-")) for line in broken), len(broken)),
        "duplicate_line_fraction": share(repeats(runs)[0], len(runs)),
        "duplicate_line_character_fraction": share(repeats(runs)[1], len(text)),
        "duplicate_prose_line_character_fraction": share(repeats(prose)[1], len(text.replace("\n", ""))),
        "duplicate_block_fraction": share(repeats(blocks)[0], len(blocks)),
        "duplicate_block_character_fraction": share(repeats(blocks)[1], len(text)),
    }


def sentences(text: str) -> dict[str, float]:
    by_line = [re.findall(rf"[^{KUTEN_LIKE}]+[{KUTEN_LIKE}]?", line) for line in text.split("\n")]
    every = [sentence for line in by_line for sentence in line]
    paragraphs = ["".join(line) for line in by_line]
    lengths = [len(sentence) for sentence in every]
    return {
        "sentences": len(every),
        "mean_sentence_length": share(sum(lengths), len(every)),
        "max_sentence_length": max(lengths, default=0),
        "ellipsis_sentence_fraction": share(sum(s.strip().endswith(("・", "…")) for s in every), len(every)),
        "duplicate_sentence_fraction": share(repeats(every)[0], len(every)),
        "duplicate_sentence_character_fraction": share(repeats(every)[1], sum(lengths)),
        "duplicate_paragraph_fraction": share(repeats(paragraphs)[0], len(paragraphs)),
        "duplicate_paragraph_character_fraction": share(repeats(paragraphs)[1], sum(map(len, paragraphs))),
    }


def ngrams(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for n in range(2, 11):
        counts = Counter(text[i : i + n] for i in range(len(text) - n + 1))
        total = sum(counts.values())
        again = [c for c in counts.values() if c > 1]
        if n < 5:
            found[f"top_{n}gram_fraction"] = share(max(counts.values(), default=0), total)
            continue
        found[f"duplicate_{n}gram_fraction"] = share(sum(again), total)
        found[f"duplicate_{n}gram_type_fraction"] = share(len(again), len(counts))
        if n == 5:
            most = sorted(again, reverse=True)[: math.isqrt(len(counts))]
            found["commonest_5gram_fraction"] = share(sum(most), total)
    return found


def is_mark(c: str) -> bool:
    return kinds("P", "S")(c) or c <= "\u001f" or "\u007f" <= c <= "\u009f"


def skipped_repeats(words: Sequence[str], n: int) -> int:
    """Characters of n-grams that were there before; the search goes on behind each."""
    seen: set[tuple[str, ...]] = set()
    found = i = 0
    while i + n <= len(words):
        gram = tuple(words[i : i + n])
        if gram in seen:
            found += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return found


def words(text: str, spans: Sequence[tuple[int, int]], stop_words: Sequence[str]) -> dict[str, float]:
    every = [text[first:last] for first, last in spans]
    prose = [word for word in every if not all(map(is_mark, word))]
    found: dict[str, float] = {
        "words": len(every),
        "prose_words": len(prose),
        "mean_word_length": share(sum(map(len, prose)), len(prose)),
        "letter_word_fraction": share(sum(any(map(str.isalpha, word)) for word in every), len(every)),
        "stop_words": len(set(stop_words) & set(every)),
        "hashes_per_word": share(text.count("#"), len(every)),
        "ellipses_per_word": share(text.count("...") + text.count("…"), len(every)),
        "newlines_per_word": share(text.count("\n"), len(every)),
    }
    for n in range(2, 11):
        grams = [tuple(every[i : i + n]) for i in range(len(every) - n + 1)]
        if n < 5:
            top, often = Counter(grams).most_common(1)[0] if grams else ((), 0)
            found[f"top_{n}word_fraction"] = share(len(" ".join(top)) * often, len(text))
            continue
        found[f"duplicate_{n}word_fraction"] = share(skipped_repeats(every, n), len(text))
        if n == 7:
            again = sum(c for c in Counter(grams).values() if c > 1)
            found["repeated_7word_fraction"] = share(again, len(grams))
    return found


NOUNS = (1, 2)
"""Kinds of words: 名詞 but numerals, 名詞,数詞."""
NEITHER = (3, 4)
"""補助記号, 空白."""


SYMBOLS = set("\"',-;[\\]^_`")
"""記号 for UniDic, though Sudachi has them for 補助記号."""


def parts_of_speech(text: str, given: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    nouns = [word for word in given if word[2] in NOUNS]
    counted = [
        (a, b) for a, b, kind in given if kind not in NEITHER or (kind == NEITHER[0] and set(text[a:b]) <= SYMBOLS)
    ]
    return {"noun_fraction": share(len(nouns), len(counted))}


def script_of(c: str) -> str:
    """The script of a character for words: ー and the marks of kana are "mark"."""
    if c.isspace():
        return "space"
    if c in "ーヽヾゝゞｰ":
        return "mark"
    if is_hiragana(c):
        return "hiragana"
    if is_katakana(c) or "\uff66" <= c <= "\uff9f":
        return "katakana"
    if is_kanji(c):
        return "kanji"
    return "letter" if c.isalpha() else "digit" if c.isdecimal() else "other"


def words_by_script(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    before = "space"
    for i, c in enumerate(text):
        script = script_of(c)
        if script == "mark":
            script = before if before in ("hiragana", "katakana") else "katakana"
        if script == before and script not in ("other", "space"):
            spans[-1] = (spans[-1][0], i + 1)
        elif script != "space":
            spans.append((i, i + 1))
        before = script
    return spans


def measure(
    text: str, given: Sequence[tuple[int, int, int]] | None = None, stop_words: Sequence[str] = ()
) -> dict[str, float]:
    """All measures by name; those of parts of speech where words are given, as (first, last, kind)."""
    spans = words_by_script(text) if given is None else [(first, last) for first, last, _ in given]
    return {
        **characters(text),
        **lines(text),
        **sentences(text),
        **ngrams(text),
        **words(text, spans, stop_words),
        **({} if given is None else parts_of_speech(text, given)),
    }
