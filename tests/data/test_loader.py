"""The loader: the same samples on any layout, and only those files opened that must be."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyjpllm.data import Batch, build_loader
from pyjpllm.data.batch import positions_of
from pyjpllm.data.indexed import IndexedDataset
from pyjpllm.distributed.mesh import AXES, Mesh, make_mesh
from pyjpllm.errors import UserError
from tests.data.corpora import make_config, make_folder, make_tokenizer, write_corpus
from tests.mpi import run_ranks

ONE = Mesh(dict.fromkeys(AXES, 1), dict.fromkeys(AXES, 0), None, None)
STEPS = 30  # of 8 samples: more than an epoch of both corpora
TRAIN, VALID = range(0, 8 * STEPS, 40), range(0, 64, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("corpora"))


def joined(batches: list[Batch]) -> list[torch.Tensor]:
    """A step's tensors with the micro-batches put together."""
    columns = [[batch.tokens_BS, batch.targets_BS, batch.positions_BS, batch.document_ids_BS] for batch in batches]
    return [torch.cat(column) for column in zip(*columns, strict=True) if column[0] is not None]  # type: ignore[arg-type]


def steps_of(folder: Path, starts: range, mesh: Mesh = ONE, split: Any = "train", **overrides: Any) -> np.ndarray:
    """[steps, tensors, samples of this rank, S] int64."""
    loader = build_loader(make_config(folder, **overrides), mesh, 512, split=split)
    out = np.array([np.stack([t.numpy() for t in joined(loader.step(start))]) for start in starts])
    loader.close()
    return out


def test_micro_batches(folder: Path) -> None:
    loader = build_loader(make_config(folder, train__micro_batch=4), ONE, 512)
    batches = loader.step(0)
    assert [batch.tokens_BS.shape for batch in batches] == [(4, 16), (4, 16)]
    for batch in batches:
        assert batch.document_ids_BS is not None
        for tensor in (batch.tokens_BS, batch.targets_BS, batch.positions_BS, batch.document_ids_BS):
            assert tensor.dtype == torch.int64
        assert torch.equal(batch.positions_BS, positions_of(batch.document_ids_BS))
        assert batch.to("cpu").tokens_BS.shape == (4, 16)
    loader.close()
    one = steps_of(folder, range(0, 80, 8), train__micro_batch=1)
    assert np.array_equal(one, steps_of(folder, range(0, 80, 8), train__micro_batch=8))


def test_the_position_is_one_number(folder: Path) -> None:
    """Started anywhere, in any order, with any batch: sample n is sample n."""
    whole = steps_of(folder, range(0, 8 * STEPS, 8))
    samples = whole.transpose(0, 2, 1, 3).reshape(8 * STEPS, 4, 16)
    loader = build_loader(make_config(folder, train__global_batch=6), ONE, 512)
    for start in (30, 0, 0, 187, 193, 199, 5):
        got = torch.stack(joined(loader.step(start)), dim=1).numpy()
        assert np.array_equal(got, samples[start : start + 6])
    with pytest.raises(ValueError, match="below 0"):
        loader.step(-1)
    loader.close()


def test_order_depends_on_the_seed_alone(folder: Path) -> None:
    first = steps_of(folder, range(0, 40, 8))
    assert np.array_equal(first, steps_of(folder, range(0, 40, 8)))
    assert not np.array_equal(first, steps_of(folder, range(0, 40, 8), train__seed=8))


def test_without_a_document_mask(folder: Path) -> None:
    loader = build_loader(make_config(folder, data__document_mask=False), ONE, 512)
    for batch in loader.step(0):
        assert batch.document_ids_BS is None
        assert batch.to("cpu").document_ids_BS is None
        assert batch.positions_BS.tolist() == [list(range(16))]
        assert torch.equal(batch.tokens_BS[:, 1:], batch.targets_BS[:, :-1])
    loader.close()


def test_held_out_text_is_read_once(folder: Path) -> None:
    loader = build_loader(make_config(folder), ONE, 512, split="valid")
    targets = [batch.targets_BS for start in range(0, loader.num_samples + 16, 8) for batch in loader.step(start)]
    counted = torch.cat(targets)
    counted = counted[counted >= 0]
    tokens = [np.concatenate([dataset[i] for i in range(len(dataset))])[1:] for dataset in
              (IndexedDataset(folder / name) for name in "vw")]  # fmt: skip
    assert sorted(counted.tolist()) == sorted(np.concatenate(tokens).tolist())
    past_the_end = loader.step(loader.num_samples + 1000)
    assert all((batch.targets_BS == -100).all() for batch in past_the_end)
    # The first samples stand for all: both corpora are among them.
    first = torch.cat([batch.targets_BS for batch in loader.step(0)])
    assert set(first.flatten().tolist()) & set(tokens[1].tolist())
    loader.close()


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    def fails(message: str, *, vocab_size: int = 512, split: Any = "train", **overrides: Any) -> None:
        with pytest.raises(UserError, match=message):
            build_loader(make_config(folder, **overrides), ONE, vocab_size, split=split)

    fails("does not divide by|does not divide the 8 sequences", train__micro_batch=3)
    fails(r"vy\.idx: no such token file; did you mean '.*/v\.idx'", data__train=[{"path": str(folder / "vy")}])
    fails("tokenizer.model: no such tokenizer|no such tokenizer", data__tokenizer=str(folder / "tokenizer2"))
    fails(r"its 480 ids do not fit the model's vocabulary of 479", vocab_size=479)
    fails(r"a\.bin: token id \d+ is outside the vocabulary of 490; was it encoded with another", vocab_size=490)
    fails(r"a\.idx: \d+ tokens are shorter than one sample of 100001", data__sequence_length=100000)
    fails("data.valid is empty", split="valid", data__valid=[])
    fails(r"data.valid.0.weight = 2.0", split="valid", data__valid=[{"path": str(folder / "v"), "weight": 2.0}])


