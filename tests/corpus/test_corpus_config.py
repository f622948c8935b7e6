"""A pipeline's config: every mistake is one line with its place and the nearest right thing. The commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyjpllm.cli.app import run
from pyjpllm.config import ConfigError
from pyjpllm.corpus import read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import load_corpus_config
from pyjpllm.corpus.reference import reference
from tests.mpi import ROOT

TEXT = """\
[input]
paths = ["in"]

[output]
format = "jsonl"

[[stage]]
kind = "normalize"
wave_dash = true

[[stage]]
kind = "language"
min_probability = 0.6
"""


def load(folder: Path, text: str) -> tuple[str, ...]:
    path = folder / "c.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_corpus_config(path)
    return tuple(line.replace(f"{folder}/", "") for line in caught.value.lines)


def test_a_config(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(TEXT, encoding="utf-8")
    config = load_corpus_config(path)
    assert [stage.kind for stage in config.stages] == ["normalize", "language"]
    assert config.as_dict()["stage"][0]["wave_dash"] is True
    assert config.run.processes == 1


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[output]", "[ouput]", "c.toml:4: [ouput]: no such section; did you mean '[output]'?"),
        ("format =", "fromat =", "c.toml:5: output.fromat = \"jsonl\": no such field; did you mean 'format'?"),
        ('"jsonl"', '"json"', 'c.toml:5: output.format = "json": did you mean "jsonl"? (allowed: '),
        ("paths", "path", "c.toml:2: input.path = "),
        ('["in"]', '"in"', 'c.toml:2: input.paths = "in": must be a list of texts in quotes; did you mean ["in"]?'),
        ('["in"]', "[]", "c.toml:1: input: there is nothing to read; write paths = "),
        ('kind = "language"', 'kind = "langage"', "c.toml:12: stage.kind = \"langage\": no such kind of stage; did"),
        ('kind = "language"\n', "", "c.toml:11: stage.kind is missing; allowed: language"),
        ("min_probability = 0.6", "min_probability = 6", "c.toml:13: stage.min_probability = 6: must be at most 1"),
        ("wave_dash", "wavedash", "c.toml:9: stage.wavedash = true: no such field; did you mean 'wave_dash'?"),
        ("wave_dash = true", 'wave_dash = "yes"', "stage.wave_dash = \"yes\": must be true or false; did you mean"),
        ('"language"\nmin_probability = 0.6', '"normalize"', "c.toml:11: stage 2 is called 'normalize' like stage 1"),
        ("[[stage]]\nkind = \"language\"", "[stage2]", "c.toml:11: [stage2]: no such section; did you mean '[stage]'?"),
    ],
)  # fmt: skip
def test_mistakes(old: str, new: str, line: str, tmp_path: Path) -> None:
    assert old in TEXT
    lines = load(tmp_path, TEXT.replace(old, new, 1))
    assert any(line in found for found in lines), lines


RULES = """\
[input]
paths = ["in"]
[[stage]]
kind = "rules"
preset = "hojichar"
override.kana = {at_least = 2}
lists.adult = ["adult"]
without = ["kuten"]
[[stage]]
kind = "edit"
edits = ["footer"]
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("at_least", "at_leest", 'stage.override.kana.at_leest = 2: did you mean "at_least"? (allowed: at_least, '),
        ("{at_least = 2}", "2", "c.toml:6: stage.override.kana = 2: must be a table"),
        ('["adult"]', '"adult"', 'stage.lists.adult = "adult": must be a list of texts in quotes; did you mean ["ad'),
        ('["footer"]', '["foter"]', 'stage.edits.0 = "foter": did you mean "footer"?'),
    ],
)
def test_mistakes_in_rules(old: str, new: str, line: str, tmp_path: Path) -> None:
    lines = load(tmp_path, RULES.replace(old, new, 1))
    assert len(lines) == 1
    assert line in lines[0]


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    lines = load(tmp_path, '[input]\n[run]\nprocesses = -1\n[[stage]]\nkind = "zzz"\n')
    assert len(lines) == 3


def test_the_reference_is_current() -> None:
    written = (ROOT / "docs" / "corpus-configuration.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m pyjpllm.corpus.reference > docs/corpus-configuration.md"


PIPELINES = [
    *(ROOT / "examples").glob("corpus*.toml"),
    ROOT / "examples" / "parallel.toml",
    *(ROOT / "scripts" / "quickstart" / name for name in ("corpus.toml", "own-text.toml")),
]


@pytest.mark.parametrize("path", sorted(PIPELINES), ids=lambda path: path.name)
def test_the_examples(path: Path) -> None:
    for stage in load_corpus_config(path).stages:
        stage.build()


def test_rules_and_edits_in_a_pipeline(tmp_path: Path) -> None:
    text = "健全な長い文章である。\n今日もよく晴れているようだ。"
    texts = [f"{text}\nお問い合わせ", "まるのない文章", "仮名無き文書。"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = tmp_path / "c.toml"
    path.write_text(RULES.replace('"in"', f'"{tmp_path}/in.jsonl"').replace('["kuten"]', '["violence"]'))
    report = build_corpus(load_corpus_config(path), tmp_path / "run")
    rules, edit = report["stages"]
    assert {reason: tally["documents"] for reason, tally in rules["dropped"].items()} == {"kana": 1, "kuten": 1}
    assert rules["limits"]["kana_in_first_50"] == [2, None]
    assert (edit["name"], edit["changed"]) == ("edit", 1)
    assert [document.text for document in read_documents([tmp_path / "run" / "documents"])] == [text]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "in").mkdir()
    lines = [{"text": "これは日本語の文章です。" * 3}, {"text": "中华人民共和国成立于"}, []]
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "c.toml").write_text(TEXT, encoding="utf-8")
    return tmp_path


def test_build_and_stats(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["corpus", "build", "c.toml", "--check"]) == 0
    assert "ready; 1 file; normalize, language" in capsys.readouterr().out
    assert not (project / "r").exists()
    assert run(["corpus", "build", "c.toml", "--run", "r"]) == 0
    out = capsys.readouterr().out
    assert "- no-kana" in out
    assert "set aside: 1 not-an-object" in out
    assert run(["corpus", "stats", "r", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["written"]["documents"] == 1
    assert run(["corpus", "stats", "r"]) == 0
    out = capsys.readouterr().out
    assert "language: kana (2 documents)" in out
    assert "at least" in out


def test_mistakes_on_the_command_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["build", "c.toml"], "corpus build needs --run DIR"),
        (["stats", "in"], "is no run of 'jpllm corpus build'"),
        (["stats", "gone"], "no such folder"),
        (["build", "d.toml", "--run", "r"], "no such file; did you mean"),
        (["build", "c.toml", "--run", "in"], "not empty; name another folder"),
    ):
        assert run(["corpus", *words]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1
