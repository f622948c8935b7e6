"""Hugging Face folders that are broken or not supported: one line that says what and where."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyjpllm.errors import UserError
from pyjpllm.model import Transformer
from pyjpllm.model.huggingface import config_json, export, load_config, load_weights
from tests.model.models import build, config

TABLE = config_json(config())
QWEN = config_json(config("qwen3 window"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, r"model_type 'lama' is not supported; did you mean 'llama'\?"),
        ({"model_type": "gpt_neox"}, "model_type 'gpt_neox' is not supported; allowed: llama, mistral, qwen2, qwen3"),
        ({"model_type": "deepseek_v3"}, "model_type 'deepseek_v3' is not supported; allowed: llama, mistral, qwen2"),
        ({"model_type": "mixtral", "num_local_experts": "8"}, "num_local_experts = '8' is no integer"),
        ({"model_type": "mixtral", "num_local_experts": 0}, "model.moe.num_experts = 0: input should be greater than"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 0}, "decoder_sparse_step = 0 is not positive"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [1]}, r"mlp_only_layers = \[1\] is supported for the first"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": 1}, "mlp_only_layers = 1 is no list of layers"),
        ({"model_type": None}, "model_type is missing"),
        ({"hidden_size": None}, "hidden_size = None is no integer"),
        ({"hidden_size": "24"}, "hidden_size = '24' is no integer"),
        ({"hidden_size": True}, "hidden_size = True is no integer"),
        ({"hidden_size": -1, "head_dim": 4}, "model.hidden_size = -1: input should be greater than 0"),
        ({"head_dim": 5}, "model.head_dim = 5: input should be a multiple of 2"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps = 'tiny' is no number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no' is neither true nor false"),
        ({"num_key_value_heads": 4}, "num_attention_heads = 6 is no multiple of num_key_value_heads = 4"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; allowed: 'silu'"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn' is not supported; allowed: "),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic"}}, "rope_type 'dynamic' is not supported"),
        ({"rope_parameters": "linear"}, "rope_parameters = 'linear' is no object"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "4"}}, "factor = '4' is no number"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.0}}, "model.factor = 0.0"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0
                }
            },
            "original_max_position_embeddings = None is no integer",
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
            "low_freq_factor = 4.0 is not below high_freq_factor = 4.0",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
        ({**QWEN, "layer_types": ["full_attention", "sliding_attention"]}, "on some layers only"),
        ({**QWEN, "layer_types": None, "max_window_layers": 1}, "on some layers only"),
        ({**QWEN, "use_sliding_window": 1}, "use_sliding_window = 1 is neither"),
    ],
)  # fmt: skip
def test_config_that_is_wrong_or_not_supported(changes, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**TABLE, **changes}))
    with pytest.raises(UserError, match=message) as caught:
        load_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in TABLE.items() if k != "num_hidden_layers"}))
    with pytest.raises(UserError, match="num_hidden_layers is missing"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is no JSON"), ("[1]", "holds a list, not an object"), ("\udcff", "is no JSON")]
)
def test_config_that_is_no_json_object(content, message, tmp_path):
    (tmp_path / "config.json").write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=message):
        load_config(tmp_path)


def test_no_folder_and_no_config(tmp_path):
    with pytest.raises(UserError, match=r"it has no config.json \(there is no such folder\)"):
        load_config(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"it has no config.json$"):
        load_config(tmp_path)


@pytest.fixture
def folder(tmp_path):
    model = build(config(), dtype=torch.float32)
    export(dict(model.named_parameters()), config(), tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    monkeypatch.setattr("pyjpllm.model.huggingface.write.SHARD_BYTES", 4096)
    model = build(config(), dtype=torch.float32)
    export(dict(model.named_parameters()), config(), tmp_path)
    return tmp_path


def refused(folder, message):
    """Loading is refused with ``message`` and has written nothing."""
    model = Transformer(load_config(folder))
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(7)
    with pytest.raises(UserError, match=message) as caught:
        load_weights(model, folder)
    assert str(folder) in str(caught.value)
    assert all((param == 7).all() for param in model.parameters())


def change(folder, function):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    function(tensors)
    save_file(tensors, path)


def test_missing_tensors_are_named(folder):
    change(folder, lambda tensors: [tensors.pop(name) for name in ("lm_head.weight", "model.norm.weight")])
    refused(folder, "lacks lm_head.weight, model.norm.weight$")


def test_many_missing_tensors_are_counted(folder):
    change(folder, lambda t: [t.pop(name) for name in list(t) if "layers.1" in name])
    refused(folder, r"lacks model.layers.1.\S+, \S+, \S+, \S+ and 5 more$")


def test_wrong_shape_is_named(folder):
    change(folder, lambda t: t.update({"model.norm.weight": torch.ones(25)}))
    refused(folder, r"model.norm.weight is \[25\], by config.json it is \[24\]")


def test_unknown_tensors_are_named(folder):
    change(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(24)}))
    refused(folder, "holds model.layers.0.self_attn.q_proj.bias, which a model of its config.json does not have")


def test_other_types_are_named(folder):
    change(folder, lambda t: t.update({"model.norm.weight": torch.ones(24, dtype=torch.int8)}))
    refused(folder, "model.norm.weight is of type I8; supported: BF16, F16, F32, F64")


def test_frequencies_in_the_file_are_no_weights(folder):
    change(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}))
    load_weights(Transformer(load_config(folder)), folder)


def test_a_tied_head_in_the_file_is_not_read(tmp_path):
    model = build(config("tied"), dtype=torch.float32)
    export(dict(model.named_parameters()), config("tied"), tmp_path)
    change(tmp_path, lambda t: t.update({"lm_head.weight": torch.ones(37, 24)}))
    load_weights(Transformer(load_config(tmp_path)), tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_truncated_file(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "model.safetensors is truncated or no safetensors file")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "has neither model.safetensors nor model.safetensors.index.json$")
    (folder / "pytorch_model.bin").write_bytes(b"")
    refused(folder, r"pytorch_model.bin is an older format")


def test_missing_and_truncated_shards(sharded):
    shards = sorted(sharded.glob("model-*.safetensors"))
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    refused(sharded, f"{shards[1].name} is truncated")
    shards[1].unlink()
    refused(sharded, f"lacks {shards[1].name}, which model.safetensors.index.json names")


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": 3}', "[]"])
def test_index_that_is_none(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content)
    refused(sharded, "is no index of safetensors files")


def test_index_that_names_the_wrong_file(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.norm.weight"] = next(f for f in files if f != index["weight_map"]["model.norm.weight"])
    path.write_text(json.dumps(index))
    refused(sharded, "lacks model.norm.weight, which model.safetensors.index.json says it has")
