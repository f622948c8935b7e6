"""`jpllm corpus inspect`: what it chooses, says, marks and draws."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pyjpllm import _text
from pyjpllm.cli.app import run
from pyjpllm.corpus import Document
from pyjpllm.corpus.rules import RulesConfig, RulesStage, load_preset, preset_names
from pyjpllm.corpus.rules.highlight import highlight, merged
from pyjpllm.corpus.rules.inspect import choose, inspect
from pyjpllm.corpus.rules.page import SHOWN, marked, page
from pyjpllm.errors import UserError

GOOD = "".join(
    "".join(chr(0x4E00 + 37 * i + j) if j % 3 else chr(0x3041 + 7 * i * j % 80) for j in range(20)) + "。\n"
    for i in range(30)
)
ADS = "今日の<お知らせ>です。" + "送料無料でお買い得。" * 20


def stage(preset: str = "hojichar") -> RulesStage:
    words = "preset" if preset == "hojichar" else "script"  # it asks for parts of speech
    return RulesConfig.model_validate({"kind": "rules", "preset": preset, "words": words}).build()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    records = [{"text": GOOD, "meta": {"url": "https://a.jp/"}}, {"text": ADS, "meta": {"id": "<b>"}}, {"text": ""}]
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_terminal(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["corpus", "inspect", str(corpus), "--preset", "hojichar"]) == 0
    out = capsys.readouterr().out
    assert "document 0: kept" in out
    assert "document 1: dropped by advertising" in out
    assert "document 2: dropped by kana" in out
    assert any(line.split() == ["x", "advertising", "40", "<=", "14"] for line in out.splitlines())


def test_what_a_rule_of_the_meta_has_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pages.jsonl"
    records = [{"text": GOOD, "meta": {"link_fraction": 0.85}}, {"text": GOOD}]
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    words = ["corpus", "inspect", str(path), "--preset", "uzushio", "--html", str(tmp_path / "page.html")]
    assert run(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "document 0: dropped by links"
    assert [line.split() for line in out if "links" in line][1:] == [
        ["x", "links", "0.85", "<=", "0.8"],
        ["links", "not", "in", "meta", "<=", "0.8"],
    ]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<td>link_fraction</td>" in text
    assert "not in meta" in text
    assert run([*words[:5], "--index", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rules"][0] == {
        "rule": "links", "measure": "link_fraction", "value": None, "bounds": "<= 0.8", "kept": True,
    }  # fmt: skip


def test_what_the_edits_of_a_preset_leave(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "edited.jsonl"
    lines = ["残る文はここにある。\nmenu", "menu"]
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in lines), encoding="utf-8")
    words = ["corpus", "inspect", str(path), "--preset", "nwjc"]
    assert run([*words, "--html", str(tmp_path / "page.html")]) == 0
    out = capsys.readouterr().out
    assert "document 0: kept, 10 of 15 characters after the edits of the preset\n" in out
    assert "document 1: dropped, emptied by the edits of the preset\n" in out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>Kept: 1</h2>" in text
    assert "<h2>Dropped: 1</h2>" in text
    assert run([*words, "--index", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kept"], found["reason"], found["characters_before_edits"]) == (False, "emptied", 4)


def test_json_of_one_document(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["corpus", "inspect", str(corpus), "--preset", "hojichar", "--index", "1", "--json"]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["index"], found["kept"], found["reason"]) == (1, False, "advertising")
    assert found["ranges"][0] == [12, 16]
    assert [rule["rule"] for rule in found["rules"]] == [rule.name for rule in load_preset("hojichar").rule]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--preset", "hojchar"], "no preset 'hojchar'; did you mean 'hojichar'?"),
        (["--preset", "hojichar", "--index", "7"], "--index 7: the input has no such document"),
        (["--preset", "hojichar", "--words", "scripts"], "--words scripts; did you mean 'script'?"),
        (["--preset", "hojichar", "--compatible"], "hojichar has no compatible mode"),
        ([], "whose rules? Either --preset NAME or --config PIPELINE is needed, and not both"),
        (["--preset", "hojichar", "--config", "p.toml"], "and not both"),
        (["--preset", "hojichar", "--stage", "first"], "--stage first: is one of a pipeline; write --config PIPELINE"),
    ],
)
def test_mistakes(corpus: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["corpus", "inspect", str(corpus), *more]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


PIPELINE = """\
[input]
paths = ["crawl"]

[[stage]]
kind = "normalize"

