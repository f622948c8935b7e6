"""Held-out loss equals a plain loop over tokens, whatever the batches, packing, windows and ranks."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from pyjpllm import ops
from pyjpllm.distributed import World, make_mesh
from pyjpllm.errors import UserError
from pyjpllm.evaluation.heldout import HeldOut, Scoring, evaluate, evaluate_corpora
from pyjpllm.model import Transformer, initialize
from pyjpllm.parallel import TensorParallel
from tests.evaluation.toys import TEXTS, ByteTokenizer, tiny_config, tiny_model
from tests.mpi import run_ranks

TOKENIZER: Any = ByteTokenizer()


def naive(model: Transformer, texts: list[str], length: int, stride: int) -> tuple[float, int]:
    """Sum of -log p from whole logits, one document and one forward pass at a time, no packing and no masks."""
    total, count = 0.0, 0
    for text in texts:
        whole = [256, *TOKENIZER.encode(text), 256]
        places: dict[int, list[int]] = {}  # where a token's context begins -> the tokens
        for place in range(1, len(whole)):
            begin = 0
            while begin + length < place:
                begin += stride
            places.setdefault(begin, []).append(place)
        for begin, scored in places.items():
            with torch.no_grad():
                logits = model.logits(model(torch.tensor([whole[begin : scored[-1]]])))
            for place in scored:
                total -= float(torch.log_softmax(logits[place - 1 - begin], dim=-1)[whole[place]])
                count += 1
    return total, count


@pytest.mark.parametrize(("length", "stride"), [(64, 32), (64, 64), (64, 25), (1000, 500), (9, 5)])
def test_equals_a_plain_loop(length: int, stride: int) -> None:
    model = tiny_model()
    nats, count = naive(model, TEXTS, length, stride)
    result = evaluate(model, TOKENIZER, TEXTS, Scoring(length, stride, batch_tokens=200))
    assert result.tokens == count == sum(len(TOKENIZER.encode(text)) + 1 for text in TEXTS)
    assert result.nats == pytest.approx(nats, rel=1e-10)
    assert result.documents == len(TEXTS)


def test_batch_size_and_order_do_not_matter() -> None:
    model = tiny_model()
    results = [
        evaluate(model, TOKENIZER, texts, Scoring(96, batch_tokens=tokens)).nats
        for texts in (TEXTS, TEXTS[::-1])
        for tokens in (1, 96, 500, 100_000)
    ]
    assert results == pytest.approx([results[0]] * len(results), rel=1e-12)


def test_many_documents_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    whole = evaluate(model, TOKENIZER, TEXTS * 3, Scoring(64, batch_tokens=64))
    monkeypatch.setattr("pyjpllm.evaluation.heldout.BATCHES_AHEAD", 1)
    seen: list[HeldOut] = []
    pieces = evaluate(model, TOKENIZER, TEXTS * 3, Scoring(64, batch_tokens=64), progress=seen.append)
    assert pieces.nats == pytest.approx(whole.nats, rel=1e-12)
    assert pieces.tokens == whole.tokens
    assert len(seen) > 5
    assert [part.tokens for part in seen] == sorted(part.tokens for part in seen)
    assert seen[-1] == pieces


def test_bits_per_byte_and_what_nfkc_does() -> None:
    model = tiny_model()
    result = evaluate(model, TOKENIZER, ["ＡＢＣ", "abc"], Scoring(64))
    assert result.bytes == 9 + 3
    assert result.read_back_bytes == 3 + 3
    assert result.changed_documents == 1
    assert result.bits_per_byte == pytest.approx(result.nats / math.log(2) / 12)
    assert result.bits_per_byte_read_back == pytest.approx(2 * result.bits_per_byte)
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_a_uniform_model_pays_log_v_for_every_token() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.head_weight_vD.zero_()
    result = evaluate(model, TOKENIZER, TEXTS, Scoring(32))
    assert result.loss == pytest.approx(math.log(257), rel=1e-12)


def test_no_text_and_empty_documents() -> None:
    model = tiny_model()
    nothing = evaluate(model, TOKENIZER, [], Scoring(32))
    assert (nothing.tokens, nothing.bytes, nothing.documents) == (0, 0, 0)
    assert math.isnan(nothing.loss)
    assert json.loads(json.dumps(nothing.as_dict()))["bits_per_byte"] is None
    empty = evaluate(model, TOKENIZER, ["", ""], Scoring(32))
    assert (empty.tokens, empty.bytes) == (2, 0)  # their ends are scored
    assert HeldOut(nats=1e6, tokens=1).perplexity == math.inf


def test_corpora_add_up() -> None:
    model = tiny_model()
    told: list[str] = []
    parts = evaluate_corpora(
        model,
        TOKENIZER,
        {"a": TEXTS[:3], "b": TEXTS[3:]},
        Scoring(64),
        progress=lambda name, part: told.append(name),
    )
    total = sum(parts.values(), HeldOut())
    whole = evaluate(model, TOKENIZER, TEXTS, Scoring(64))
    assert total.nats == pytest.approx(whole.nats, rel=1e-12)
    assert (total.tokens, total.bytes, total.documents) == (whole.tokens, whole.bytes, whole.documents)
    assert set(told) == {"a", "b"}


def test_the_start_token_matters_and_the_mode_is_put_back() -> None:
    model = tiny_model()
    model.train()
    one = evaluate(model, TOKENIZER, TEXTS, Scoring(64))
    other = evaluate(model, TOKENIZER, TEXTS, Scoring(64, start_id=0))
    assert one.nats != other.nats
    assert model.training


def test_fp32_is_close_to_fp64() -> None:
    exact = evaluate(tiny_model(), TOKENIZER, TEXTS, Scoring(64))
    single = evaluate(tiny_model(torch.float32), TOKENIZER, TEXTS, Scoring(64))
    assert single.nats == pytest.approx(exact.nats, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequence_length": 0}, "sequence length 0"),
        ({"sequence_length": 8, "stride": 9}, "stride 9"),
        ({"sequence_length": 8, "stride": 0}, "stride 0"),
        ({"sequence_length": 8, "batch_tokens": 0}, "batch tokens 0"),
    ],
)
def test_sizes_that_make_no_sense(fields: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scoring(**fields)


def test_a_tokenizer_of_another_model() -> None:
    with pytest.raises(UserError, match="do not belong together"):
        evaluate(tiny_model(vocab_size=100), TOKENIZER, TEXTS, Scoring(64))


def on_ranks(world: World, tensor: int, sequence: bool) -> tuple[float, ...]:
    """Evaluate on a mesh of this world."""
    mesh = make_mesh(world, tp=tensor)
    model = Transformer(tiny_config(), tp=TensorParallel.from_mesh(mesh, sequence), dtype=torch.float64)
    initialize(model, 7)
    with ops.use_backend("torch"):
        result = evaluate(model, TOKENIZER, TEXTS, Scoring(64, batch_tokens=128), mesh=mesh)
    return result._values()


def layouts(world: World) -> list[tuple[float, ...]]:
    """All layouts of a world in one launch."""
    cases = [(1, False)] + ([(2, False), (2, True)] if world.size % 2 == 0 else [])
    return [on_ranks(world, tensor, sequence) for tensor, sequence in cases]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_give_one_result(ranks: int) -> None:
    alone = evaluate(tiny_model(), TOKENIZER, TEXTS, Scoring(64))._values()
    for results in zip(*run_ranks(layouts, ranks), strict=True):
        assert len(set(results)) == 1  # the same on all ranks, to the last bit
        assert results[0][0] == pytest.approx(alone[0], rel=1e-10)
        assert results[0][1:] == alone[1:]
