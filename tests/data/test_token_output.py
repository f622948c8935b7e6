"""A pipeline straight to tokens: the bytes that `encode_files` writes for its documents, whoever does the work."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from pyjpllm.cli.app import run as jpllm
from pyjpllm.config import ConfigError
from pyjpllm.corpus import read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import load_corpus_config
from pyjpllm.data import IndexedDataset, Tokenizer, TokenOutput, encode_files
from pyjpllm.errors import UserError
from tests.corpus.pipelines import inputs, pipeline
from tests.data.corpora import make_tokenizer
from tests.mpi import launch

NAMES = ("tokens.bin", "tokens.idx", "tokens.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of five shards, of which one gives no document, and a tokenizer."""
    folder = tmp_path_factory.mktemp("tokens")
    make_tokenizer(folder / "tokenizer")
    for file in inputs(folder / "in", lines=25).glob("*.jsonl"):
        text = "い" * 2_000 + file.name if file.name != "3.jsonl" else "い"
        more = json.dumps({"text": text}, ensure_ascii=False) + "\n" + " " * 700_000 + "\n"
        file.write_text((file.read_text() if file.name != "3.jsonl" else "") + more)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, bytes]:
    """What `jpllm tokenizer encode` makes of the documents that the pipeline writes as text."""
    build_corpus(pipeline(folder / "in"), folder / "text")
    encode_files(folder / "text" / "documents", folder / "tokenizer", folder / "tokens", workers=1)
    assert len(list((folder / "text" / "documents").iterdir())) == 4
    return {name: (folder / name).read_bytes() for name in NAMES}


def outcome(run: Path) -> dict[str, bytes]:
    assert not list(run.rglob("*.tmp"))
    assert not (run / "work").exists()
    assert not (run / "documents").exists()
    return {name: (run / name).read_bytes() for name in NAMES}