[[stage]]
kind = "rules"
preset = "hojichar"
without = ["nouns", "word_repetition"]
override.advertising = { at_most = 50 }
words = "script"
"""


def test_the_rules_of_a_pipeline(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "pipeline.toml"
    config.write_text(PIPELINE, encoding="utf-8")
    words = ["corpus", "inspect", str(corpus), "--config", str(config)]
    assert run([*words, "--html", str(tmp_path / "page.html")]) == 0
    out = capsys.readouterr().out
    assert any(line.split() == ["advertising", "40", "<=", "50"] for line in out.splitlines())
    assert "nouns" not in out
    assert "<h2>Dropped: " in (tmp_path / "page.html").read_text(encoding="utf-8")
    config.write_text(PIPELINE + '[[stage]]\nkind = "rules"\nname = "again"\npreset = "nwjc"\n', encoding="utf-8")
    assert run([*words, "--stage", "again", "--index", "0"]) == 0
    assert "document 0: kept, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pipeline", "more", "said"),
    [
        (PIPELINE, ["--stage", "rule"], "--stage rule: no stage of rules of p.toml; did you mean 'rules'?"),
        (PIPELINE, ["--words", "sudachi"], "--words sudachi: is for --preset; the stage of p.toml says that itself"),
        (PIPELINE, ["--compatible"], "--compatible: is for --preset"),
        (PIPELINE[: PIPELINE.index('[[stage]]\nkind = "rules"')], [], "p.toml: has no stage of rules to inspect"),
        (
            PIPELINE + '[[stage]]\nkind = "rules"\nname = "again"\npreset = "nwjc"\n',
            [],
            "p.toml: has several stages of rules; name one: --stage rules or again",
        ),
    ],
)
def test_mistakes_of_pipelines(
    pipeline: str,
    more: list[str],
    said: str,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(corpus.parent)
    Path("p.toml").write_text(pipeline, encoding="utf-8")
    assert run(["corpus", "inspect", str(corpus), "--config", "p.toml", *more]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_sample_is_drawn_evenly_and_again_the_same() -> None:
    documents = [Document(str(i)) for i in range(100)]
    first = choose(documents, index=None, sample=10, seed=1)
    assert first == choose(documents, index=None, sample=10, seed=1) != choose(documents, index=None, sample=10, seed=2)
    assert [int(document.text) for _, document in first] == [place for place, _ in first] == sorted(dict(first))
    counts = [0] * 10
    for seed in range(400):
        for place, _ in choose(documents[:10], index=None, sample=3, seed=seed):
            counts[place] += 1
    assert all(80 < count < 160 for count in counts)  # 120 each, 4 standard deviations
    with pytest.raises(UserError, match="no document"):
        choose([], index=None, sample=3, seed=1)


@pytest.mark.parametrize("name", preset_names())
def test_every_measure_of_a_preset_can_be_marked(name: str) -> None:
    judge = stage(name)
    for text in (GOOD, ADS, "", "…\n\n…\n" * 9, "a" * 300, "同じ行。\n同じ行。\n\n同じ行。"):
        for rule in judge.preset.rule:
            if rule.measure is not None:
                ranges = highlight(rule.measure, text, lists=judge.words, words=judge.words_of(text))
                assert all(0 <= a < b <= len(text) for a, b in ranges), rule.measure
                assert ranges == merged(ranges)


@pytest.mark.parametrize(
    ("measure", "text", "parts"),
    [
        ("duplicate_line_fraction", "行\n別\n行\n", ["行"]),
        ("duplicate_sentence_fraction", "文。別。文。", ["文。"]),
        ("duplicate_block_fraction", "塊\n二\n\n別\n\n塊\n二", ["塊\n二"]),
        ("top_2gram_fraction", "abxaby", ["ab", "ab"]),
        ("duplicate_5gram_fraction", "abcdexxabcdef", ["abcde", "abcde"]),
        ("duplicate_5word_fraction", "漢か漢か漢。漢か漢か漢", ["漢か漢か漢", "漢か漢か漢"]),
        ("longest_run", "aabbbc", ["bbb"]),
        ("board_marks", "2024年1月2日の投稿", ["2024年1月2日", "投稿"]),
        ("lines_to_10_fraction", "短い\n" + "長" * 11, ["短い"]),
        ("max_sentence_length", "短。とても長い文。", ["とても長い文。"]),
        ("special_fraction", "字、字", ["、"]),
        ("characters", "字", []),
    ],
)
def test_what_is_marked(measure: str, text: str, parts: list[str]) -> None:
    assert [text[a:b] for a, b in highlight(measure, text, lists={}, words=None)] == parts


def test_nouns_are_marked() -> None:
    text = "今日の仙台朝市ではリンゴ1個！"
    words = stage().words_of(text)
    found = highlight("noun_fraction", text, lists={}, words=words)
    assert [text[a:b] for a, b in found] == ["今日", "仙台朝市", "リンゴ1"]
    assert highlight("noun_fraction", text, lists={}, words=None) == []


def test_every_native_measure_has_a_name_that_highlight_takes() -> None:
    for name in _text.measure_names():
        highlight(name, GOOD[:200], lists={}, words=None)


def test_the_page_escapes_and_cuts(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert run(["corpus", "inspect", str(corpus), "--preset", "hojichar", "--html", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert "page:" in capsys.readouterr().out
    assert "&lt;お知らせ&gt;" in text
    assert "&lt;b&gt;" in text
    assert "<mark>送料無料</mark>" in text
    assert "<script" not in text
    assert marked("あ" * (SHOWN + 5), [(0, 1), (SHOWN + 1, SHOWN + 2)]) == "<mark>あ</mark>" + "あ" * (SHOWN - 1)
    assert "none" in page(load_preset("ccnet"), "x", [])


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

PROBE = """<script>
const out = [], box = id => document.getElementById(id).getBoundingClientRect();
out.push(["side by side", box("kept").top === box("dropped").top && box("kept").right <= box("dropped").left]);
const dropped = document.querySelector("#dropped article.dropped");
out.push(["marks", dropped.querySelectorAll("mark").length === 40]);
out.push(["seen", getComputedStyle(dropped.querySelector("mark")).backgroundColor !== "rgba(0, 0, 0, 0)"]);
out.push(["reason", dropped.querySelector("tr.against td").textContent === "advertising"]);
out.push(["open", dropped.querySelector("details").open && !document.querySelector("#kept details").open]);
out.push(["inside", document.documentElement.scrollWidth <= innerWidth]);
document.body.dataset.probe = out.map(([name, good]) => name + "=" + good).join(" ");
</script>"""


@pytest.mark.browser
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    judge = stage()
    found = [inspect(judge, i, Document(text)) for i, text in enumerate((GOOD, ADS))]
    path = tmp_path / "page.html"
    path.write_text(page(judge.preset, "x", found).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--window-size=1400,900", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    probe = result.stdout.partition('data-probe="')[2].partition('"')[0]
    assert probe == "side by side=true marks=true seen=true reason=true open=true inside=true"
