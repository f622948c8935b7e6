"""Rules of what is known about a document in place of its text: hosts, links, the page's language."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyjpllm.corpus import Document
from pyjpllm.corpus.rules import RulesConfig
from pyjpllm.corpus.rules.known import host_of
from pyjpllm.errors import UserError
from tests.corpus.test_rules import kept, stage


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://JA.Wikipedia.org./x", "ja.wikipedia.org"),
        ("http://user:1@example.jp:80/", "example.jp"),
        ("http://[::1/", ""),
        ("example.jp", ""),
        (None, ""),
        (3, ""),
    ],
)
def test_hosts(url: object, host: str) -> None:
    assert host_of(Document("", {"url": url})) == host


@pytest.mark.parametrize(
    ("preset", "rule", "url", "is_kept"),
    [
        ("swallow-v1", "host", "https://egg.5ch.net/a", False),
        ("swallow-v1", "host", "https://en.wikipedia.org/", False),
        ("swallow-v1", "host", "https://notwikipedia.org/", True),
        ("llm-jp-v1", "domain", "https://example.de/", False),
        ("llm-jp-v1", "domain", "https://example.co.jp/", True),
        ("llm-jp-v1", "wikipedia", "https://ja.wikipedia.org/", False),
        ("llm-jp-v1", "wikipedia", "https://en.wikipedia.org/", True),
    ],
)
def test_rules_of_hosts(preset: str, rule: str, url: str, is_kept: bool) -> None:
    assert kept(stage(preset), rule, "あ", url=url) is is_kept
    assert kept(stage(preset), rule, "あ")


@pytest.mark.parametrize(
    ("preset", "value", "is_kept"),
    [
        ("uzushio", 0.8, True),
        ("uzushio", 0.800001, False),
        ("uzushio-strict", 0.4, True),
        ("uzushio-strict", 0.400001, False),
        ("uzushio-strict", 1, False),
        ("uzushio-strict", "1", True),  # no number
        ("uzushio-strict", True, True),
        ("uzushio-strict", None, True),
    ],
)
def test_links_are_judged_by_the_meta(preset: str, value: object, is_kept: bool) -> None:
    judge = stage(preset)
    document = Document("ひらがなと漢字。", {"link_fraction": value})
    _, findings, measures = judge.judge(document)
    assert (findings[0].rule.name, findings[0].kept) == ("links", is_kept)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    assert ("link_fraction" in measures) == number
    assert (judge([document])[0].reason == "links") is not is_kept
    assert judge.limits["link_fraction"] == (None, 0.8 if preset == "uzushio" else 0.4)
    looser = stage(preset, override={"links": {"at_most": 1}})
    assert kept(looser, "links", document.text, link_fraction=value)


def test_the_links_of_pages_are_measured_where_a_rule_asks() -> None:
    def asked(**more: object) -> frozenset[str]:
        return RulesConfig.model_validate({"kind": "rules", **more}).judged_meta()

    assert asked(preset="uzushio") == {"link_fraction"}
    assert asked(preset="uzushio", without=["links"]) == asked(preset="swallow-v1") == frozenset()


@pytest.mark.parametrize(
    ("meta", "is_kept", "seen"),
    [
        ({"html_lang": "ja"}, True, "lang ja"),
        ({"html_lang": "JA-jp", "title": "Home"}, True, "lang JA-jp"),
        ({"html_lang": " ja_JP "}, True, "lang ja_JP"),
        ({"html_lang": "jam"}, False, "lang jam"),  # Jamaican Creole
        ({"html_lang": "en", "title": "会社のページ"}, True, "kana in title"),
        ({"html_lang": "en-US", "title": "ホーム"}, True, "kana in title"),
        ({"html_lang": "en", "title": "ﾎｰﾑ"}, True, "kana in title"),
        ({"html_lang": "zh", "title": "公司概要"}, False, "lang zh"),
        ({"html_lang": "en"}, False, "lang en"),
        ({"title": "公文書館", "encoding": "cp932"}, True, "kanji in title"),
        ({"title": "Home", "encoding": "utf-8"}, False, "no kanji or kana in title"),
        ({"title": "Москва", "encoding": "utf-8"}, False, "no kanji or kana in title"),
        ({"title": "Python"}, True, "no page"),  # of an article from somewhere else than a page
        ({"encoding": "utf-8"}, True, "no page"),
        ({"html_lang": 3, "title": ["x"], "encoding": "utf-8"}, True, "no page"),
        ({"html_lang": "", "title": "a"}, True, "no page"),
        ({}, True, "no page"),
    ],
)
def test_pages_in_japanese(meta: dict[str, object], is_kept: bool, seen: str) -> None:
    judge = stage("swallow-v1")
    document = Document("短い文。", meta)
    _, findings, _ = judge.judge(document)
    assert (findings[0].rule.name, findings[0].kept, findings[0].seen) == ("page_language", is_kept, seen)
    (verdict,) = judge([document])
    assert verdict.reason == ("letters" if is_kept else "page_language")
    assert bool(verdict.measures) == is_kept, "a page in another language is not measured"


def test_hosts_of_a_file(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.txt"
    hosts.write_text("bad.example\nSpam.Example.\n例え.jp\n192.0.2.1\n::1\n", encoding="utf-8")
    judge = stage("ccnet", blocked_hosts=str(hosts))
    for host in ("www.bad.example", "SPAM.example", "a.例え.jp", "xn--r8jz45g.jp", "192.0.2.1:80", "[::1]"):
        assert judge([Document("あ" * 400, {"url": f"https://{host}/"})])[0].reason == "blocked_host"
    for host in ("good.example", "example", "notbad.example", "192.0.2.10"):
        assert judge([Document("あ" * 400, {"url": f"https://{host}/"})])[0].reason is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("https://bad.example/", "'https://bad.example/' is no host; did you mean 'bad.example'?"),
        ("bad.example/path", "did you mean 'bad.example'?"),
        ("*.bad.example", r"is no host$"),
        ("bad example", "is no host"),
    ],
)
def test_lines_that_are_no_hosts(line: str, said: str, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.txt"
    hosts.write_text(f"good.example\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=said):
        stage("ccnet", blocked_hosts=str(hosts))