def test_a_corpus_of_another_tokenizer(folder: Path, tmp_path: Path) -> None:
    mine = make_tokenizer(tmp_path / "tokenizer", "bpe")
    for name in "ab":
        write_corpus(tmp_path / name, [50] * 30)
    (tmp_path / "b.json").write_text(json.dumps({"tokenizer": mine.fingerprint}))
    build_loader(make_config(tmp_path), ONE, 512).close()
    (tmp_path / "b.json").write_text(json.dumps({"tokenizer": "0" * 64}))
    with pytest.raises(UserError, match=r"b\.bin was encoded with another tokenizer than data.tokenizer"):
        build_loader(make_config(tmp_path), ONE, 512)
    for broken in ("", "[]"):
        (tmp_path / "b.json").write_text(broken)
        with pytest.raises(UserError, match=r"b\.json: not what 'jpllm tokenizer encode' wrote"):
            build_loader(make_config(tmp_path), ONE, 512)


def test_a_file_damaged_later_is_named_at_its_step(folder: Path, tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "tokenizer")
    for name in "ab":
        write_corpus(tmp_path / name, [50] * 30)
    loader = build_loader(make_config(tmp_path), ONE, 512)
    assert len(loader.step(0)) == 8
    assert loader._ahead is not None
    loader._ahead[1].result()
    data = np.fromfile(tmp_path / "a.bin", dtype="<u2")
    data[:] = 600
    data.tofile(tmp_path / "a.bin")
    loader.step(8)  # was read ahead
    with pytest.raises(UserError, match=r"a\.bin: token id 600 in document \d+ is outside the vocabulary of 512"):
        loader.step(16)
    loader.close()


def opened_by(arguments: tuple[Any, ...]) -> Iterator[str]:
    if arguments and isinstance(arguments[0], str | bytes | Path):
        yield str(arguments[0])


def parallel_body(world: Any, folder: str) -> dict[str, Any]:
    """On 4 ranks: for three layouts, this rank's steps and the token files that this process opened."""
    opened: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            opened.extend(name for name in opened_by(arguments) if name.endswith((".bin", ".idx")))

    sys.addaudithook(hook)
    results: dict[str, Any] = {}
    for dp, tp in ((4, 1), (2, 2), (1, 4)):
        opened.clear()
        mesh = make_mesh(world, dp=dp, tp=tp)
        train = steps_of(Path(folder), TRAIN, mesh, train__micro_batch=2)
        valid = steps_of(Path(folder), VALID, mesh, "valid")
        results[f"{dp}x{tp}"] = (mesh.rank("dp"), mesh.rank("tp"), train, valid, sorted({Path(n).name for n in opened}))
    for key, overrides in {
        "missing": {"data__train": [{"path": folder + "/nothing"}]},
        "sizes": {"train__global_batch": 6},
    }.items():
        try:
            build_loader(make_config(Path(folder), **overrides), make_mesh(world), 512)
        except UserError as error:
            results[key] = str(error)
    return results


def test_any_layout_has_the_same_samples(folder: Path) -> None:
    train = steps_of(folder, TRAIN)
    valid = steps_of(folder, VALID, split="valid")
    ranks = run_ranks(parallel_body, 4, str(folder))
    for layout in ("4x1", "2x2", "1x4"):
        for rank, result in enumerate(ranks):
            dp, tp, mine, mine_valid, opened = result[layout]
            width = 8 // int(layout[0])
            rows = slice(dp * width, (dp + 1) * width)
            assert np.array_equal(mine, train[:, :, rows])
            assert np.array_equal(mine_valid, valid[:, :, rows])
            indices = {"a.idx", "b.idx", "v.idx", "w.idx"} if rank == 0 else set()
            assert {name for name in opened if name.endswith(".idx")} == indices, (layout, rank)
            assert any(name.endswith(".bin") for name in opened) == (tp == 0), (layout, rank)
    for result in ranks:
        assert "nothing.idx: no such token file" in result["missing"]
        assert "train.global_batch = 6 does not divide by the 4 data-parallel ranks; nearest: 8" in result["sizes"]
