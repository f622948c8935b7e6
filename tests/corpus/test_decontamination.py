"""Decontamination: every planted variant is found, and nearly nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.planted import VARIANTS, Planter
from pyjpllm.corpus.decontamination import DecontaminationConfig, Detector, Item, by_task, read_items
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.folding import fold
from pyjpllm.errors import UserError

# Words to make sentences of: unlike drawn characters, different sentences share most of their short grams.
PARTS = (
    ("私たちは", "この研究では", "東京の", "日本の経済は", "彼女が", "プログラムは", "データベースの", "ＡＰＩが"),
    ("昨日", "大きな", "効率的に", "図書館で", "とても重要な", "世界中の", "Python で", "第二次", "自動的に"),
    ("研究を行った。", "結果が得られました。", "使うことができます。", "問題となっている。", "考えられる。"),
)


def sentences(planter: Planter, count: int) -> str:
    subjects, middles, ends = (planter.random.integers(len(part), size=(count, 2)).tolist() for part in PARTS)
    return "".join(
        PARTS[0][subject] + PARTS[1][first] + PARTS[1][second] + PARTS[2][end]
        for (subject, _), (first, second), (end, _) in zip(subjects, middles, ends, strict=True)
    )


def questions(planter: Planter, count: int) -> list[str]:
    """Items of 30 to 120 characters in all scripts: a common beginning, then something of their own."""
    names = [planter.text(int(size)) for size in planter.random.integers(26, 110, count)]
    return [f"次の質問に答えよ: {name}、カタカナ ガギパ ABC はどれか?" for name in names]


@pytest.fixture(scope="module")
def detector() -> Detector:
    texts = questions(Planter(11), 150)
    return Detector([Item("qa", n, fold(text, "letters")) for n, text in enumerate(texts)], 0.25, 0.4, 20, 10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_planted_variant_is_found(variant: str, detector: Detector) -> None:
    items = questions(Planter(11), 150)
    planter = Planter(12)
    texts = []
    for number, item in enumerate(items):
        changed = VARIANTS[variant](item, planter)
        around = number % 3  # alone, or within a document
        texts.append(sentences(planter, 20 * around) + changed + sentences(planter, 10 * around))
    found = detector.find(texts)
    assert [number for number, matches in enumerate(found) if number not in {m.item.number for m in matches}] == []
    assert sum(len(matches) for matches in found) == len(items)


def test_few_false_alarms(detector: Detector) -> None:
    """None in 800 documents of like sentences; benchmarks/corpus/contamination.py has real ones."""
    planter = Planter(13)
    documents = [sentences(planter, int(size)) for size in planter.random.integers(1, 40, 800)]
    begin = ["次の質問に答えよ: " + text for text in documents]
    assert sum(map(bool, detector.find(begin))) == 0


def test_a_copy_edited_too_much_for_grams_is_found_by_minhash() -> None:
    planter = Planter(15)
    items = [planter.text(300) for _ in range(30)]
    detector = Detector([Item("t", n, text) for n, text in enumerate(items)], 0.9, 0.4, 20, 10, edits=0.0)
    found = detector.find([planter.edited(text, 0.1) for text in items])
    assert [[(m.item.number, m.by) for m in matches] for matches in found] == [[(n, "minhash")] for n in range(30)]
    assert all(0.4 <= matches[0].share <= 0.8 for matches in found)


def test_a_quarter_of_the_grams_is_not_enough() -> None:
    """Sentences of one kind: what has many grams of an item is it only where few characters differ."""
    item = "地方自治体が管理する公園の樹木について、毎年の春に点検を行い結果を公表することが義務づけられている。"
    other = "国の機関が管理する河川の堤防について、毎年の秋に点検を行い結果を公表することが求められる場合がある。"
    edited = "地方公共団体が管理する庭園の樹木について、毎年の春に検査を行い結論を公表することが義務付けられている。"
    around = "前の文章があって、" * 5
    detector = Detector([Item("t", 0, fold(item, "letters"))], 0.5, 0.4, 20, 10, edits=0.2)
    found = detector.find([around + text + around for text in (item, edited, other)])
    assert [[match.by for match in matches] for matches in found] == [["grams"], ["edits"], []]
    loose = Detector([Item("t", 0, fold(item, "letters"))], 0.25, 0.4, 20, 10)
    assert len(loose.find([around + other + around])[0]) == 1  # its grams alone would say so


def test_what_cannot_be_told_is_named() -> None:
    shared = "この文はどの問題にも同じように書いてある決まり文句です"
    other = Item("t", 13, shared + "違うところがあるもの")
    items = [
        Item("t", 0, "短い"),
        *(Item("t", n, shared) for n in range(1, 13)),
        other,
    ]
    detector = Detector(items, 0.25, 0.4, 20, 10)
    assert detector.too_short == items[:1]
    assert detector.too_common == items[1:13]
    assert [[m.item.number for m in matches if m.by == "grams"] for matches in detector.find(["", shared])] == [[], []]
    empty = Detector([], 0.25, 0.4, 20, 10)
    assert empty.find(["何か", ""]) == [[], []]


def write_task(folder: Path, name: str, items: list[str]) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": item}) + "\n" for item in items))
    return str(path)


def test_the_stage(tmp_path: Path) -> None:
    first, second = questions(Planter(1), 12), questions(Planter(2), 12)
    paths = [write_task(tmp_path, "jcqa", first), write_task(tmp_path, "niilc", second)]
    documents = [
        Document(f"前書き。{second[3]}後書き。", {"url": "a"}),
        Document("関係のない文書"),
        Document(first[0] + "。" + second[1], {"url": "b"}),
    ]
    verdicts = DecontaminationConfig(kind="decontaminate", paths=paths).build()(documents)
    assert [verdict.reason for verdict in verdicts] == ["contaminated-niilc", None, "contaminated-jcqa"]
    assert verdicts[0].document.text == documents[0].text
    assert verdicts[0].document.meta["contamination"] == [{"task": "niilc", "item": 3, "by": "grams", "share": 1.0}]
    assert [verdict.measures["items"] for verdict in verdicts] == [1, 0, 2]
    assert verdicts[1].document == documents[1]
    marked = DecontaminationConfig(kind="decontaminate", paths=paths, mode="mark").build()(documents)
    assert [verdict.reason for verdict in marked] == [None] * 3
    assert [verdict.document for verdict in marked] == [verdict.document for verdict in verdicts]
    assert len(read_items(paths)) == 24
    with pytest.raises(UserError, match="none of 1 items"):
        DecontaminationConfig(kind="decontaminate", paths=[write_task(tmp_path, "short", ["短い"])]).build()


def test_the_report_by_task(detector: Detector) -> None:
    items = questions(Planter(11), 150)
    texts = {"a": items[3] + items[4], "b": items[4], "c": "なし"}
    found = list(zip(texts, detector.find(list(texts.values())), strict=True))
    assert by_task(found) == {"qa": {3: ["a"], 4: ["a", "b"]}}


def test_files_of_one_name_are_tasks_of_their_own(tmp_path: Path) -> None:
    for name in ("a/jsquad/test.jsonl", "b/jsquad/test.jsonl", "jcqa/test.jsonl", "jcqa/dev.jsonl"):
        path = tmp_path / "sets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    found = [(item.task, item.number) for item in read_items([str(tmp_path / "sets")])]
    tasks = ["a/jsquad/test", "b/jsquad/test", "dev", "jcqa/test"]
    assert found == [(task, number) for task in tasks for number in (0, 1)]
    first = tmp_path / "sets" / "jcqa" / "test.jsonl"
    assert {item.task for item in read_items([str(first)])} == {"test"}
