"""Training, files and judgement of classifiers."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pyjpllm.corpus import Document, DocumentWriter
from pyjpllm.corpus.quality import Classifier, Settings, load_classifier, train_classifier
from pyjpllm.corpus.quality.labels import Example, part_of, read_labelled, read_two_sets
from pyjpllm.corpus.quality.modelfile import read_model, write_model
from pyjpllm.corpus.quality.training import judge
from pyjpllm.errors import UserError
from tests.corpus.quality.examples import labelled, texts, write

SMALL = Settings(longest=2, bits=10, epochs=3)


@pytest.fixture(scope="module")
def graded() -> Classifier:
    """Of the labels 0 to 3."""
    return train_classifier(labelled([0, 1, 2, 3], 300, characters=20), replace(SMALL, held_out=0.5))


@pytest.fixture(scope="module")
def named() -> Classifier:
    """Of two names."""
    return train_classifier(labelled(["drop", "keep"]), SMALL, good="keep")


def test_it_learns_and_is_calibrated(graded: Classifier, named: Classifier) -> None:
    assert named.report["held_out"]["auc"] > 0.95
    assert graded.report["held_out"]["auc"] > 0.9
    assert graded.report["held_out"]["mean_absolute_error"] < 0.6
    assert graded.report["held_out"]["ece"] < graded.report["uncalibrated"]["ece"]
    fresh = labelled([0, 1, 2, 3], 100, seed=7, characters=20)
    found = judge(graded, fresh)
    assert found["log_loss"] < math.log(4) / 2
    assert found["ece"] < 0.1
    too_sure = replace(graded, calibration=replace(graded.calibration, scale=5 * graded.calibration.scale))
    assert found["log_loss"] < judge(too_sure, fresh)["log_loss"]


def test_scores(graded: Classifier, named: Classifier) -> None:
    some = texts(2, 5, seed=3)
    for p, expected, third in zip(graded.probabilities(some), graded.scores(some), graded.scores(some, 2), strict=True):
        assert math.fsum(p) == pytest.approx(1)
        assert expected == pytest.approx(sum(value * q for value, q in enumerate(p)))
        assert third == p[2]
    assert named.scores(some) == [p[1] for p in named.probabilities(some)] == named.scores(some, "keep")
    assert named.scores(some, "drop") == [p[0] for p in named.probabilities(some)]
    with pytest.raises(UserError, match="no label 'keeep'; did you mean 'keep'"):
        named.scores(some, "keeep")
    assert graded.is_good(3)
    assert not graded.is_good(2)


def test_a_score_does_not_depend_on_the_company(graded: Classifier) -> None:
    some = [*texts(1, 20), "", "か", texts(2, 1)[0] * 100]
    together = graded.scores(some)
    assert together == [graded.scores([text])[0] for text in some]
    assert together[-1] == graded.scores([some[-1][: SMALL.characters]])[0]  # no more is looked at


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    examples = labelled([0, 1], 40)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_classifier(examples, replace(SMALL, seed=seed)).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_file_gives_the_same_scores(tmp_path: Path, graded: Classifier) -> None:
    graded.save(tmp_path / "model")
    again = load_classifier(tmp_path / "model")
    assert again.scores(texts(1, 9)) == graded.scores(texts(1, 9))
    assert again.report == json.loads(json.dumps(graded.report))
    assert (again.labels, again.good) == (graded.labels, graded.good)
    (tmp_path / "file").touch()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "file").stat().st_mode  # others may read it


def test_a_number_is_one_label_however_it_is_written() -> None:
    examples = labelled([0, 1])
    mixed = [Example(one.text, float(one.label) if n % 60 else one.label) for n, one in enumerate(examples)]
    found, expected = (train_classifier(each, SMALL) for each in (mixed, examples))
    assert (found.weights_BO == expected.weights_BO).all()
    assert found.report == expected.report


def test_the_split_goes_by_the_text() -> None:
    parts = Counter(part_of(f"text {i}", 0, 0.2) for i in range(5000))
    assert parts["calibrate"] == pytest.approx(500, rel=0.15)
    assert parts["test"] == pytest.approx(500, rel=0.15)
    assert {part_of("text", seed, 0.5) for seed in range(20)} == {"train", "calibrate", "test"}
    examples = labelled([0, 1])
    report = train_classifier([*examples, *examples], SMALL).report  # copies lie in one part
    assert report["documents"] == {k: 2 * v for k, v in train_classifier(examples, SMALL).report["documents"].items()}


MISTAKES = {
    "one label": ([Example("あ", 1)] * 30, None, "all 30 documents have the label 1: there is nothing to tell apart"),
    "nothing": ([], None, "no document"),
    "too few": (labelled([0, 1], 2), None, "are there to"),
    "many": ([Example("あ", i) for i in range(30)], None, "30 different labels (0, 1, 2"),
    "names": (labelled(["drop", "keep"]), None, "Of drop, keep name one as --good"),
    "wrong name": (labelled(["drop", "keep"]), "kep", "--good kep: no document has this label; did you mean 'keep'"),
    "least": (labelled([0, 1]), 0, "every document is good"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    examples, good, message = MISTAKES[name]
    with pytest.raises(UserError) as found:
        train_classifier(examples, SMALL, good=good)
    assert message in str(found.value)


def test_labels_out_of_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [Example("あいう", 1), Example("かきく", 0)], "value")
    assert read_labelled([path], "value", 2) == [Example("あい", 1), Example("かき", 0)]
    with pytest.raises(UserError, match=r"a\.jsonl, document 1: no label 'valeu' in its meta; did you mean 'value'"):
        read_labelled([path], "valeu", 9)
    (tmp_path / "b.jsonl").write_text('{"text": "a", "meta": {"value": true}}\n', encoding="utf-8")
    with pytest.raises(UserError, match="must be a number or a name"):
        read_labelled([tmp_path / "b.jsonl"], "value", 9)
    write(tmp_path / "c.jsonl", [Example("さ", "keep")], "value")
    with pytest.raises(UserError, match=r"c\.jsonl, document 1: .* 'keep', where others have 1"):
        read_labelled([path, tmp_path / "c.jsonl"], "value", 9)
    with DocumentWriter(tmp_path / "d.parquet") as writer:
        writer.add(Document("たちつ", {"value": 2}))
    assert read_labelled([tmp_path / "d.parquet"], "value", 9) == [Example("たちつ", 2)]
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert read_labelled([tmp_path / "empty.jsonl"], "value", 9) == []
    assert read_two_sets([path], [tmp_path / "c.jsonl"], 1) == [
        Example("さ", "negative"),
        Example("あ", "positive"),
        Example("か", "positive"),
    ]


def test_an_unknown_label_is_named(named: Classifier) -> None:
    with pytest.raises(UserError, match="'other' is none of the classifier's \\('drop', 'keep'\\)"):
        judge(named, [Example("あ", "other")])


def test_every_damaged_byte_is_found(tmp_path: Path, named: Classifier) -> None:
    named.save(tmp_path / "model")
    whole = (tmp_path / "model").read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(0, head, 7), head, len(whole) - 1]:
        broken = bytearray(whole)
        broken[place] ^= 1
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(UserError, match="broken"):
            load_classifier(tmp_path / "broken")
    for size in (0, 5, 20, head, head + 100, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(UserError, match="damaged"):
            load_classifier(tmp_path / "cut")


def test_other_files_are_refused(tmp_path: Path, named: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    named.save(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"no such file; did you mean .*model\.safetensors"):
        load_classifier(tmp_path / "modle.safetensors")
    with pytest.raises(UserError, match=r"the folder .* does not exist"):
        load_classifier(tmp_path / "x" / "model")
    with pytest.raises(UserError, match="cannot be read"):
        load_classifier(tmp_path)
    with pytest.raises(UserError, match="holds a classifier, where a language model is needed"):
        read_model(tmp_path / "model.safetensors", "language model")
    (tmp_path / "text").write_text("これはモデルではない" * 9, encoding="utf-8")
    with pytest.raises(UserError, match="is no model"):
        load_classifier(tmp_path / "text")
    monkeypatch.setattr("pyjpllm.corpus.quality.modelfile.VERSION", 2)
    with pytest.raises(UserError, match="is of version 1; this program reads 2"):
        load_classifier(tmp_path / "model.safetensors")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    write_model(path, "x", {"a": 1}, {})
    monkeypatch.setattr("pyjpllm.corpus.quality.modelfile.save_file", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_model(path, "x", {"a": 2}, {})
    assert read_model(path, "x")[0]["a"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