def test_the_bytes_of_encode(folder: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    tokens = TokenOutput.load(folder / "tokenizer")
    config = pipeline(folder / "in", format="tokens", tokenizer=str(folder / "tokenizer"), dropped=True)
    report = build_corpus(config, tmp_path / "run", tokens=tokens)
    assert outcome(tmp_path / "run") == expected
    assert json.loads(expected["tokens.json"]).items() <= report["tokens"].items()
    assert report["tokens"]["characters"] == report["written"]["characters"]
    dataset = IndexedDataset(tmp_path / "run" / "tokens")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    texts = [tokenizer.normalize(document.text) for document in read_documents(folder / "text" / "documents")]
    assert [tokenizer.decode(dataset[n]) for n in range(len(dataset))] == texts  # type: ignore[arg-type]
    assert all(dataset[n][-1] == tokenizer.eos_id for n in range(len(dataset)))
    assert len(list(read_documents(tmp_path / "run" / "dropped"))) > 10  # as text
    assert build_corpus(config, tmp_path / "run", tokens=tokens) == report  # nothing is done again


def test_processes(folder: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    config = pipeline(folder / "in", processes=2, format="tokens", tokenizer=str(folder / "tokenizer"))
    build_corpus(config, tmp_path / "run", tokens=TokenOutput.load(folder / "tokenizer"))
    assert outcome(tmp_path / "run") == expected


def test_ranks(folder: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.data._build_tokens", str(folder / "in"), str(tmp_path / "run")]
    done = launch([*argv, str(folder / "tokenizer")], 2)
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "run") == expected


def test_sigkill(folder: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """A forked process, killed again and again at random moments."""
    dice = random.Random(3)
    run = tmp_path / "run"
    config = pipeline(folder / "in", format="tokens", tokenizer=str(folder / "tokenizer"))
    tokens = TokenOutput.load(folder / "tokenizer")
    began = time.monotonic()
    build_corpus(config, run, tokens=tokens)
    takes = time.monotonic() - began
    for _ in range(12):
        if (run / "report.json").exists():
            build_corpus(config, run, tokens=tokens)  # it may have been killed while it tidied up
            assert outcome(run) == expected
            shutil.rmtree(run)
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                build_corpus(config, run, tokens=tokens)
            os._exit(0)
        time.sleep(dice.uniform(0, 0.8 * takes))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    build_corpus(config, run, tokens=tokens)
    assert outcome(run) == expected


def test_every_moment(folder: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Ended before each rename of a file and each removal of a folder, in turn."""

    class EndError(BaseException):
        pass

    real_replace, real_rmtree = os.replace, shutil.rmtree
    run = tmp_path / "run"
    config = pipeline(folder / "in", format="tokens", tokenizer=str(folder / "tokenizer"))
    tokens = TokenOutput.load(folder / "tokenizer")
    moment, last = 0, False
    while not last:
        real_rmtree(run, ignore_errors=True)
        count = 0

        def step() -> None:
            nonlocal count
            count += 1
            if count == moment:  # noqa: B023
                raise EndError

        def replace(source: str, target: str) -> None:
            step()
            real_replace(source, target)

        def rmtree(path: Path, ignore_errors: bool = False) -> None:
            if path.exists():
                for file in sorted(path.rglob("*.jsonl.zst"))[:1]:
                    file.unlink()  # half-way
                step()
            real_rmtree(path, ignore_errors=ignore_errors)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.replace", replace)
            patch.setattr("shutil.rmtree", rmtree)
            try:
                build_corpus(config, run, tokens=tokens)
                last = bool(moment)
            except EndError:
                pass
        build_corpus(config, run, tokens=tokens)
        assert outcome(run) == expected
        # All of the last ones, when the tokens are joined; some of those before.
        moment = max(1, count - 8) if moment == 0 else moment + 1
    assert moment > 10


def test_a_run_goes_on_only_with_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    shutil.copy(folder / "tokenizer" / "tokenizer.model", tmp_path / "copy")
    make_tokenizer(tmp_path / "other", "bpe")

    def build(tokenizer: Path) -> None:
        config = pipeline(folder / "in", format="tokens", tokenizer=str(tokenizer))
        build_corpus(config, tmp_path / "run", tokens=TokenOutput.load(tokenizer))

    build(folder / "tokenizer")
    build(tmp_path / "copy")
    with pytest.raises(UserError, match=r"\[output\] is another"):
        build(tmp_path / "other")
    with pytest.raises(UserError, match=r"tokenizer\.model: has changed since the run began"):
        TokenOutput(folder / "tokenizer" / "tokenizer.model", "of another").writer(tmp_path / "prefix")
    with pytest.raises(ValueError, match=r"output.format = 'tokens' with tokens = None"):
        build_corpus(pipeline(folder / "in", format="tokens", tokenizer="x"), tmp_path / "new")


def test_no_document(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "あ"}\n')
    config = pipeline(tmp_path / "in.jsonl", format="tokens", tokenizer=str(folder / "tokenizer"))
    report = build_corpus(config, tmp_path / "run", tokens=TokenOutput.load(folder / "tokenizer"))
    assert (report["tokens"]["documents"], report["tokens"]["tokens"]) == (0, 0)
    assert len(IndexedDataset(tmp_path / "run" / "tokens")) == 0


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ('format = "tokens"', 'c.toml:3: output: format = "tokens" needs a tokenizer; write tokenizer = "FOLDER"'),
        ('tokenizer = "t"', 'output: a tokenizer is for format = "tokens", this is "jsonl.zst": leave one out'),
        ('format = "token"', 'c.toml:4: output.format = "token": did you mean "tokens"?'),
    ],
)
def test_mistakes(output: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'[input]\npaths = ["in"]\n[output]\n{output}\n')
    with pytest.raises(ConfigError) as caught:
        load_corpus_config(tmp_path / "c.toml")
    assert message in caught.value.lines[0]


def test_the_commands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f'[input]\npaths = ["{folder}/in/0.jsonl"]\n'
    (tmp_path / "text.toml").write_text(text)
    (tmp_path / "c.toml").write_text(f'{text}[output]\nformat = "tokens"\ntokenizer = "{folder}/tokenzer"\n')
    assert jpllm(["corpus", "build", "c.toml", "--run", "r", "--check"]) == 2
    assert f"no such tokenizer; did you mean '{folder}/tokenizer'" in capsys.readouterr().err
    (tmp_path / "c.toml").write_text((tmp_path / "c.toml").read_text().replace("tokenzer", "tokenizer"))
    assert jpllm(["corpus", "build", "c.toml", "--run", "r"]) == 0
    said = capsys.readouterr().out
    assert " tokens, " in said
    assert " characters a token" in said
    assert jpllm(["corpus", "build", "text.toml", "--run", "t"]) == 0
    assert "characters a token" not in capsys.readouterr().out
    reports = []
    for words in (["r"], ["t", "--tokenizer", f"{folder}/tokenizer"]):
        assert jpllm(["corpus", "stats", *words, "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out)["tokens"])
    assert reports[0] == reports[1]
    assert jpllm(["corpus", "stats", "r", "--tokenizer", f"{folder}/tokenizer"]) == 2
    assert "holds tokens, which its report counts" in capsys.readouterr().err
