"""The pipeline's execution: the same bytes for any number of processes and ranks, and after SIGKILL at any moment."""

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

from benchmarks.corpus import kills
from pyjpllm.corpus import Document, DocumentWriter, read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import ConfigError, CorpusConfig, InputConfig, load_corpus_config
from pyjpllm.corpus.decontamination import DecontaminationConfig
from pyjpllm.corpus.dedup.settings import CopiesConfig, NearCopiesConfig
from pyjpllm.corpus.plan import Shard, plan_shards, shard_from_json
from pyjpllm.corpus.rules import RulesConfig
from pyjpllm.errors import UserError
from tests.corpus.pipelines import contents, inputs, pipeline
from tests.mpi import launch


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of more than half a shard, so that each is one."""
    folder = inputs(tmp_path_factory.mktemp("crawl") / "in")
    for file in folder.glob("*.jsonl"):
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"text": "い" * 200_000 + file.name}, ensure_ascii=False) + "\n")
    return folder


@pytest.fixture(scope="module")
def expected(crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = tmp_path_factory.mktemp("expected") / "run"
    build_corpus(pipeline(crawl, dropped=True), run)
    return contents(run)


def test_what_comes_out(tmp_path: Path) -> None:
    folder = inputs(tmp_path / "in", files=2, lines=9)
    report = build_corpus(pipeline(folder, dropped=True), tmp_path / "run")
    # Lengths 2 to 10; those of 6 and more pass, and the second file's texts differ from the first's.
    kept = [document.text for document in read_documents(tmp_path / "run" / "documents")]
    assert [text[:2] for text in kept] == ["＊あ"] * len(kept)
    assert len(set(kept)) == len(kept)
    dropped = list(read_documents(tmp_path / "run" / "dropped"))
    reasons = [document.meta["dropped"] for document in dropped]
    assert {"stage": "test-length", "reason": "short"} in reasons
    assert {"stage": "test-same", "reason": "same"} in reasons
    assert len(kept) + len(dropped) == 18
    assert all("n" in document.meta for document in dropped)
    assert [stage["name"] for stage in report["stages"]] == ["test-length", "test-same", "again"]
    assert report["seconds"].keys() == {"read", "test-length", "test-same", "again", "write"}
    assert report["read"]["documents"] == 18
    assert report["set_aside"] == {"not-an-object": 2}
    assert report["skipped"] == {"blank-line": 2}
    assert report["written"]["documents"] == len(kept)
    assert report["written"]["characters"] == sum(map(len, kept))
    assert report["written"]["bytes"] == sum(len(text.encode()) for text in kept)
    for before, after in zip(report["stages"], report["stages"][1:], strict=False):
        assert before["kept"] == after["read"]
        assert before["read"]["documents"] == before["kept"]["documents"] + sum(
            tally["documents"] for tally in before["dropped"].values()
        )
    assert report["stages"][0]["limits"] == {"length": [6, None]}
    assert sum(report["stages"][0]["measures"]["length"].values()) == 18
    faults = [json.loads(line) for line in (tmp_path / "run" / "quarantine" / "00000.jsonl").open()]
    assert [fault["reason"] for fault in faults] == ["not-an-object"] * 2
    assert not (tmp_path / "run" / "work").exists()


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_formats(form: str, tmp_path: Path) -> None:
    folder = inputs(tmp_path / "in", files=1)
    build_corpus(pipeline(folder, format=form), tmp_path / "run")
    (file,) = (tmp_path / "run" / "documents").iterdir()
    assert file.name == f"00000-000.{form}"
    assert len(list(read_documents(file))) > 3


def test_files_of_limited_size(tmp_path: Path) -> None:
    with DocumentWriter(tmp_path / "a.jsonl.zst") as writer:
        for number in range(7):
            writer.add(Document(str(number) * 400_000))
    build_corpus(pipeline(tmp_path / "a.jsonl.zst", file_mib=1), tmp_path / "run")
    files = sorted((tmp_path / "run" / "documents").iterdir())
    assert [len(list(read_documents(file))) for file in files] == [2, 2, 2, 1]


def test_a_rank_of_mpirun(crawl: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """The command under a launcher; tests/corpus/dedup/test_ranks.py has more ranks, of MPI already started."""
    argv = [sys.executable, "-m", "tests.corpus._build", str(crawl), str(tmp_path / "run")]
    done = launch(argv, 2)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == expected


def test_sigkill(tmp_path: Path) -> None:
    """A forked process, killed again and again at random moments in a pipeline with all dedup steps; benchmarks/corpus/
    kills.py does it to processes and ranks of the command."""
    kills.make(tmp_path, 600, files=3)
    config = load_corpus_config(tmp_path / "1.toml")
    began = time.monotonic()
    build_corpus(config, tmp_path / "expected")
    takes = time.monotonic() - began
    dice = random.Random(5)
    for moment in range(12):
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                build_corpus(config, tmp_path / "run")
            os._exit(0)
        time.sleep(dice.uniform(0, 0.6 * takes))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (tmp_path / "run" / "report.json").exists() or moment == 11:
            build_corpus(config, tmp_path / "run")
            assert kills.contents(tmp_path / "run") == kills.contents(tmp_path / "expected")
            assert not list((tmp_path / "run").rglob("*.tmp"))
            shutil.rmtree(tmp_path / "run")


def test_every_moment(crawl: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Ended before each rename of a file, in turn: what is there then is what SIGKILL leaves."""

    class EndError(BaseException):
        pass

    real = os.replace
    run = tmp_path / "run"
    moment = 0
    while True:
        shutil.rmtree(run, ignore_errors=True)
        count = 0

        def replace(source: str, target: str) -> None:
            nonlocal count
            count += 1
            if count == moment:  # noqa: B023
                raise EndError
            real(source, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.replace", replace)
            try:
                build_corpus(pipeline(crawl, dropped=True), run)
                ended = False
            except EndError:
                ended = True
        if moment and not ended:
            break
        build_corpus(pipeline(crawl, dropped=True), run)
        assert contents(run) == expected
        moment += 7 if moment else 1
    assert moment > 20


def test_a_run_goes_on_only_with_the_same(tmp_path: Path) -> None:
    folder = inputs(tmp_path / "in", files=1)
    run = tmp_path / "run"
    report = build_corpus(pipeline(folder), run)
    assert build_corpus(pipeline(folder, processes=2), run) == report  # nothing is done again
    with pytest.raises(UserError, match=r"\[output\] is another"):
        build_corpus(pipeline(folder, dropped=True), run)
    (run / "report.json").unlink()
    (folder / "0.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"0\.jsonl has changed"):
        build_corpus(pipeline(folder), run)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        build_corpus(pipeline(folder), tmp_path / "other")
    with pytest.raises(UserError, match="is a file"):
        build_corpus(pipeline(folder), tmp_path / "other" / "file")
    with pytest.raises(UserError, match="no such file"):
        build_corpus(pipeline(tmp_path / "gone"), tmp_path / "new")


def test_a_run_goes_on_only_with_the_files_that_its_stages_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "悪い言葉がある"}\n', encoding="utf-8")
    words, hosts, items = tmp_path / "words.txt", tmp_path / "hosts.txt", tmp_path / "items.jsonl"
    words.write_text("悪い", encoding="utf-8")
    hosts.write_text("a.example", encoding="utf-8")
    items.write_text(json.dumps({"text": "評価の問題である文はここに二十文字より長くある。"}), encoding="utf-8")
    lists = {"ng": ["adult", str(words)]}
    rules = {"kind": "rules", "preset": "swallow-v1", "lists": lists, "blocked_hosts": str(hosts)}
    config = CorpusConfig(
        input=InputConfig(paths=[str(tmp_path / "a.jsonl")]),
        stages=(
            RulesConfig.model_validate(rules),
            DecontaminationConfig(kind="decontaminate", paths=[str(items)]),
        ),
    )
    run = tmp_path / "run"
    report = build_corpus(config, run)
    for file in (words, hosts, items):
        before = file.read_bytes()
        file.write_bytes(before + b"\n")
        for name in ("report.json", "report.away"):  # done, and going on
            with pytest.raises(UserError, match=f"holds a run that read another .*{file.name}; name another folder"):
                build_corpus(config, run)
            (run / name).rename(run / ("report.away" if name == "report.json" else "report.json"))
        file.write_bytes(before)
        assert build_corpus(config, run) == report
    (run / "report.json").unlink()
    assert {**build_corpus(config, run), "seconds": 0} == {**report, "seconds": 0}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    for name in (b"\xc6\xfc.jsonl", b"\xcb\xdc.txt"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b'{"text": "a"}\n' if name.endswith(b"jsonl") else b"\xff")
    for _ in range(2):
        report = build_corpus(CorpusConfig(input=InputConfig(paths=[str(tmp_path / "in")])), tmp_path / "run")
        assert report["written"]["documents"] == 1
        assert report["set_aside"] == {"not-utf8": 1}
        (tmp_path / "run" / "report.json").unlink()


def test_two_steps_that_save_into_one_folder(tmp_path: Path) -> None:
    first = CopiesConfig(kind="dedup-exact", save=str(tmp_path / "a" / ".." / "saved"))
    second = NearCopiesConfig(kind="dedup-minhash", save=str(tmp_path / "saved"))
    with pytest.raises(ConfigError, match="the stages dedup-exact and dedup-minhash save into one folder"):
        CorpusConfig(input=InputConfig(paths=["a"]), stages=(first, second))


def test_one_command_at_a_time(tmp_path: Path) -> None:
    folder = inputs(tmp_path / "in", files=1)

    def again(_: object) -> None:
        with pytest.raises(UserError, match="another command"):
            build_corpus(pipeline(folder), tmp_path / "run")

    build_corpus(pipeline(folder), tmp_path / "run", progress=again)


def test_a_stage_that_fails_on_a_document(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in ("long enough", "fail here", "long as well")))
    report = build_corpus(pipeline(path), tmp_path / "run")
    assert report["set_aside"] == {"stage-failed": 1}
    assert report["written"]["documents"] == 2
    (fault,) = map(json.loads, (tmp_path / "run" / "quarantine" / "00000.jsonl").open())
    assert fault["detail"] == "stage test-length: ValueError: cannot do this one"
    assert fault["excerpt"] == "fail here"


