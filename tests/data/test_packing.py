"""Packing against a plain reference: join the documents of an epoch, cut, look token by token."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.data.indexed import IndexedWriter, read_index
from pyjpllm.data.packing import IGNORE, PackedCorpus, cut, samples_of
from pyjpllm.data.shuffle import key_of, order_of, scatter
from pyjpllm.errors import UserError

EOS = 1


def make(folder: Path, documents: list[list[int]], length: int, **changes: object) -> PackedCorpus:
    with IndexedWriter(folder / "c", 5000) as writer:
        for document in documents:
            writer.add(document)
    options: dict[str, object] = {
        "sequence_length": length,
        "vocab_size": 5000,
        "eos_id": EOS,
        "document_mask": True,
        "seed": 3,
    }
    return PackedCorpus(read_index(folder / "c"), **{**options, **changes})  # type: ignore[arg-type]


def distinct(sizes: list[int], *, eos: bool = True) -> list[list[int]]:
    """Documents of distinct tokens (so that a token tells where it is from), each ended by eos."""
    numbers = itertools.count(2)
    documents = [[next(numbers) for _ in range(size)] for size in sizes]
    for document in documents:
        if document and eos:
            document[-1] = EOS
    return documents


def row(tokens: list[int], documents: list[int], *, eos: int, mask: bool) -> tuple[list[int], list[int], list[int]]:
    """Inputs, targets and document ids of one row of S + 1 tokens, by the rules in words."""
    targets, owners = [], []
    for place in range(len(tokens) - 1):
        here, following = documents[place], documents[place + 1]
        owner = here
        if mask and following >= 0 and here != following and tokens[place] == eos:
            owner = following
        counted = following >= 0 and (not mask or owner == following)
        targets.append(tokens[place + 1] if counted else IGNORE)
        owners.append(owner)
    ids = [0]
    for before, owner in itertools.pairwise(owners):
        ids.append(ids[-1] + (owner != before))
    return tokens[:-1], targets, ids


def reference(documents: list[list[int]], order: list[int], start: int, length: int) -> tuple[list[int], list[int]]:
    """Tokens start .. start + length of the joined documents, and the place of each one's document; -1 beyond."""
    joined = [(token, place) for place, number in enumerate(order) for token in documents[number]]
    piece = joined[start : start + length + 1]
    piece += [(0, -1)] * (length + 1 - len(piece))
    return [token for token, _ in piece], [place for _, place in piece]


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 20), min_size=3, max_size=10).filter(lambda s: sum(s) > 30),
    length=st.integers(1, 30),
    mask=st.booleans(),
    eos=st.booleans(),
    seed=st.integers(0, 5),
)
def test_training_samples(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], length: int, mask: bool, eos: bool, seed: int
) -> None:
    documents = distinct(sizes, eos=eos)
    corpus = make(tmp_path_factory.mktemp("c"), documents, length, document_mask=mask, seed=seed, corpus=2)
    per_epoch = (sum(sizes) - 1) // length
    assert corpus.samples_per_epoch == per_epoch
    numbers = np.arange(2 * per_epoch + 1)
    windows = corpus.take(numbers)
    starts: list[list[int]] = [[], [], []]
    for number in numbers.tolist():
        epoch = number // per_epoch
        key = key_of(seed, 2)
        order = order_of(len(sizes), key_of(key, epoch, 0)).tolist()
        place = int(scatter(np.array([number % per_epoch]), per_epoch, key_of(key, epoch, 1))[0])
        starts[epoch].append(place)
        tokens, owners = reference(documents, order, place * length, length)
        inputs, targets, ids = row(tokens, owners, eos=EOS, mask=mask)
        assert windows.tokens_NS[number].tolist() == inputs
        assert windows.targets_NS[number].tolist() == targets
        assert windows.document_ids_NS[number].tolist() == ids
    assert sorted(starts[0]) == sorted(starts[1]) == list(range(per_epoch))
    shuffled = np.random.default_rng(0).permutation(numbers)
    again = make(tmp_path_factory.mktemp("c"), documents, length, document_mask=mask, seed=seed, corpus=2)
    assert np.array_equal(again.take(shuffled).tokens_NS, windows.tokens_NS[shuffled])


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda s: sum(s) > 1),
    length=st.integers(1, 50),
    mask=st.booleans(),
)
def test_held_out_samples(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], length: int, mask: bool) -> None:
    documents = distinct(sizes)
    corpus = make(tmp_path_factory.mktemp("c"), documents, length, document_mask=mask, shuffle=False)
    windows = corpus.take(np.arange(corpus.samples_per_epoch))
    counted = windows.targets_NS[windows.targets_NS != IGNORE].tolist()
    assert counted == list(itertools.chain(*documents))[1:]  # every token once, in order, but the very first


