"""Japanese against Chinese and others."""

from __future__ import annotations

import pytest

from pyjpllm.corpus import Document
from pyjpllm.corpus.language import Language, LanguageConfig, kana_share
from pyjpllm.corpus.stage import Verdict
from pyjpllm.errors import UserError

JAPANESE = {
    "prose": "昨日は雨が降ったので、家で本を読んでいました。とても静かな一日でした。",
    "katakana": "インターネットサービスプロバイダーのサーバーメンテナンスのお知らせ",
    "few kana": "東京都千代田区霞が関一丁目二番一号 電話番号案内",
    "law": "日本国憲法第九条の規定に関する最高裁判所大法廷判決",
    "with English": "Windowsのインストール手順: CD-ROMをセットしてsetup.exeを実行します。",
}
OTHERS = {
    "simplified": "中华人民共和国成立于一九四九年十月一日，首都为北京。我们没有时间讨论这个问题。",
    "traditional": "臺灣的歷史可以追溯到數千年前，當時已經有原住民居住在島上。",
    "simplified with の": "鲜の每日优鲜水果店，新鲜水果送货上门，欢迎光临我们的商店，今天有优惠活动",
    "names in kanji": "中華人民共和國 上海市 南京東路 電話號碼 營業時間 歡迎光臨",
    "korean": "대한민국의 수도는 서울이다. 우리는 학교에서 공부한다.",
    "english": "The quick brown fox jumps over the lazy dog near the river bank.",
    "digits": "0123456789 12:34 56-78",
    "nothing": "",
    "invisible": "\0\n\t \u200b",
}


@pytest.fixture(scope="module")
def stage() -> Language:
    return Language(LanguageConfig(kind="language"))


def judge(stage: Language, text: str) -> Verdict:
    (verdict,) = stage([Document(text)])
    return verdict


@pytest.mark.parametrize("name", JAPANESE)
def test_japanese_is_kept(name: str, stage: Language) -> None:
    assert judge(stage, JAPANESE[name]).reason is None


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_dropped(name: str, stage: Language) -> None:
    assert judge(stage, OTHERS[name]).reason in ("no-kana", "other-language")


def test_the_model_is_asked_only_where_the_script_does_not_tell(stage: Language) -> None:
    assert "probability" not in judge(stage, JAPANESE["prose"]).measures
    assert "probability" in judge(stage, JAPANESE["few kana"]).measures
    always = Language(LanguageConfig(kind="language", sure_kana=1.0))
    measures = judge(always, JAPANESE["prose"]).measures
    assert measures["probability"] > 0.9
    assert measures["kana"] == kana_share(JAPANESE["prose"])


def test_shares() -> None:
    assert kana_share("あア ｱ漢") == 0.75
    assert kana_share(" \n") == 0.0
    assert kana_share("😀あ") == 0.5


def test_another_language() -> None:
    english = Language(LanguageConfig(kind="language", language="en"))
    assert judge(english, OTHERS["english"]).reason is None
    assert judge(english, JAPANESE["prose"]).reason == "other-language"


def test_a_language_that_is_none() -> None:
    with pytest.raises(UserError, match="language = 'jp'"):
        LanguageConfig(kind="language", language="jp").build()