def test_shards(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("a" * 100)
    text = "".join(json.dumps({"text": "x" * (number % 50 + 1), "n": number}) + "\n" for number in range(400))
    (tmp_path / "large.jsonl").write_text(text)
    with DocumentWriter(tmp_path / "large.parquet") as writer:
        for number in range(5000):
            writer.add(Document("x" * 50, {"n": number}))
    files = [*sorted(tmp_path.glob("*.txt")), tmp_path / "large.jsonl", tmp_path / "large.parquet"]
    shards = plan_shards(files, 1000)
    assert [len(shard.spans) for shard in shards[:1]] == [4]
    assert all(Shard(shard.spans) == shard_from_json(json.loads(json.dumps(shard.as_json()))) for shard in shards)
    assert sum(shard.spans[0].path == tmp_path / "large.jsonl" for shard in shards) > 5
    assert sum(shard.spans[0].path == tmp_path / "large.parquet" for shard in shards) == 5
    from pyjpllm.corpus.intake import Bounds, read_span

    for name, count in (("large.jsonl", 400), ("large.parquet", 5000)):
        spans = [span for shard in shards for span in shard.spans if span.path == tmp_path / name]
        documents = [item for span in spans for item in read_span(span, Bounds())]
        assert [item.meta["n"] for item in documents if isinstance(item, Document)] == list(range(count))
