"""Word lists: the automaton finds what a search word by word finds, and files of words are read as written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyjpllm import _text
from pyjpllm.corpus.rules.lists import list_names, load_list, load_lists, read_words
from pyjpllm.errors import UserError
from tests.corpus.texts import anything

few = st.text(alphabet="あいab\n😀", min_size=1, max_size=5)


def find(text: str, words: list[str]) -> list[tuple[int, int]]:
    """From left to right the longest word, none within another."""
    found, i = [], 0
    while i < len(text):
        length = max((len(word) for word in words if text.startswith(word, i)), default=0)
        if length:
            found.append((i, i + length))
        i += length or 1
    return found


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="あいab\n😀", max_size=60), st.lists(st.lists(few, max_size=6), max_size=4))
@example("ああああい", [["あああ", "あい", "ああ"], ["い"]])
@example("abcab", [["bca", "ab"], ["cab", "abca"]])
@example("", [[]])
def test_the_automaton_finds_what_a_slow_search_finds(text: str, lists: list[list[str]]) -> None:
    automaton = _text.WordLists(lists)
    slow = [find(text, words) for words in lists]
    assert automaton.find(text) == slow
    assert automaton.count(text) == [(len(each), sum(b - a for a, b in each)) for each in slow]


@settings(max_examples=100, deadline=None)
@given(anything, st.lists(anything.filter(bool), max_size=5))
def test_any_characters(text: str, words: list[str]) -> None:
    automaton = _text.WordLists([words])
    for each in (text, text.join(["", *words, ""])):
        assert automaton.find(each) == [find(each, words)]


def test_many_words_in_a_long_text() -> None:
    words = [chr(0x4E00 + i) + chr(0x4E00 + i * 7 % 5000) for i in range(5000)]
    text = "".join(words)
    assert _text.WordLists([words]).find(text) == [[(i, i + 2) for i in range(0, len(text), 2)]]


def test_an_empty_word_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        _text.WordLists([["a", ""]])


def test_the_lists_of_the_package() -> None:
    for name in list_names():
        words = load_list(name)
        assert len(words) == len(set(words)) > 10
        assert all(word == word.strip() for word in words)


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("\ufeff# mine\n 広告 \n\n広告\nPR\n", encoding="utf-8")
    assert load_list(str(path)) == ["広告", "PR"]
    together = load_lists({"ads": ["advertising", str(path)]})["ads"]
    assert together == [*load_list("advertising"), "広告", "PR"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"# nothing\n\n", "holds no word"), ("広告".encode("cp932"), "not UTF-8"), (None, "cannot be read")],
)
def test_a_file_that_is_no_list(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_words(path)


def test_a_name_that_is_no_list() -> None:
    with pytest.raises(UserError, match="no word list 'adlt'; did you mean 'adult'"):
        load_list("adlt")