def test_a_document_begins_with_the_end_of_the_one_before(tmp_path: Path) -> None:
    corpus = make(tmp_path, [[10, 11, EOS], [20, EOS], [30, 31, 32, EOS]], 8, shuffle=False)
    windows = corpus.take(np.array([0]))
    assert windows.tokens_NS.tolist() == [[10, 11, EOS, 20, EOS, 30, 31, 32]]
    assert windows.targets_NS.tolist() == [[11, EOS, 20, EOS, 30, 31, 32, EOS]]
    assert windows.document_ids_NS.tolist() == [[0, 0, 1, 1, 2, 2, 2, 2]]


def test_documents_that_end_in_no_eos_do_not_predict_the_next(tmp_path: Path) -> None:
    corpus = make(tmp_path, [[10, 11], [20, 21, 22], [30, 31]], 6, shuffle=False)
    windows = corpus.take(np.array([0]))
    assert windows.tokens_NS.tolist() == [[10, 11, 20, 21, 22, 30]]
    assert windows.targets_NS.tolist() == [[11, IGNORE, 21, 22, IGNORE, 31]]
    assert windows.document_ids_NS.tolist() == [[0, 0, 1, 1, 1, 2]]


def test_without_a_mask_all_tokens_are_counted(tmp_path: Path) -> None:
    corpus = make(tmp_path, [[10, 11], [20, 21, 22], [30, 31]], 6, shuffle=False, document_mask=False)
    assert corpus.take(np.array([0])).targets_NS.tolist() == [[11, 20, 21, 22, 30, 31]]


def test_eos_inside_a_document_begins_nothing() -> None:
    windows = cut(np.array([[5, EOS, 6, 7]]), np.array([[4, 4, 4, 5]]), eos_id=EOS, document_mask=True)
    assert windows.targets_NS.tolist() == [[EOS, 6, IGNORE]]
    assert windows.document_ids_NS.tolist() == [[0, 0, 0]]


def test_epochs_and_corpora_are_shuffled_differently(tmp_path: Path) -> None:
    documents = distinct([7] * 60)
    corpus = make(tmp_path, documents, 10)
    other = make(tmp_path, documents, 10, corpus=1)
    numbers = np.arange(corpus.samples_per_epoch)
    first, second = corpus.take(numbers).tokens_NS, corpus.take(numbers + len(numbers)).tokens_NS
    third = other.take(numbers).tokens_NS
    for left, right in itertools.combinations((first, second, third), 2):
        assert not np.array_equal(left, right)
    corpus.close()
    assert np.array_equal(corpus.take(numbers).tokens_NS, first)


def test_a_corpus_shorter_than_a_sample(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"c\.idx: 5 tokens are shorter than one sample of 9 \(data\.sequence_length = 8"
    ):
        make(tmp_path, [[1, 2, 3, 4, 5]], 8)
    with pytest.raises(UserError, match="1 tokens are shorter than one sample of 2"):
        make(tmp_path, [[1]], 8, shuffle=False)
    assert make(tmp_path, [[1, 2, 3, 4, 5]], 8, shuffle=False).samples_per_epoch == 1
    assert samples_of(read_index(tmp_path / "c"), 4, whole=True) == 1


def test_an_id_beyond_the_vocabulary_is_found_when_it_is_read(tmp_path: Path) -> None:
    corpus = make(tmp_path, [[1, 2, 3], [4, 9, 5]], 2, vocab_size=9, shuffle=False)
    assert corpus.take(np.array([0])).tokens_NS.tolist() == [[1, 2]]
    with pytest.raises(UserError, match=r"c\.bin: token id 9 in document 1 is outside the vocabulary of 9"):
        corpus.take(np.array([1]))
