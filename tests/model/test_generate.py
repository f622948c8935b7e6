"""Generation: the cache changes nothing, draws are what is asked for, ranks agree."""

from __future__ import annotations

import pytest
import torch

from pyjpllm import ops
from pyjpllm.distributed import make_mesh
from pyjpllm.errors import UserError
from pyjpllm.model import KVCache, generate, stream
from pyjpllm.model.generate import choose
from pyjpllm.parallel import TensorParallel
from tests.model.models import VARIANTS, build, config, tokens
from tests.mpi import run_ranks

EXACT = {"atol": 1e-12, "rtol": 1e-12}
PROMPT = [3, 1, 4, 1, 5]


@pytest.mark.parametrize("pieces", [[9], [1] * 9, [4, 1, 3, 1]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_with_a_cache_are_those_without(variant, pieces):
    model = build(config(variant))
    ids = tokens()
    cache = model.new_cache(2, 9)
    with torch.no_grad():
        expected = model(ids).view(2, 9, -1)
        actual = torch.cat([model(piece, cache=cache).view(2, piece.shape[1], -1) for piece in ids.split(pieces, 1)], 1)
    assert cache.length == 9
    torch.testing.assert_close(actual, expected, **EXACT)


def uncached(model, prompt, count):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            logits = model.logits(model(torch.tensor([ids])))[-1]
            ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen3", "tied"])
def test_greedy_text_is_that_of_the_uncached_model(variant):
    model = build(config(variant))
    expected = uncached(model, PROMPT, 12)
    assert generate(model, PROMPT, max_new_tokens=12, temperature=0) == expected
    assert generate(model, PROMPT, max_new_tokens=12, top_k=1) == expected
    assert generate(model, PROMPT, max_new_tokens=12, top_p=1e-9) == expected


def test_packed_weights_change_nothing():
    model = build(config("tied")).half()
    with ops.use_backend("native"), ops.use_math("fp16-chunk"):
        expected = list(stream(model, PROMPT, max_new_tokens=5, temperature=0))
        assert generate(model, PROMPT, max_new_tokens=5, temperature=0) == expected
    weights = list(model.linear_weights())
    assert len({w.data_ptr() for w in weights}) == len(weights)
    assert weights[-1] is model.embedding.weight


def test_it_ends_with_the_end_of_text():
    model = build(config())
    text = generate(model, PROMPT, max_new_tokens=12, temperature=0)
    eos = text[3]
    assert generate(model, PROMPT, max_new_tokens=12, temperature=0, eos_id=eos) == text[: text.index(eos) + 1]
    assert generate(model, PROMPT, max_new_tokens=0) == []


def test_a_seed_is_a_text():
    model = build(config())
    texts = [tuple(generate(model, PROMPT, max_new_tokens=20, temperature=2.0, seed=seed)) for seed in (0, 1, 0)]
    assert texts[0] == texts[2] != texts[1]


def test_tokens_come_as_they_are_made():
    model = build(config())
    calls = []
    model.norm.register_forward_hook(lambda *_: calls.append(1))
    flow = stream(model, PROMPT, max_new_tokens=5)
    assert not calls
    next(flow)
    assert len(calls) == 1


def draws(logits, count=4000, **settings):
    generator = torch.Generator().manual_seed(0)
    settings = {"temperature": 1.0, "top_k": None, "top_p": None, **settings}
    chosen = [choose(logits, generator=generator, **settings) for _ in range(count)]
    return torch.bincount(torch.tensor(chosen), minlength=len(logits)) / count


def test_draws_have_the_probabilities_of_the_logits():
    probs = torch.tensor([0.1, 0.5, 0.15, 0.25], dtype=torch.float64)
    assert (draws(probs.log()) - probs).abs().max() < 0.03
    squared = probs**2 / (probs**2).sum()
    assert (draws(probs.log(), temperature=0.5) - squared).abs().max() < 0.03


def test_top_k_and_top_p_keep_the_likeliest():
    probs = torch.tensor([0.1, 0.5, 0.15, 0.25], dtype=torch.float64)
    kept = probs * torch.tensor([0, 1, 0, 1])
    expected = kept / kept.sum()
    assert (draws(probs.log(), top_k=2) - expected).abs().max() < 0.03
    assert (draws(probs.log(), top_p=0.7) - expected).abs().max() < 0.03
    assert (draws(probs.log(), top_p=0.5) > 0).tolist() == [False, True, False, False]
    assert (draws(probs.log(), top_k=3, top_p=0.6) > 0).tolist() == [False, True, False, True]
    assert (draws(probs.log(), top_k=9, top_p=1.0) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_ids": []}, "the prompt has no tokens"),
        ({"prompt_ids": [1, 37]}, "token 37 of the prompt is outside of the model's vocabulary of 37"),
        ({"prompt_ids": [-1]}, "token -1"),
        ({"temperature": -0.1}, "temperature = -0.1"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_k": 0}, "top_k = 0"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.1}, "top_p = 1.1"),
        ({"max_new_tokens": -1}, "max_new_tokens = -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    model = build(config())
    with pytest.raises(UserError, match=message):
        stream(model, **{"prompt_ids": PROMPT, "max_new_tokens": 3, **settings})


def test_a_full_cache_is_refused():
    model = build(config())
    with pytest.raises(ValueError, match="room for 4 positions, 5 are needed"):
        model(torch.tensor([PROMPT]), cache=model.new_cache(1, 4))


def test_a_cache_takes_no_documents():
    model = build(config())
    cache = model.new_cache(1, 9)
    assert isinstance(cache, KVCache)
    with pytest.raises(ValueError, match="document ids cannot be given"):
        model(torch.tensor([PROMPT]), document_ids_BS=torch.zeros(1, 5), cache=cache)


def on_ranks(world):
    """Losses, gradients' sum and texts on this rank, for each kind of layout."""
    results = {}
    for sequence in (False, True):
        tp = TensorParallel.from_mesh(make_mesh(world, dp=1, tp=world.size), sequence)
        for variant in ("llama", "qwen3", "tied", "attention bias"):
            model = build(config(variant), tp=tp, noise=False)
            loss = model.loss(tokens(), tokens(seed=1)).loss
            loss.backward()
            with torch.no_grad():
                logits = model.logits(model(tokens()), num_tokens=18)
            text = generate(model, PROMPT, max_new_tokens=8, temperature=1.5, seed=5)
            results[sequence, variant] = (loss.item(), logits, text)
    return results


def test_ranks_agree_with_one_process():
    expected = {}
    for variant in ("llama", "qwen3", "tied", "attention bias"):
        model = build(config(variant), noise=False)
        loss = model.loss(tokens(), tokens(seed=1)).loss.item()
        text = generate(model, PROMPT, max_new_tokens=8, temperature=1.5, seed=5)
        expected[variant] = (loss, model.logits(model(tokens())).detach(), text)
    for results in run_ranks(on_ranks, 2):
        for (_, variant), (loss, logits, text) in results.items():
            assert loss == pytest.approx(expected[variant][0], rel=1e-12)
            torch.testing.assert_close(logits, expected[variant][1], **EXACT)
            assert text == expected[variant][2]
