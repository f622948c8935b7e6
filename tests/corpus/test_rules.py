"""Rules: presets are whole, every threshold decides as its source does, verdicts name the first rule that drops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from pyjpllm.corpus import Document
from pyjpllm.corpus.rules import RulesConfig, RulesStage, load_preset, preset_names
from pyjpllm.corpus.rules.measures import Meter, cost_class, lz4_ratio, zlib_ratio
from pyjpllm.corpus.rules.presets import BOUNDS
from pyjpllm.errors import UserError
from tests.corpus.texts import texts


def unlike(n: int, start: int = 0) -> str:
    """So many kanji, none twice."""
    return "".join(chr(0x4E00 + start + i) for i in range(n))


def stage(preset: str, **more: object) -> RulesStage:
    """With the words of the scripts, but where a rule asks for parts of speech."""
    words = "preset" if preset == "hojichar" else "script"
    return RulesConfig.model_validate({"kind": "rules", "preset": preset, "words": words, **more}).build()


def kept(of: RulesStage, rule: str, text: str, **meta: object) -> bool:
    _, findings, _ = of.judge(Document(text, meta))
    return next(finding.kept for finding in findings if finding.rule.name == rule)


def repeated(n: int, copies: int, total: int) -> str:
    """A text of ``total`` n-grams of which ``copies`` different ones occur twice."""
    piece = unlike(copies + n - 1)
    rest = unlike(total + n - 1 - 2 * len(piece), 5000)
    return piece + rest[: len(rest) // 2] + piece + rest[len(rest) // 2 :]


def lines(dropped: int, of: int, line: str) -> str:
    """``of`` lines, of which so many are ``line``, all with a newline behind."""
    return "".join((line if i < dropped else unlike(40, 50 * i)) + "\n" for i in range(of))


def amounts(first: int, last: int) -> str:
    """Two words for each number."""
    return "".join(f"{i}円" for i in range(first, last))


def twice(n: int, length: int) -> str:
    """``length`` characters, in which n words of one character come twice."""
    words = "".join(chr(0x4E00 + i) + chr(0x3041 + 2 * i) for i in range(n))[:n]
    return words + "a" * (length - 2 * n) + words


LAZY_AND_WHOLE = [(name, stage(name), stage(name, all_measures=True)) for name in preset_names()]


# (rule, text that is just kept, text that is just dropped)
SWALLOW = [
    ("letters", unlike(400), unlike(399)),
    ("letters", unlike(401), unlike(399)),
    ("duplicate_paragraphs", "\n".join([unlike(9)] * 4 + [unlike(9, 20 * i) for i in range(1, 7)]),
     "\n".join([unlike(9)] * 5 + [unlike(9, 20 * i) for i in range(1, 6)])),
    ("duplicate_sentences", "".join([unlike(9) + "。"] * 4 + [unlike(9, 20 * i) + "。" for i in range(1, 7)]),
     "".join([unlike(9) + "。"] * 5 + [unlike(9, 20 * i) + "。" for i in range(1, 6)])),
    ("duplicate_paragraph_characters", unlike(20) + "\n" + unlike(20) + "\n" + unlike(60, 500),
     unlike(20) + "\n" + unlike(20) + "\n" + unlike(59, 500)),
    ("duplicate_sentence_characters", (unlike(19) + "。") * 2 + unlike(60, 500),
     (unlike(19) + "。") * 2 + unlike(59, 500)),
    ("top_2gram", "".join("ab" + unlike(1, i) for i in range(20)) + unlike(41, 500),
     "".join("ab" + unlike(1, i) for i in range(20)) + unlike(40, 500)),
    ("top_3gram", "".join("abc" + unlike(1, i) for i in range(18)) + unlike(30, 500),
     "".join("abc" + unlike(1, i) for i in range(18)) + unlike(29, 500)),
    ("top_4gram", "".join("abcd" + unlike(1, i) for i in range(16)) + unlike(23, 500),
     "".join("abcd" + unlike(1, i) for i in range(16)) + unlike(22, 500)),
    *((f"duplicate_{n}gram", repeated(n, 20 - n, 200), repeated(n, 20 - n, 199)) for n in range(5, 11)),
    ("hiragana", "ああ" + unlike(8), "ああ" + unlike(9)),
    ("katakana", "アアア" + unlike(3), "アアア" + unlike(2)),
    ("japanese", unlike(5) + "abcde", unlike(5) + "abcdef"),
    ("japanese_letters", unlike(400), unlike(399) + "a"),
    ("sentence_length", unlike(19) + "。", unlike(18) + "。"),
    ("sentence_length", unlike(89) + "。", unlike(90) + "。"),
    ("longest_sentence", unlike(199) + "。", unlike(200) + "。"),
    ("ellipsis", lines(2, 10, "続く…"), lines(3, 10, "続く・ ")),
    ("ng_words", "殺すぞ" + unlike(58), "殺すぞ" + unlike(57)),
]  # fmt: skip

HOJICHAR = [
    ("kana", "a" * 49 + "あ", "a" * 50 + "あ"),
    ("kuten", "あ" * 99 + "。", "あ" * 100 + "。"),
    ("kuten", "あ" * 297 + "。。。", "あ" * 298 + "。。"),
    ("adult", "健全な文章。", "ここに無修正がある。"),
    ("discrimination", "健全な文章。", "彼はキチガイだ。"),
    ("violence", "健全な文章。", "皆殺しの歌。"),
    ("board", "投稿 " * 14, "投稿 " * 15),
    ("board", "2024年1月2日 12話 (土) " * 4 + "- -", "2024年1月2日 12話 (土) " * 5),
    ("advertising", "送料無料 " * 14, "送料無料 " * 15),
    ("repetition", "あ" * 36 + unlike(68), "あ" * 37 + unlike(67)),
    ("special_characters", "、" * 20 + "＠" * 20 + "あ" * 60, "、" * 20 + " " * 21 + "あ" * 60),
    ("one_character", "あ" * 199, "あ" * 200),
    ("ellipsis", lines(7, 10, "続く..."), lines(8, 10, "続く…")),
    ("short_lines", lines(4, 9, "あ" * 10), lines(5, 9, "あ" * 10)),
    ("nouns", "犬が" * 19 + "犬、" * 56, "犬が" * 19 + "犬、" * 57),
    ("word_repetition", amounts(10, 18) + amounts(20, 33) + amounts(10, 18),
     amounts(10, 18) + amounts(20, 32) + amounts(10, 18)),
    # The examples of DiscardTooManyNouns.
    ("nouns", "自然言語処理大好き！", "リンゴ・オレンジ・ミカン・バナナ セール中"),
    ("nouns", "今日の仙台朝市ではリンゴがセール中", "リンゴ・オレンジ・ミカン・バナナ セール中"),
]  # fmt: skip

LLM_JP = [
    ("kana", "あ" + "漢" * 9, "漢" * 50 + "あ"),
    ("kuten", "あ" * 249 + "。", "あ" * 250 + "。"),
    ("adult", "あ無修正" * 3, "あ無修正" * 4),
    ("discrimination", "あキチガイ。" * 3, "あキチガイ。" * 4),
    ("violence", "あ皆殺し" * 3, "あ皆殺し" * 4),
    ("advertising", "あ送料無料" * 10, "あ送料無料" * 11),
    ("compression", "あ" + "".join(chr(0x4E00 + i * i * 37 % 20_000) for i in range(300)) * 2, "あ" * 500),
]

JPLLM = [
    ("length", unlike(200), unlike(199)),
    ("japanese", unlike(10) + "a" * 90, unlike(10) + "a" * 91),
    ("hiragana", "ああ" + unlike(8), "ああ" + unlike(9)),
    ("function_words", "の" + unlike(4), "の" + unlike(5)),
    ("function_words", "これは" + unlike(12), "これは" + unlike(13)),
    ("line_punctuation", lines(1, 20, "文。"), lines(1, 21, "文。")),
    ("digits", "1" * 15 + unlike(85), "1" * 15 + unlike(84)),
    ("repetition", repeated(10, 30, 100), repeated(10, 30, 99)),
    ("ellipsis", lines(3, 10, "続く… "), lines(4, 10, "続く...")),
    ("advertising", "送料無料" + unlike(47), "送料無料" + unlike(46)),
    ("walls", "続きを読む" + unlike(162), "続きを読む" + unlike(161)),
    ("ng_words", "殺すぞ" + unlike(58), "殺すぞ" + unlike(57)),
]

# Words by script: a kanji and a kana are a word each.
FINEWEB2 = [
    ("duplicate_lines", "\n".join([unlike(3)] * 42 + [unlike(3, 5 * i) for i in range(1, 84)]),
     "\n".join([unlike(3)] * 43 + [unlike(3, 5 * i) for i in range(1, 84)])),
    ("top_2gram", "漢か" + "a" * 11, "漢か" + "a" * 10),
    ("top_3gram", "漢か漢" + "a" * 23, "漢か漢" + "a" * 22),
    ("top_4gram", "漢か漢か" + "a" * 37, "漢か漢か" + "a" * 36),
    *((f"duplicate_{n}gram", twice(n, math.ceil(n / most)), twice(n, math.ceil(n / most) - 1))
      for n, most in zip(range(5, 11), (0.243, 0.225, 0.207, 0.19, 0.175, 0.159), strict=True)),
    ("line_punctuation", lines(12, 125, "文。"), lines(11, 125, "文。")),
    ("duplicate_characters", "\n".join([unlike(10), unlike(10), unlike(80, 500)]),
     "\n".join([unlike(10), unlike(10), unlike(79, 500)])),
    ("newlines", "漢か" * 50 + "\n" * 13, "漢か" * 50 + "\n" * 14),
    ("words", "漢か" * 25, "漢か" * 24 + "漢。。。"),
    ("words", "漢か" * 50_000, "漢か" * 50_000 + "漢"),
    ("word_length", unlike(6), unlike(7)),
    ("hashes", "漢か" * 45 + "#" * 10, "漢か" * 44 + "#" * 10),
    ("ellipses", "漢か" * 45 + "…" * 10, "漢か" * 44 + "…" * 10),
    ("bullets", lines(9, 10, "- 項目"), lines(10, 10, " •項目")),
    ("ellipsis_lines", lines(3, 10, "続く… "), lines(4, 10, "続く...")),
    ("letters", "漢" + "か漢" * 379 + "。" * 241, "漢" + "か漢" * 379 + "。" * 242),
    ("stop_words", "漢の字に", "漢の字の"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "rule", "good", "bad"),
    [(preset, *case) for preset, cases in [("swallow-v1", SWALLOW), ("hojichar", HOJICHAR), ("llm-jp-v1", LLM_JP),
                                           ("fineweb2-ja", FINEWEB2), ("jpllm", JPLLM)] for case in cases],
)  # fmt: skip
def test_documents_at_the_threshold(preset: str, rule: str, good: str, bad: str) -> None:
    judge = stage(preset)
    assert kept(judge, rule, good)
    assert not kept(judge, rule, bad)


def test_word_repetition_is_measured_as_hojichar_counts() -> None:
    """20 occurrences of 7-grams that occur twice, of 50: each piece has 16 words."""
    dropped = amounts(10, 18) + amounts(20, 32) + amounts(10, 18)
    assert stage("hojichar").judge(Document(dropped))[2]["repeated_7word_fraction"] == 20 / 50


@pytest.mark.parametrize("n", range(5, 11))
def test_duplicate_ngrams_by_types_as_the_code_of_swallow_counts(n: int) -> None:
    judge = stage("swallow-v1", compatible=True)
    # k types of T - k are there twice: the share is (20 - n)% where T = 100 + k.
    k = 20 - n
    assert kept(judge, f"duplicate_{n}gram", repeated(n, k, 100 + k))
    assert not kept(judge, f"duplicate_{n}gram", repeated(n, k, 99 + k))


def test_every_rule_at_its_bounds() -> None:
    for name in preset_names():
        preset = load_preset(name)
        for rule in preset.rule:
            if rule.measure is None and rule.meta is None:
                continue
            assert any(getattr(rule, bound) is not None for bound in BOUNDS)
            assert rule.bounds()
            if rule.at_least is not None:
                assert rule.keeps(rule.at_least)
                assert not rule.keeps(math.nextafter(rule.at_least, -math.inf))
            if rule.at_most is not None:
                assert rule.keeps(rule.at_most)
                assert not rule.keeps(math.nextafter(rule.at_most, math.inf))
            if rule.below is not None:
                assert rule.keeps(math.nextafter(rule.below, -math.inf))
                assert not rule.keeps(rule.below)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_builds_and_judges_the_empty_text(name: str) -> None:
    judge = stage(name)
    names = [rule.name for rule in judge.preset.rule]
    assert len(set(names)) == len(names)
    assert names == [finding.rule.name for finding in judge.judge(Document(""))[1]], "rules stand as they are judged"
    (verdict,) = judge([Document("")])
    assert verdict.document.text == ""
    assert set(verdict.measures) == set(judge.judge(Document(""))[2]) or verdict.reason is not None
    judge = stage(name, all_measures=True)
    (verdict,) = judge([Document("")])
    assert set(verdict.measures) == {rule.measure for rule in judge.preset.rule if rule.measure}
    assert set(judge.limits) - {rule.meta for rule in judge.preset.rule} == set(verdict.measures)


@settings(max_examples=60, deadline=None)
@given(texts)
def test_what_is_not_measured_changes_no_verdict(text: str) -> None:
    for name, lazy, whole in LAZY_AND_WHOLE:
        (first,), (second,) = lazy([Document(text)]), whole([Document(text)])
        assert (first.reason, first.document) == (second.reason, second.document), name
        assert first.measures == {key: second.measures[key] for key in first.measures}
        if first.reason is None:
            assert first.measures == second.measures


def test_words_that_have_no_parts_of_speech() -> None:
    said = 'words = "script" has no parts of speech, which the rule nouns of the preset hojichar measures'
    with pytest.raises(UserError) as error:
        stage("hojichar", words="script")
    (line,) = str(error.value).splitlines()
    assert line.startswith(said)
    assert line.endswith('take words = "sudachi", or leave out what needs them: without = ["nouns"]')
    judge = stage("hojichar", words="script", without=["nouns"])
    assert "repeated_7word_fraction" in judge.limits
    assert "noun_fraction" not in judge.limits


def test_a_tagger_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to install, and what can be had without."""

    def missing() -> None:
        raise ImportError("no package sudachipy")

    monkeypatch.setattr("pyjpllm.corpus.rules.words.native_words", missing)
    install = r"loaded \(no package sudachipy\); pip install 'pyjpllm\[corpus\]', or "
    with pytest.raises(UserError, match=install + 'take words = "script"$'):
        stage("fineweb2-ja", words="preset")
    with pytest.raises(UserError, match=install + r'leave out .*: without = \["nouns", "word_repetition"\]$'):
        stage("hojichar")
    judge = stage("hojichar", without=["nouns", "word_repetition"])
    assert judge([Document("猫である。" + unlike(60))])[0].reason is None
    assert judge.words_of("猫である") is None
    assert kept(stage("hojichar", words="script", without=["nouns"]), "word_repetition", unlike(60))


