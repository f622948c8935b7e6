"""Hugging Face folders both ways, against transformers itself: logits, shards, slices, tokenizer files."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors import safe_open

from pyjpllm.data.tokenizer_train import TokenizerOptions, train_tokenizer
from pyjpllm.errors import UserError
from pyjpllm.model import Transformer
from pyjpllm.model.huggingface import config_json, export, hf_name, is_part, load_config, load_weights
from pyjpllm.parallel import ExpertParallel, TensorParallel, layout_of
from tests.model.models import MIXTURES, VARIANTS, build, config, tokens

TOLERANCE = {"atol": 1e-5, "rtol": 0}

EVERY = (*VARIANTS, *MIXTURES)
EXPECTED_CLASS = {
    "mixtral": "MixtralForCausalLM",
    "mixtral window": "MixtralForCausalLM",
    "qwen2 moe": "Qwen2MoeForCausalLM",
    "qwen3 moe": "Qwen3MoeForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2 window": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3 bias": "Qwen3ForCausalLM",
    "qwen3 window": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "odd width": "MistralForCausalLM",  # transformers' LlamaConfig refuses it
}


def state_of(model):
    return {name: param.detach() for name, param in model.named_parameters()}


def theirs(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def ours(folder, tp=None):
    model = Transformer(load_config(folder), tp=tp)
    load_weights(model, folder)
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model.logits(model(ids)).view(*ids.shape, -1)


@pytest.mark.parametrize("variant", EVERY)
def test_transformers_loads_an_export_with_the_same_logits(variant, tmp_path):
    shape = config(variant)
    model = build(shape, dtype=torch.float32)
    export(state_of(model), shape, tmp_path / "hf")
    other = theirs(tmp_path / "hf")
    assert type(other).__name__ == EXPECTED_CLASS.get(variant, "LlamaForCausalLM")
    ids = tokens(2, 40)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model, ids), other(ids).logits, **TOLERANCE)
    back = ours(tmp_path / "hf")
    assert back.config == shape
    for name, tensor in state_of(back).items():
        assert torch.equal(tensor, state_of(model)[name]), name


SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "vocab_size": 37,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_FEW = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
THEIRS = {
    "llama": ("LlamaConfig", {}),
    "llama tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama bias": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama 3": ("LlamaConfig", {"rope_parameters": LLAMA3_ROPE, "head_dim": 16}),
    "llama linear": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}},
    ),
    "mistral": ("MistralConfig", {"sliding_window": 3}),
    "mistral no window": ("MistralConfig", {"sliding_window": None, "head_dim": 8}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2 window": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0}),
    "qwen2 window unused": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}),
    "qwen3": ("Qwen3Config", {"head_dim": 8, "rms_norm_eps": 1e-3}),
    "qwen3 bias": ("Qwen3Config", {"attention_bias": True, "head_dim": 4}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 5, "num_experts_per_tok": 3}),
    "mixtral window": ("MixtralConfig", {"sliding_window": 3, "num_local_experts": 4, "num_experts_per_tok": 1}),
    "qwen2 moe": (
        "Qwen2MoeConfig",
        {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 9},
    ),
    "qwen2 moe, sparse steps": (
        "Qwen2MoeConfig",
        {**_FEW, "shared_expert_intermediate_size": 9, "decoder_sparse_step": 2, "norm_topk_prob": True},
    ),
    "qwen3 moe": ("Qwen3MoeConfig", {**_FEW, "head_dim": 8, "norm_topk_prob": True}),
    "qwen3 moe, dense first": ("Qwen3MoeConfig", {**_FEW, "mlp_only_layers": [0], "attention_bias": True}),
    "qwen3 moe window": ("Qwen3MoeConfig", {**_FEW, "use_sliding_window": True, "sliding_window": 3}),
}


def make_theirs(kind, more, folder, **settings):
    torch.manual_seed(0)
    shape = getattr(transformers, kind)(**{**SMALL, **more})
    shape._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim == 1:
                param.add_(0.3 * torch.randn(param.shape))
    model.save_pretrained(folder, **settings)
    return model.eval()


@pytest.mark.parametrize("case", THEIRS)
def test_we_load_what_transformers_saved_with_the_same_logits(case, tmp_path):
    other = make_theirs(*THEIRS[case], tmp_path)
    ids = tokens(2, 40)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(ours(tmp_path), ids), other(ids).logits, **TOLERANCE)


def test_the_sliding_window_is_active(tmp_path):
    make_theirs(*THEIRS["mistral"], tmp_path)
    path = tmp_path / "config.json"
    windowed = logits_of(ours(tmp_path), tokens(1, 12))
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": None}))
    assert (windowed - logits_of(ours(tmp_path), tokens(1, 12))).abs().max() > 1e-3


@pytest.mark.parametrize("how", ["transformers", "export"])
def test_sharded_files_are_the_same_model(how, tmp_path, monkeypatch):
    if how == "transformers":
        make_theirs(*THEIRS["llama"], tmp_path / "one")
        make_theirs(*THEIRS["llama"], tmp_path / "many", max_shard_size="4KB")
    else:
        model = build(config(), dtype=torch.float32)
        export(state_of(model), config(), tmp_path / "one")
        monkeypatch.setattr("pyjpllm.model.huggingface.write.SHARD_BYTES", 4096)
        export(state_of(model), config(), tmp_path / "many")
    assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) > 2
    assert not (tmp_path / "many" / "model.safetensors").exists()
    one, many = state_of(ours(tmp_path / "one")), state_of(ours(tmp_path / "many"))
    assert all(torch.equal(one[name], many[name]) for name in one)
    ids = tokens()
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(tmp_path / "many")(ids).logits, logits_of(ours(tmp_path / "many"), ids), **TOLERANCE
        )
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.numel() * 4 for tensor in one.values())


@pytest.mark.parametrize("variant", ["tied", "attention bias", "qwen3"])
@pytest.mark.parametrize("size", [2, 3, 5, 6])
def test_a_rank_reads_its_slices(variant, size, tmp_path):
    if variant != "tied" and size in (3, 5):
        size = 6
    shape = config(variant, num_heads=6, num_kv_heads=6 if size in (3, 5) else 2)
    model = build(shape, dtype=torch.float32)
    export(state_of(model), shape, tmp_path)
    for rank in range(size):
        part = ours(tmp_path, TensorParallel(None, rank, size))
        for name, tensor in part.named_parameters():
            assert torch.equal(tensor, state_of(model)[name][layout_of(tensor).index]), name


@pytest.mark.parametrize("variant", ["mixtral", "qwen2 moe"])
@pytest.mark.parametrize(("ep", "tp"), [(2, 1), (1, 3), (2, 2)])
def test_a_rank_reads_its_experts(variant, ep, tp, tmp_path):
    table = config(variant).model_dump()
    table["moe"]["num_experts"] = 6
    shape = config(variant, moe=table["moe"], num_kv_heads=6)
    model = build(shape, dtype=torch.float32)
    export(state_of(model), shape, tmp_path)
    for rank in range(ep * tp):
        here = ExpertParallel(None, rank // tp, ep), TensorParallel(None, rank % tp, tp)
        part = Transformer(load_config(tmp_path), ep=here[0], tp=here[1])
        load_weights(part, tmp_path)
        for name, tensor in part.named_parameters():
            assert torch.equal(tensor, state_of(model)[name][layout_of(tensor).index]), name


def test_only_the_slice_is_read(tmp_path, monkeypatch):
    """No whole tensor passes through a rank that holds a part of it."""
    shape = config()
    export(state_of(build(shape, dtype=torch.float32)), shape, tmp_path)
    read = []

    class Counted:
        def __init__(self, file):
            self.file = file

        def keys(self):
            return self.file.keys()

        def get_slice(self, name):
            view = self.file.get_slice(name)

            class View:
                get_shape, get_dtype = view.get_shape, view.get_dtype

                def __getitem__(self, index):
                    piece = view[index]
                    read.append(piece.numel())
                    return piece

            return View()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(
        "pyjpllm.model.huggingface.read.safe_open", lambda path, framework: Counted(safe_open(path, framework))
    )
    part = ours(tmp_path, TensorParallel(None, 1, 2))
    assert sum(read) == sum(param.numel() for param in part.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_out_and_in(dtype, tmp_path):
    shape = config()
    model = build(shape, dtype=torch.float32)
    export(state_of(model), shape, tmp_path, dtype=dtype)
    table = json.loads((tmp_path / "config.json").read_text())
    assert table["dtype"] == table["torch_dtype"] == str(dtype).removeprefix("torch.")
    for name, tensor in state_of(ours(tmp_path)).items():
        assert torch.equal(tensor, state_of(model)[name].to(dtype).float()), name
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path).dtype == dtype


def test_old_rope_keys_are_read(tmp_path):
    """As transformers 4 wrote them; and a key of before that, `type`."""
    table = config_json(config("llama3 scaling", rope_theta=123.0))
    del table["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(table))
    assert load_config(tmp_path) == config("llama3 scaling", rope_theta=123.0)
    table["rope_scaling"] = {"type": "linear", "factor": 2}
    (tmp_path / "config.json").write_text(json.dumps(table))
    assert load_config(tmp_path).rope_scaling.factor == 2.0
    assert load_config(tmp_path).rope_theta == 123.0


@pytest.mark.parametrize(
    "kind",
    ["LlamaConfig", "MistralConfig", "Qwen2Config", "Qwen3Config", "MixtralConfig", "Qwen2MoeConfig", "Qwen3MoeConfig"],
)
def test_what_a_file_leaves_out_has_the_default_of_transformers(kind, tmp_path):
    needed = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size")
    shape = getattr(transformers, kind)(**{key: SMALL[key] for key in needed}, num_key_value_heads=3)
    table = {"model_type": shape.model_type, "num_key_value_heads": 3, **{key: SMALL[key] for key in needed}}
    (tmp_path / "config.json").write_text(json.dumps(table))
    read = load_config(tmp_path)
    assert read.max_position == shape.max_position_embeddings
    assert read.norm_eps == shape.rms_norm_eps
    assert read.init_std == shape.initializer_range
    assert read.tie_embeddings == shape.tie_word_embeddings
    assert read.rope_theta == shape.rope_parameters["rope_theta"]
    assert read.rope_scaling is None
    assert read.head_dim == (getattr(shape, "head_dim", None) or 4)
    assert read.sliding_window == (getattr(shape, "sliding_window", None) or None)
    if read.moe is not None:
        assert read.moe.num_experts == getattr(shape, "num_experts", getattr(shape, "num_local_experts", None))
        assert read.moe.experts_per_token == shape.num_experts_per_tok
        assert read.moe.intermediate_size == getattr(shape, "moe_intermediate_size", shape.intermediate_size)
        assert read.moe.shared_size == getattr(shape, "shared_expert_intermediate_size", 0)
        assert read.moe.normalize_weights == getattr(shape, "norm_topk_prob", True)
        assert read.moe.balance_loss == shape.router_aux_loss_coef


@pytest.mark.parametrize("variant", EVERY)
def test_a_config_comes_back(variant, tmp_path):
    shape = config(variant)
    (tmp_path / "config.json").write_text(json.dumps(config_json(shape)))
    assert load_config(tmp_path) == shape


def test_names():
    assert hf_name("blocks.11.attention.q.bias") == "model.layers.11.self_attn.q_proj.bias"
    assert hf_name("head.weight") == "lm_head.weight"
    for wrong in ("blocks.1.attention.z.weight", "nothing"):
        with pytest.raises(KeyError):
            hf_name(wrong)


class Toy:
    """A tokenizer as `export` sees one."""

    bos_id, eos_id, pad_id = 1, 2, -1

    def save_hf(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def test_a_tokenizer_is_saved_beside_and_its_ids_known(tmp_path):
    shape = config()
    export(state_of(build(shape, dtype=torch.float32)), shape, tmp_path, tokenizer=Toy())
    assert (tmp_path / "tokenizer.json").read_text() == "{}"
    for file in ("config.json", "generation_config.json"):
        table = json.loads((tmp_path / file).read_text())
        assert (table["bos_token_id"], table["eos_token_id"], table["pad_token_id"]) == (1, 2, None)
    assert theirs(tmp_path).generation_config.eos_token_id == 2


def test_a_folder_of_our_tokenizer_becomes_one_of_transformers(tmp_path):
    texts = ["むかしむかし、あるところに、おじいさんとおばあさんがいました。\n"] * 20
    tokenizer = train_tokenizer(texts, tmp_path / "tokenizer", TokenizerOptions(vocab_size=397))
    shape = config(vocab_size=tokenizer.vocab_size)
    export(state_of(build(shape, dtype=torch.float32)), shape, tmp_path / "hf", tokenizer=tmp_path / "tokenizer")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert loaded.encode("おばあさん", add_special_tokens=False) == tokenizer.encode("おばあさん")
    table = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (table["bos_token_id"], table["eos_token_id"]) == (tokenizer.bos_id, tokenizer.eos_id)


def test_a_tokenizer_that_cannot_be_exported_leaves_the_old_model(tmp_path):
    class Stubborn(Toy):
        def save_hf(self, folder):
            raise UserError("cannot be written")

    shape = config()
    model = build(shape, dtype=torch.float32)
    export(state_of(model), shape, tmp_path / "hf", tokenizer=Toy())
    before = {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()}
    with pytest.raises(UserError, match="cannot be written"):
        export(state_of(model), shape, tmp_path / "hf", tokenizer=Stubborn())
    assert {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()} == before
    with pytest.raises(UserError, match="cannot be written"):
        export(state_of(model), shape, tmp_path / "new", tokenizer=Stubborn())
    assert not (tmp_path / "new").exists()


def test_files_of_an_export_have_one_mode(tmp_path):
    shape = config()
    export(state_of(build(shape, dtype=torch.float32)), shape, tmp_path / "hf", tokenizer=Toy())
    (tmp_path / "file").touch()
    assert {path.stat().st_mode for path in (tmp_path / "hf").iterdir()} == {(tmp_path / "file").stat().st_mode}
    assert all(map(is_part, (tmp_path / "hf").iterdir()))
    assert not is_part(tmp_path / "notes.txt")


def test_tokenizer_files_of_another_hugging_face_folder_are_copied(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name, content in {
        "tokenizer.json": "{}",
        "tokenizer_config.json": '{"a": 1}',
        "config.json": '{"bos_token_id": 5, "eos_token_id": [6, 7]}',
        "generation_config.json": '{"eos_token_id": [6, 7], "temperature": 0.6, "do_sample": true}',
        "other.txt": "no",
    }.items():
        (source / name).write_text(content)
    shape = config()
    export(state_of(build(shape, dtype=torch.float32)), shape, tmp_path / "hf", tokenizer=source)
    assert (tmp_path / "hf" / "tokenizer_config.json").read_text() == '{"a": 1}'
    assert not (tmp_path / "hf" / "other.txt").exists()
    assert json.loads((tmp_path / "hf" / "generation_config.json").read_text())["temperature"] == 0.6
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["eos_token_id"] == [6, 7]
    (source / "generation_config.json").write_text("[")
    with pytest.raises(UserError, match=r"generation_config.json is no JSON object"):
        export(state_of(build(shape)), shape, tmp_path / "hf2", tokenizer=source)
    assert not (tmp_path / "hf2").exists()


def test_an_export_replaces_an_older_one_and_leaves_the_rest(tmp_path, monkeypatch):
    shape = config()
    (tmp_path / "README.md").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr("pyjpllm.model.huggingface.write.SHARD_BYTES", 4096)
        export(state_of(build(shape, dtype=torch.float32, seed=1)), shape, tmp_path)
    newer = build(shape, dtype=torch.float32, seed=2)
    export(state_of(newer), shape, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert torch.equal(ours(tmp_path).norm.weight, newer.norm.weight)


def test_a_failed_export_leaves_the_older_model_whole(tmp_path):
    shape = config()
    older = build(shape, dtype=torch.float32)
    export(state_of(older), shape, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = state_of(older)
    broken["norm.weight"] = torch.ones(5)
    with pytest.raises(UserError, match=r"norm.weight is \[5\], by the config it is \[24\]"):
        export(broken, shape, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_export_refuses_other_weights(tmp_path):
    shape = config()
    state = state_of(build(shape))
    with pytest.raises(UserError, match=r"have no place for blocks.0.attention.k.bias"):
        export({**state, "blocks.0.attention.k.bias": torch.ones(8)}, shape, tmp_path)
    del state["norm.weight"]
    with pytest.raises(UserError, match=r"lack norm.weight"):
        export(state, shape, tmp_path)


_EXPERTS = {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 5}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qk_norm": True, "mlp_bias": True}, "qk_norm with mlp_bias"),
        ({"qk_norm": True, "qkv_bias": True}, "qk_norm"),
        ({"qkv_bias": True, "mlp_bias": True}, "Qwen2 has no mlp_bias"),
        ({"out_bias": True}, "out_bias without qkv_bias"),
        ({"sliding_window": 3, "qkv_bias": True, "out_bias": True}, "Mistral has no biases"),
        ({"moe": {**_EXPERTS, "router": "sigmoid"}}, "moe.router = 'sigmoid'"),
        ({"moe": {**_EXPERTS, "balance_bias_rate": 0.1}}, "moe.balance_bias_rate"),
        ({"moe": _EXPERTS, "mlp_bias": True}, "moe with mlp_bias"),
        ({"moe": {**_EXPERTS, "shared_size": 4}, "qk_norm": True}, "Qwen3-MoE has biases on all four"),
        ({"moe": _EXPERTS, "out_bias": True, "qkv_bias": True}, "with qk_norm only"),
        ({"moe": {**_EXPERTS, "shared_size": 4}}, r"a shared expert and its gate only"),
        ({"moe": _EXPERTS, "qkv_bias": True}, "Qwen2-MoE"),
        ({"moe": {**_EXPERTS, "first_dense_layers": 1}}, "moe with dense layers"),
    ],
)
def test_a_model_that_none_of_them_can_express_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        config_json(config(**fields))
