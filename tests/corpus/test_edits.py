"""Edits of a text: footers, punctuation, lines of prose, sentences."""

from __future__ import annotations

import pytest
from hypothesis import given

from pyjpllm.corpus import Document
from pyjpllm.corpus.rules import EditConfig
from pyjpllm.corpus.rules.edits import EDITS, is_prose, japanese_lines, sentences, swallow_punctuation
from tests.corpus.test_rules import stage, unlike
from tests.corpus.texts import texts


def test_edits() -> None:
    assert japanese_lines("abc\n日本\nこれはhttps://a.jp/ です\n" + "x" * 100 + "。") == "これは です"
    footer = EDITS["footer"]()
    body = "\n".join(unlike(30, 40 * i) for i in range(12))
    assert footer(f"{body}\nホーム プライバシーポリシー\n{unlike(9)}") == body
    assert footer(body) == body
    assert footer("") == ""
    assert swallow_punctuation("文，文．") == "文、文。"
    assert swallow_punctuation("文，，文、文、") == "文，，文、文、"  # more runs of the Japanese mark
    assert swallow_punctuation("文，，文、３，Ａ，字，") == "文、、文、３，Ａ，字、"
    edit = EditConfig.model_validate({"kind": "edit", "edits": ["swallow-punctuation", "footer"]}).build()
    (verdict,) = edit([Document("文，文．", {"id": 1})])
    assert (verdict.document.text, verdict.document.meta, verdict.reason) == ("文、文。", {"id": 1}, None)
    prose = EditConfig.model_validate({"kind": "edit", "edits": ["prose-lines"]}).build()
    (verdict,) = prose([Document("abc\ndef")])
    assert (verdict.document.text, verdict.reason) == ("abc\ndef", "emptied")


def test_a_preset_edits_what_its_rules_have_kept() -> None:
    judge = stage("llm-jp-v1", without=["compression"])
    (verdict,) = judge([Document("No kana here\nかな。\n" + "漢" * 60)])
    assert (verdict.reason, verdict.document.text) == (None, "かな。")
    assert verdict.measures["kuten_fraction"] == 1 / 77  # of the text as it was
    (verdict,) = judge([Document("No kana here\n" + "漢" * 60)])
    assert (verdict.reason, verdict.document.text[:2]) == ("kana", "No")
    own = stage("llm-jp-v1", without=["compression", "kana", "kuten"])
    (verdict,) = own([Document("No kana here。\n")])
    assert (verdict.reason, verdict.document.text) == ("emptied", "No kana here。\n")


@pytest.mark.parametrize(
    ("line", "prose"),
    [
        ("このコマンドはファイルを表示する。", True),
        ("オプション", False),
        ("表示する", False),
        ("usage: ls [-l] [file...]", False),
        ("int main(int argc, char *argv[]) は関数", False),
        ("日本語日本語日本語日本語", False),
        ("abcdefのa", False),
        ("abcd fg表計の", True),
    ],
)
def test_prose_lines(line: str, prose: bool) -> None:
    assert is_prose(line) is prose
    other = "この行はいつも文章である。"
    assert EDITS["prose-lines"]()(f"{line}\n\n{other}\n") == (f"{line}\n{other}" if prose else other)


@pytest.mark.parametrize(
    ("kept_one", "dropped_one"),
    [
        ("漢字がある。", "漢字ある。"),  # 6 characters
        ("あ" * 1022 + "。", "あ" * 1023 + "。"),
        ("ひ" + "漢" * 18 + "。", "ひ" + "漢" * 19 + "。"),  # 5% hiragana
        ("あ" * 7 + "abc", "あ" * 6 + "abc"),  # 70% Japanese
    ],
)
def test_sentences_at_the_thresholds_of_nwjc(kept_one: str, dropped_one: str) -> None:
    edit = EDITS["nwjc-sentences"]()
    assert edit(kept_one) == kept_one
    assert edit(dropped_one) == ""
    judge = stage("nwjc")
    assert judge([Document(kept_one)])[0].reason is None
    assert judge([Document(dropped_one)])[0].reason == "emptied"


@given(texts)
def test_sentences_are_the_line(text: str) -> None:
    assert "".join(sentences(text)) == text
    assert all(sentences(text))


def test_sentences_of_nwjc() -> None:
    assert list(sentences("一。「二。」と三！？（四。）")) == ["一。", "「二。」と三！？", "（四。）"]
    edit = EDITS["nwjc-sentences"]()
    text = "これは文である。x = 1; y = 2!「はい、そうです。」と言った。\n\n見出し\n　次の文は残る？！ OK.\n"
    assert edit(text) == "これは文である。「はい、そうです。」と言った。\n次の文は残る？！"
    assert edit(edit(text)) == edit(text)
    assert edit("") == edit("。。。\n！」\n") == ""
    (verdict,) = stage("nwjc")([Document(text, {"id": 1})])
    assert (verdict.reason, verdict.document.text, verdict.document.meta) == (None, edit(text), {"id": 1})