def test_a_document_that_a_cheap_rule_drops_is_not_cut_into_words() -> None:
    measured = stage("fineweb2-ja")([Document("行\n" * 9)])[0]
    assert measured.reason == "duplicate_lines"
    assert not any("word" in name for name in measured.measures)


def test_the_verdict_names_the_first_rule_that_drops() -> None:
    text = "短い文。" * 3
    judge = stage("swallow-v1")
    (verdict,) = judge([Document(text)])
    assert verdict.reason == "letters"
    assert verdict.measures["characters"] == len(text)
    assert judge([Document(text, {"url": "https://ja.wikipedia.org/wiki/x"})])[0].reason == "host"
    assert stage("swallow-v1", without=["letters"])([Document(text)])[0].reason == "duplicate_sentences"
    assert stage("ccnet")([Document("あ" * 300)])[0].reason is None


def test_bounds_and_lists_can_be_changed_one_by_one(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("禁句\n", encoding="utf-8")
    text = "ここに禁句。"
    judge = stage("hojichar", override={"adult": {"at_most": 1}}, lists={"adult": [str(own)]})
    assert kept(judge, "adult", text)
    assert not kept(judge, "adult", text * 2)
    assert judge.limits["adult.count"] == (None, 1.0)
    assert not kept(stage("hojichar", lists={"adult": ["adult", str(own)]}), "adult", text)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"preset": "swalow-v1"}, "no preset 'swalow-v1'; did you mean 'swallow-v1'"),
        ({"without": ["hiragna"]}, "no rule 'hiragna'; did you mean 'hiragana'"),
        ({"override": {"letters": {"at_most": 3}}}, "rule letters .* has no bound 'at_most'"),
        ({"preset": "ccnet", "compatible": True}, "ccnet has no compatible mode"),
        ({"override": {"page_language": {"at_most": 3}}}, "rule page_language .* has no bound 'at_most'"),
        ({"lists": {"ng": ["adlt"]}}, "no word list 'adlt'"),
        ({"lists": {"mg": ["adult"]}}, r"lists\.mg: no rule of the preset swallow-v1 counts .*; did you mean 'ng'"),
        (
            {"preset": "ccnet", "lists": {"ng": ["adult"]}},
            r"lists\.ng: no rule of the preset ccnet .*; they ask for none",
        ),
        ({"blocked_hosts": "/nowhere/hosts"}, "/nowhere/hosts: the word list cannot be read"),
    ],
)
def test_mistakes(more: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        stage(**{"preset": "swallow-v1", **more})  # type: ignore[arg-type]


def test_a_bound_that_is_none_is_refused_by_the_config() -> None:
    for wrong in ({"override": {"letters": {"more": 3}}}, {"override": {"letters": {"at_least": float("nan")}}},
                  {"lists": {"ng": []}}):  # fmt: skip
        with pytest.raises(ValidationError):
            stage("swallow-v1", **wrong)


def test_a_measure_that_is_none() -> None:
    with pytest.raises(UserError, match=r"no measure 'adult\.counts'; did you mean 'adult\.count'"):
        Meter(["adult.counts"], lists={"adult": ["a"]})


def test_a_list_is_no_measure_of_words_whatever_it_is_called() -> None:
    assert cost_class("function-words.of_japanese") == cost_class("grams.count") == 0
    assert [cost_class(name) for name in ("characters", "zlib_ratio", "top_2gram_fraction", "words")] == [0, 1, 1, 2]
    assert cost_class("noun_fraction") == 2


def test_shares_of_a_list() -> None:
    meter = Meter(["own.fraction", "own.of_japanese", "own.count"], lists={"own": ["禁句"]})
    assert meter("禁句x漢字") == {"own.fraction": 2 / 5, "own.of_japanese": 2 / 4, "own.count": 1.0}
    assert meter("") == {"own.fraction": 0.0, "own.of_japanese": 0.0, "own.count": 0.0}


def test_compression() -> None:
    assert zlib_ratio("") == lz4_ratio("") == 0.0
    assert zlib_ratio("あ" * 1000) < 0.02
    assert lz4_ratio("あ" * 1000) < 0.02
    assert lz4_ratio(unlike(50)) > 0.9


def test_words_of_sudachi() -> None:
    pytest.importorskip("sudachipy")
    from pyjpllm.corpus.rules.words import segmenter

    cut = segmenter("sudachi")
    assert cut is not None
    text = "東京都に…行く\n　①㍿😀ＡＢＣ ｶﾞｽ"
    words = [text[a:b] for a, b, _ in cut(text).tolist()]
    assert words == ["東京", "都", "に", "…", "行く", "①", "㍿", "😀", "ＡＢＣ", "ｶﾞｽ"]
    assert cut("").shape == (0, 3)
    long = "吾輩は猫である。" * 4000  # more bytes than SudachiPy takes at once
    spans = cut(long).tolist()
    assert "".join(long[a:b] for a, b, _ in spans) == long
    assert {long[a:b] for a, b, _ in spans} == {"吾輩", "は", "猫", "で", "ある", "。"}


def test_the_tables_in_the_docs_are_current() -> None:
    from pyjpllm.corpus.rules.reference import reference

    text = (Path(__file__).parents[2] / "docs" / "corpus-rules.md").read_text(encoding="utf-8")
    assert text.endswith(reference()), "run: python -m pyjpllm.corpus.rules.reference, behind `## Presets`"
