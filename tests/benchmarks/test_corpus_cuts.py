"""Why rules of words decide otherwise: the stretches that two taggers cut differently, and which of them matters."""

from __future__ import annotations

from benchmarks.corpus.cuts import Word, cause, ours, regions, theirs

TEXT = "東京都,京都、A"
OURS = [(0, 2, 1), (2, 3, 1), (3, 4, 3), (4, 6, 1), (6, 7, 3), (7, 8, 1)]
THEIRS = [
    ("東京", "名詞"),
    ("都", "接尾辞"),
    (",", "記号"),
    ("京", "名詞"),
    ("都", "名詞"),
    ("、", "補助記号"),
    ("A", "名詞"),
]


def test_words_stand_where_they_are_in_the_text() -> None:
    assert theirs("a b\na", [("a", "x"), ("b", "y"), ("a", "z")]) == [
        Word(0, 1, "x"),
        Word(2, 3, "y"),
        Word(4, 5, "z"),
    ]
    assert ours([(0, 1, 2), (1, 2, 0)]) == [Word(0, 1, "名詞"), Word(1, 2, "another")]


def test_regions_are_the_shortest_that_both_cut_alike() -> None:
    found = [(len(a), len(b)) for a, b in regions(ours(OURS), theirs(TEXT, THEIRS))]
    assert found == [(1, 1), (1, 1), (1, 1), (1, 2), (1, 1), (1, 1)]
    crossed = list(regions([Word(0, 2, ""), Word(2, 3, "")], [Word(0, 1, ""), Word(1, 3, ""), Word(3, 4, "")]))
    assert [(len(a), len(b)) for a, b in crossed] == [(2, 2), (0, 1)]


def test_the_cause_is_what_moves_the_measure_to_ours() -> None:
    # Ours has 4 nouns of 4 words, theirs 4 of 6, of which one is a mark, and one a suffix that is a noun here.
    kind, said = cause("nouns", 1.0, True, TEXT, OURS, {"words": THEIRS})
    assert kind == "another part of speech of the same word"
    assert said == "MeCab `都` 接尾辞, Sudachi `都` 名詞 (1 times)"
    marks = [*THEIRS[:1], ("都", "名詞"), *THEIRS[2:]]
    assert cause("nouns", 1.0, True, TEXT, OURS, {"words": marks}) == (
        "marks that are 記号 for UniDic, and 補助記号 for Sudachi",
        "MeCab `,` 記号, Sudachi `,` 補助記号 (1 times)",
    )
    # Theirs has one noun more, which is why ours keeps what theirs drops.
    fewer = [*OURS[:5], (7, 8, 0)]
    assert (
        cause("nouns", 0.75, False, TEXT, fewer, {"words": marks})[1] == "MeCab `A` 名詞, Sudachi `A` another (1 times)"
    )


def test_repetition_differs_by_cuts_alone() -> None:
    kind, said = cause("word_repetition", 0.5, True, TEXT, OURS, {"words": THEIRS})
    assert (kind, said) == ("another cut", "MeCab `京` 名詞 + `都` 名詞, Sudachi `京都` 名詞 (1 times)")
    alike = [(TEXT[first:last], "名詞") for first, last, _ in OURS]
    assert cause("word_repetition", 0.5, True, TEXT, OURS, {"words": alike})[0] == "unexplained"
