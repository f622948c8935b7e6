"""Labels in a file of their own: what joins them to documents, what is counted, and one clear error a mistake."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from pyjpllm.cli.app import run
from pyjpllm.corpus.quality.label_file import read_joined, read_label_file
from pyjpllm.corpus.quality.labels import Example
from pyjpllm.errors import UserError
from tests.corpus.quality.examples import labelled


def lines(path: Path, records: Sequence[object]) -> Path:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    records = [{"text": f"文{i}です", "id": i, "url": f"https://a.jp/{i}"} for i in range(4)]
    return lines(tmp_path / "documents.jsonl", [*records, {"text": "なし"}])


RECORDS = [{"id": 1, "grade": 2}, {"id": "3", "grade": 0}, {"id": 9, "grade": 2}, {"id": 1, "grade": 2}]


def files(folder: Path) -> list[Path]:
    (folder / "l.csv").write_text('\ufeffgrade,id,why\n2,1,"of\ntwo lines"\n0,3,\n\n2,9,""\n2,1,\n', encoding="utf-8")
    table = pyarrow.table({"id": ["1", "3", "9", "1"], "grade": [2, 0, 2, 2]})
    pyarrow.parquet.write_table(table, folder / "l.parquet")
    return [lines(folder / "l.jsonl", RECORDS), lines(folder / "l.jsonl.gz", RECORDS),
            folder / "l.csv", folder / "l.parquet"]  # fmt: skip


def test_every_kind_of_file_gives_the_same(documents: Path, tmp_path: Path) -> None:
    for path in files(tmp_path):
        labels = read_label_file(path, "grade")
        assert (labels.key, dict(labels.labels)) == ("id", {"1": 2, "3": 0, "9": 2}), path
        found = read_joined([documents], labels, 2)
        assert found.examples == [Example("文1", 2), Example("文3", 0)]
        assert found.counts() == {
            "documents_with_label": 2, "documents_without_label": 3, "labels_without_document": 1,
        }  # fmt: skip


def test_the_key(documents: Path, tmp_path: Path) -> None:
    by_url = lines(tmp_path / "u.jsonl", [{"url": "https://a.jp/2", "label": "keep"}])
    assert read_joined([documents], read_label_file(by_url, "label"), 9).examples == [Example("文2です", "keep")]
    both = lines(tmp_path / "b.jsonl", [{"url": "https://a.jp/2", "id": 0, "label": 1.5}])
    assert read_joined([documents], read_label_file(both, "label"), 9).examples == [Example("文0です", 1.5)]
    assert read_joined([documents], read_label_file(both, "label", "url"), 9).examples == [Example("文2です", 1.5)]


def test_values_of_csv(tmp_path: Path) -> None:
    def labels(*cells: str) -> list[object]:
        rows = "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))
        (tmp_path / "v.csv").write_text("id,label\n" + rows, encoding="utf-8")
        return list(read_label_file(tmp_path / "v.csv", "label").labels.values())

    found = labels("0", "-3", "0.50", "12")
    assert found == [0, -3, 0.5, 12]
    assert [type(value) for value in found] == [int, int, float, int]
    assert labels("keep", "007", "nan", "1_0", "１") == ["keep", "007", "nan", "1_0", "１"]
    (tmp_path / "k.csv").write_text("id,label\n007,1\n7,2\n", encoding="utf-8")
    assert dict(read_label_file(tmp_path / "k.csv", "label").labels) == {"007": 1, "7": 2}, "keys stay as written"


MISTAKES = {
    "two labels": ("l.jsonl", [{"id": 1, "label": 2}, {"id": 5, "label": 2}, {"id": "1", "label": 3}],
                   "l.jsonl, line 3: id '1' has the label 3, and 2 in l.jsonl, line 1"),
    "no column": ("l.jsonl", [{"id": 1, "lable": 2}], "l.jsonl, line 1: no 'label'; did you mean 'lable'"),
    "no key": ("l.jsonl", [{"name": 1, "label": 2}],
               "l.jsonl, line 1: no 'id' and no 'url' to find the documents by; name the column with --key "
               "(there are name, label)"),
    "no key later": ("l.jsonl", [{"id": 1, "label": 2}, {"label": 2}], "l.jsonl, line 2: no 'id'"),
    "null key": ("l.jsonl", [{"id": None, "label": 2}], "l.jsonl, line 1: id = None: must be a text or a number"),
    "null": ("l.jsonl", [{"id": 1, "label": None}], "l.jsonl, line 1: the label label = None: must be a number or a"),
    "nan": ("l.jsonl", [{"id": 1, "label": float("nan")}], "l.jsonl, line 1: the label label = nan: is no number"),
    "kinds": ("l.jsonl", [{"id": 1, "label": 2}, {"id": 2, "label": "a"}], "line 2: the label label = 'a', where"),
    "digits": ("l.jsonl", b'{"id": ' + b"1" * 5000 + b"}", "l.jsonl, line 1: not JSON: "),
    "array": ("l.jsonl", [[1, 2]], "l.jsonl, line 1: an object is expected"),
    "json": ("l.jsonl", b'{"id": 1, "label": 2}\n{"id"\n', "l.jsonl, line 2: not JSON: "),
    "utf-8": ("l.jsonl", b'{"id": "\xff"}\n', "l.jsonl, line 1: not UTF-8"),
    "empty": ("l.jsonl", b"", "l.jsonl: holds no label"),
    "csv head": ("l.csv", b"id,label\n", "l.csv: holds no label"),
    "csv twice": ("l.csv", b"id,label,label\n1,2,3\n", "l.csv, line 1: 2 columns are called 'label'; leave one"),
    "csv key twice": ("l.csv", b"id,label,id\n1,2,3\n", "l.csv, line 1: 2 columns are called 'id'; leave one"),
    "csv columns": ("l.csv", b"id,label\n1,2\n3\n", "l.csv, line 3: 1 columns, where the head has 2"),
    "csv quote": ("l.csv", b'id,label\n1,2\n"a"b,2\n', "l.csv, line 3: not CSV: "),
    "csv open": ("l.csv", b'id,label\n1,"2\n', "l.csv, line 2: not CSV: "),
    "csv cell": ("l.csv", b"id,label\n1,\n", "l.csv, line 2: the label label = '': must be a number or a name"),
    "csv utf-8": ("l.csv", "id,label\n1,良\n".encode("cp932"), "l.csv: not UTF-8"),
    "parquet": ("l.parquet", b"no", "l.parquet: not a Parquet file, or damaged"),
    "kind": ("l.xlsx", b"no", "l.xlsx: files of this kind are not read; allowed: .jsonl, .jsonl.gz, .jsonl.zst, .csv"),
}  # fmt: skip


def test_a_head_alone_has_no_label(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("id,label\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"l\.csv: holds no label"):
        read_label_file(tmp_path / "l.csv", "label", "id")


def test_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    column = pyarrow.array([b"\xff"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"id": column, "label": [1]}), tmp_path / "l.parquet")
    with pytest.raises(UserError, match=r"l\.parquet: not a Parquet file, or damaged"):
        read_label_file(tmp_path / "l.parquet", "label")


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_the_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, content, said = MISTAKES[name]
    if isinstance(content, bytes):
        Path(file).write_bytes(content)
    else:
        lines(Path(file), content)  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        read_label_file(file, "label")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_of_no_document(documents: Path, tmp_path: Path) -> None:
    other = read_label_file(lines(tmp_path / "o.jsonl", [{"id": "x", "label": 1}]), "label")
    with pytest.raises(UserError, match=r"o\.jsonl: holds the label of no document: id is 'x' there, and '0' in the"):
        read_joined([documents], other, 9)
    keyless = read_label_file(lines(tmp_path / "k.jsonl", [{"idd": "x", "label": 1}]), "label", "idd")
    with pytest.raises(UserError, match=r"documents\.jsonl: no document has 'idd' in its meta; did you mean 'id'"):
        read_joined([documents], keyless, 9)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    examples = labelled([0, 1], 60)
    lines(Path("d.jsonl"), [{"text": one.text, "id": i} for i, one in enumerate(examples)])
    Path("l.csv").write_text(
        "id,grade\n" + "".join(f"{i},{one.label}\n" for i, one in enumerate(examples) if i != 5) + "200,1\n"
    )
    train = ["corpus", "classifier", "train", "d.jsonl", "--label", "grade", "--out", "m", "--bits", "10", "--json"]
    assert run([*train, "--labels", "l.csv"]) == 0
    out, err = capsys.readouterr()
    counts = {"documents_with_label": 119, "documents_without_label": 1, "labels_without_document": 1}
    assert json.loads(out).items() >= counts.items()
    assert "l.csv: labels of 119 documents; without a label, left out: 1; labels without a document: 1" in err
    evaluate = ["corpus", "classifier", "evaluate", "m", "d.jsonl", "--json"]
    assert run([*evaluate, "--labels", "l.csv", "--key", "id"]) == 0  # the label's field is that of the training
    assert json.loads(capsys.readouterr().out).items() >= {"documents": 119, **counts}.items()
    for more, said in [
        (["--labels", "l.csv", "--key", "idd"], "l.csv, line 2: no 'idd'; did you mean 'id'?"),
        (["--labels", "l.cvs"], "l.cvs: no such file or folder; did you mean 'l.csv'?"),
        (["--key", "id"], "--key joins documents with --labels"),
        (["--labels", "l.csv", "--positive", "d.jsonl"], "two ways to label documents"),
    ]:
        for command in (train, evaluate):
            assert run([*command, *more]) == 2
            err = capsys.readouterr().err
            assert said in err
            assert len(err.splitlines()) == 1
    assert run([*train[:3], "--labels", "l.csv", "--out", "m"]) == 2
    assert "--labels has no text: give the documents too" in capsys.readouterr().err
