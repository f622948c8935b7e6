"""The global steps within a pipeline: from a TOML file to the documents that are left."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.planted import Planter
from pyjpllm.corpus import read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import load_corpus_config

CONFIG = """
[input]
paths = ["{folder}/in"]
[[stage]]
kind = "dedup-exact"
[[stage]]
kind = "dedup-minhash"
keep = "earliest"
bands = 40
rows = 4
[[stage]]
kind = "dedup-units"
[[stage]]
kind = "dedup-substrings"
length = 60
slack = 8
[[stage]]
kind = "decontaminate"
paths = ["{folder}/exam.jsonl"]
[[stage]]
kind = "pii"
"""


def test_all_kinds_in_a_row(tmp_path: Path) -> None:
    planter = Planter(8)
    whole, paragraph, passage, item = (planter.text(size) for size in (400, 120, 90, 60))
    heads = [planter.text(150) for _ in range(5)]
    texts = [
        whole,
        f"{heads[0]}\n\n{paragraph}\n\n{heads[1]} 電話 03-1234-5678",
        " " + whole + "\n",
        planter.edited(whole, 0.02),
        f"{paragraph}\n\n{heads[2]}{passage}{heads[3]}",
        heads[4] + item,
        planter.text(50) + passage + planter.text(50),
    ]
    (tmp_path / "in").mkdir()
    for name, part in (("a", texts[:3]), ("b", texts[3:])):
        lines = [json.dumps({"text": text, "meta": {"n": texts.index(text)}}) + "\n" for text in part]
        (tmp_path / "in" / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "exam.jsonl").write_text(json.dumps({"text": item}) + "\n")
    (tmp_path / "config.toml").write_text(CONFIG.format(folder=tmp_path))
    report = build_corpus(load_corpus_config(tmp_path / "config.toml"), tmp_path / "run")
    assert report["written"]["documents"] == 4
    left = {document.meta["n"]: document.text for document in read_documents(tmp_path / "run" / "documents")}
    assert left.keys() == {1, 2, 4, 6}  # of the two equal ones the longer; the near copy came later than it
    assert left[2] == texts[2]
    assert left[1] == texts[1].replace("03-1234-5678", "<PHONE>")
    assert left[4] == f"{heads[2]}{passage}{heads[3]}"
    assert set(passage[8:-8]).isdisjoint(set(left[6]) - set(texts[6]))
    assert len(texts[6]) - 90 <= len(left[6]) < len(texts[6]) - 90 + 16
