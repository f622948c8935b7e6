"""Copies and near copies: what is dropped, what is kept, and comparison with an earlier corpus."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.planted import Planter
from pyjpllm.corpus.dedup import CopiesStep, MinHasher, NearCopiesStep
from pyjpllm.corpus.dedup.keyfiles import KeyFiles
from pyjpllm.corpus.dedup.matching import find_copies, memory_formula
from pyjpllm.corpus.dedup.routing import Numbering
from pyjpllm.corpus.dedup.verification import Verifier, bucket_pairs
from pyjpllm.corpus.exchange import Alone
from pyjpllm.errors import UserError
from tests.corpus.dedup.shards import by_number, run_alone, write_shards

TEXTS = ["ＡＢＣ　カナ", "abc ｶﾅ", "別の文書", "", "abc  カナ ", "  ", "abcカナ"]


def dropped(step: CopiesStep | NearCopiesStep, texts: list[str], folder: Path, shards: int = 2, **kwargs: Any) -> Any:
    paths = write_shards(folder, texts, shards, **kwargs)
    found = by_number(run_alone(step, paths), len(texts), shards)
    return {number: decision.reason for number, decision in found.items()}


@pytest.mark.parametrize(
    ("folding", "keep", "gone"),
    [
        ("none", "earliest", set()),
        ("width", "earliest", {1, 4, 5}),
        ("width", "longest", {0, 1, 3}),
        ("letters", "earliest", {1, 4, 5, 6}),
    ],
)
def test_copies_once_folded(folding: Any, keep: Any, gone: set[int], tmp_path: Path) -> None:
    assert dropped(CopiesStep("exact", folding, keep), TEXTS, tmp_path) == dict.fromkeys(gone, "copy")


def test_the_greatest_measure_is_kept(tmp_path: Path) -> None:
    metas = [{"score": score} for score in (1, 3.5, 3.5, 2)]
    step = CopiesStep("exact", measure="score")
    assert dropped(step, ["同じ"] * 4, tmp_path, metas=metas).keys() == {0, 2, 3}
    for bad in ({}, {"score": "1"}, {"score": True}):
        with pytest.raises(UserError, match="no number 'score'"):
            dropped(step, ["同じ"] * 4, tmp_path, metas=[*metas[:3], bad])
    with pytest.raises(UserError, match="'score' is beyond all floats"):
        dropped(step, ["同じ"] * 4, tmp_path, metas=[*metas[:3], {"score": 10**400}])


def test_near_copies_of_planted_texts(tmp_path: Path) -> None:
    """With 64 bands of 4, pairs of similarity 0.7 and more are missed once in 10^8."""
    planter = Planter(1)
    originals = [planter.text(400) for _ in range(60)]
    near = [planter.edited(text, 0.02) for text in originals[:40]]
    again = [planter.edited(text, 0.02) for text in near[:20]]
    texts, place = planter.shuffled([*originals, *near, *again])
    families = [[place[j] for j in (i, 60 + i, 100 + i)[: 1 + (i < 40) + (i < 20)]] for i in range(60)]
    gone = dropped(NearCopiesStep("near", keep="earliest", hasher=MinHasher(5, 64, 4)), texts, tmp_path, shards=3)
    assert gone.keys() == {number for family in families for number in family if number != min(family)}
    assert set(gone.values()) == {"near-copy"}
    longest = dropped(NearCopiesStep("near", keep="longest", hasher=MinHasher(5, 64, 4)), texts, tmp_path, shards=3)
    best = {max(family, key=lambda number: (len(texts[number]), -number)) for family in families}
    assert longest.keys() == set(range(len(texts))) - best


def test_texts_shorter_than_a_gram(tmp_path: Path) -> None:
    texts = ["あい", "あい", "あ", "", "", "いあ"]
    assert dropped(NearCopiesStep("near"), texts, tmp_path).keys() == {1, 4}


def test_against_an_earlier_corpus(tmp_path: Path) -> None:
    planter = Planter(2)
    old = [planter.text(300) for _ in range(30)]
    new = [planter.edited(text, 0.01) for text in old[:10]]
    new += [planter.edited(new[0], 0.01), planter.text(300), planter.text(300)]
    new.append(new[-1])
    hasher = MinHasher(5, 30, 4)
    saved = str(tmp_path / "signatures")
    assert dropped(NearCopiesStep("near", save=saved, hasher=hasher), [*old, old[3]], tmp_path / "old") == {
        30: "near-copy"
    }
    step = NearCopiesStep("near", against=(saved,), save=str(tmp_path / "more"), hasher=hasher)
    assert dropped(step, new, tmp_path / "new") == dict.fromkeys(range(11), "near-copy-elsewhere") | {13: "near-copy"}
    both = NearCopiesStep("near", against=(saved, str(tmp_path / "more")), hasher=hasher)
    assert dropped(both, new, tmp_path / "new") == dict.fromkeys(range(14), "near-copy-elsewhere")


def test_signature_files_that_do_not_fit(tmp_path: Path) -> None:
    saved = tmp_path / "signatures"
    dropped(CopiesStep("exact", save=str(saved)), ["一", "二", "三"], tmp_path)
    for wrong, message in (
        (CopiesStep("exact", folding="none", against=(str(saved),)), "folding = 'width', this step has 'none'"),
        (NearCopiesStep("near", against=(str(saved),)), "bands = None, this step has 14"),
        (CopiesStep("exact", against=(str(tmp_path),)), "no signature file"),
        (CopiesStep("exact", against=(str(tmp_path / "no.sig"),)), "cannot be read"),
        (CopiesStep("exact", against=(str(tmp_path / "shard-00000.jsonl"),)), "not a signature file"),
    ):
        with pytest.raises(UserError, match=message):
            dropped(wrong, ["一"], tmp_path / "new")
    path = saved / "shard-00000.sig"
    whole = path.read_bytes()
    for place in range(16, len(whole), 8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match="damaged"):
            dropped(CopiesStep("exact", against=(str(path),)), ["一"], tmp_path / "new")
    path.write_bytes(whole[:-40])
    with pytest.raises(UserError, match="damaged"):
        dropped(CopiesStep("exact", against=(str(path),)), ["一"], tmp_path / "new")
    path.write_bytes(whole[:8] + b"\2" + whole[9:])
    with pytest.raises(UserError, match="version 2"):
        dropped(CopiesStep("exact", against=(str(path),)), ["一"], tmp_path / "new")


@pytest.mark.parametrize("round_records", [1, 7, 1000])
def test_any_number_of_rounds_finds_the_same(round_records: int, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    values = random.integers(0, 150, (200, 3)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = KeyFiles(tmp_path, 3)
    for start in range(0, 200, 30):
        keys.append(values[start : start + 30])
    numbering = Numbering([120, 0, 80], 3, Alone())
    copies = find_copies(keys, numbering, random.permutation(200).astype(float), Alone(), None, round_records)
    label = np.arange(200)
    for _ in range(200):  # the least number of any that shares a key, until nothing changes
        for column in range(3):
            for key in np.unique(values[:, column]):
                same = values[:, column] == key
                label[same] = label[same].min()
    assert len(copies.numbers) == 200 - len(np.unique(label))
    numbers, kept = copies.numbers.astype(int) - 1, copies.kept.astype(int) - 1
    assert (label[numbers] == label[kept]).all()
    assert not set(kept) & set(numbers)


def test_verified_candidates(tmp_path: Path) -> None:
    """Dropped is what shares a band with its original, and agrees with it in 0.6 of all values or more."""
    planter = Planter(9)
    hasher = MinHasher(5, 30, 2)
    texts = [planter.text(200) for _ in range(300)]
    edits = planter.random.uniform(0, 0.15, 300)
    copies = [planter.edited(text, share) for text, share in zip(texts, edits, strict=True)]
    first, second = hasher.signatures(texts), hasher.signatures(copies)
    met = (hasher.keys(first) == hasher.keys(second)).any(axis=1)
    agree = (first == second).mean(axis=1)
    assert 50 < (met & (agree < 0.6)).sum() < 250
    step = NearCopiesStep("near", "none", "earliest", hasher=hasher, verify=0.6)
    gone = dropped(step, texts + copies, tmp_path)
    assert gone.keys() == set((300 + np.flatnonzero(met & (agree >= 0.6))).tolist())


def test_verification_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signatures = np.random.default_rng(3).integers(0, 2, (50, 10)).astype(np.uint32)
    verifier = Verifier(tmp_path / "signatures", 0.5)
    verifier.append(signatures[:20])
    verifier.append(signatures[20:])
    numbering = Numbering([20, 30], 2, Alone())
    pairs = np.array([(a, b) for a in range(1, 51) for b in range(1, a)], np.uint64)
    expected = {(int(a), int(b)) for a, b in pairs if (signatures[int(a) - 1] == signatures[int(b) - 1]).mean() >= 0.5}
    for sent in (1 << 26, 280):
        monkeypatch.setattr("pyjpllm.corpus.dedup.verification._SENT", sent)
        found = verifier.similar(pairs, numbering, numbering.mine(), Alone())
        assert len(found) == len(expected)
        assert {(int(a), int(b)) for a, b in found} == expected


def test_pairs_of_buckets() -> None:
    numbers = np.array([3, 5, 8, 9, 1, 2], np.uint64)
    pairs = bucket_pairs(numbers, np.array([0, 4]), np.array([4, 2]))
    assert sorted(map(tuple, pairs.tolist())) == [(2, 1), (5, 3), (8, 3), (8, 5), (9, 3), (9, 8)]
    with pytest.raises(ValueError, match="hold only the keys"):
        NearCopiesStep("near", against=("a",), verify=0.5)


def test_the_formula_of_memory(tmp_path: Path) -> None:
    """What numpy and Python hold while 40,000 documents are matched is below what the formula says."""
    planter = Planter(10)
    keys = KeyFiles(tmp_path, 4)
    values = planter.random.integers(0, 1 << 63, (40_000, 4), dtype=np.uint64)
    values[-4000:] = values[:4000]
    keys.append(values)
    keys.flush()
    del values
    tracemalloc.start()
    numbering = Numbering([40_000], 1, Alone())
    copies = find_copies(keys, numbering, np.zeros(40_000), Alone())
    decisions = CopiesStep("exact")._decisions(numbering, copies)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(decisions[0]) == 4000
    assert 0.3 * memory_formula(40_000, 4000) < most < memory_formula(40_000, 4000)
