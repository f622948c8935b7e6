"""`config.json` of Hugging Face's Llama, Mistral, Qwen2, Qwen3 and their mixtures, to and from `ModelConfig`.

What a file leaves out has the default of its model type in transformers. transformers 4.5x reads `rope_theta` and
`rope_scaling`, 5 reads `rope_parameters`; both are read here, and both are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pyjpllm.config.schema import ModelConfig, RopeScaling
from pyjpllm.errors import UserError, did_you_mean
from pyjpllm.model.huggingface import moe
from pyjpllm.model.huggingface.reader import Reader

# Defaults of transformers' configuration classes, for keys that a config.json may leave out.
_COMMON: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "head_dim": None,
    "num_key_value_heads": None,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
}
_QWEN: dict[str, Any] = {
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, "max_position_embeddings": 2048},
    "mistral": {**_COMMON, "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {**_COMMON, **_QWEN},
    "qwen3": {**_COMMON, **_QWEN, "head_dim": 128},
    **{kind: {**_COMMON, **more} for kind, more in moe.DEFAULTS.items()},
}


def load_config(folder: str | Path) -> ModelConfig:
    """The `ModelConfig` of a Hugging Face folder.

    Raises UserError, naming the file and the key, for what is missing, of a wrong type, or not supported:
    rotary scalings but linear and llama3, windows of some layers only, quantised weights, other model types.
    """
    reader = Reader(Path(folder) / "config.json")
    kind = reader.values.get("model_type")
    if not isinstance(kind, str):
        raise reader.fail(f"model_type is missing; supported: {', '.join(DEFAULTS)}")
    if kind not in DEFAULTS:
        raise reader.fail(f"model_type {kind!r} is not supported{did_you_mean(kind, DEFAULTS)}")
    reader.defaults = DEFAULTS[kind]
    if reader.get("hidden_act") != "silu":
        raise reader.fail(f"hidden_act = {reader.get('hidden_act')!r} is not supported; allowed: 'silu'")
    if reader.get("quantization_config") is not None:
        raise reader.fail("quantization_config: quantised weights are not supported; take the model's 16-bit weights")
    heads, hidden = reader.integer("num_attention_heads"), reader.integer("hidden_size")
    kv_heads = heads if reader.get("num_key_value_heads") is None else reader.integer("num_key_value_heads")
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise reader.fail(f"num_attention_heads = {heads} is no multiple of num_key_value_heads = {kv_heads}")
    layers = reader.integer("num_hidden_layers")
    attention_bias = reader.flag("attention_bias") if kind in ("llama", "qwen3", "qwen3_moe") else False
    theta, scaling = _rope(reader)
    fields = {
        "hidden_size": hidden,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": hidden // heads if reader.get("head_dim") is None else reader.integer("head_dim"),
        "intermediate_size": reader.integer("intermediate_size"),
        "vocab_size": reader.integer("vocab_size"),
        "max_position": reader.integer("max_position_embeddings"),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "norm_eps": reader.number("rms_norm_eps"),
        "tie_embeddings": reader.flag("tie_word_embeddings"),
        "qkv_bias": attention_bias or kind == "qwen2" or (kind == "qwen2_moe" and reader.flag("qkv_bias")),
        "out_bias": attention_bias,
        "mlp_bias": reader.flag("mlp_bias") if kind == "llama" else False,
        "qk_norm": kind in ("qwen3", "qwen3_moe"),
        "moe": moe.read(reader, kind, layers) if kind in moe.DEFAULTS else None,
        "sliding_window": _window(reader, kind, layers),
        "init_std": reader.number("initializer_range"),
    }
    try:
        return ModelConfig.model_validate(fields)
    except ValidationError as error:
        raise reader.fail(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"model.{where} = {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _rope(reader: Reader) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary frequencies, from the keys of transformers 5 or of 4."""
    parameters = reader.get("rope_parameters") or reader.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise reader.fail(f"rope_parameters = {parameters!r} is no object")
    theta = reader.number("rope_theta", parameters) if "rope_theta" in parameters else reader.number("rope_theta")
    for source in (parameters, reader.values):
        if source.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise reader.fail("partial_rotary_factor is not supported")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise reader.fail(f"rope_type {kind!r} is not supported; allowed: default, linear, llama3")
    more: dict[str, Any] = {}
    if kind == "llama3":
        more = {key: reader.number(key, parameters) for key in ("low_freq_factor", "high_freq_factor")}
        original = parameters.get("original_max_position_embeddings", reader.get("original_max_position_embeddings"))
        if not isinstance(original, int) or isinstance(original, bool):
            raise reader.fail(f"original_max_position_embeddings = {original!r} is no integer")
        more["original_max_position"] = original
        if more["low_freq_factor"] >= more["high_freq_factor"]:
            raise reader.fail(
                f"low_freq_factor = {more['low_freq_factor']} is not below "
                f"high_freq_factor = {more['high_freq_factor']}"
            )
    try:
        return theta, RopeScaling(kind=kind, factor=reader.number("factor", parameters), **more)
    except ValidationError as error:
        raise reader.fail(_explain(error)) from error


def _window(reader: Reader, kind: str, layers: int) -> int | None:
    """The window that all layers share, or None; a mixture of layers with and without is refused."""
    if kind == "llama" or reader.get("sliding_window") is None:
        return None
    window = reader.integer("sliding_window")
    if kind in ("mistral", "mixtral"):
        return window
    if not reader.flag("use_sliding_window"):
        return None
    if kind == "qwen3_moe":
        return window
    kinds = reader.get("layer_types")
    if kinds is None:
        first = reader.integer("max_window_layers")
        kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    if set(kinds) <= {"full_attention"}:
        return None
    if set(kinds) == {"sliding_attention"}:
        return window
    raise reader.fail("a sliding window on some layers only (layer_types, max_window_layers) is not supported")


def architecture(config: ModelConfig) -> str:
    """Model type that a config is written as; UserError when none can express it."""
    if config.moe is not None:
        return moe.architecture(config, config.moe)
    if config.qk_norm:
        if config.mlp_bias or config.qkv_bias != config.out_bias:
            raise UserError(
                "qk_norm with mlp_bias, or with only one of qkv_bias and out_bias, has no Hugging Face form "
                "(Qwen3 has biases on all four projections of attention or on none)"
            )
        return "qwen3"
    if config.qkv_bias and not config.out_bias:
        if config.mlp_bias:
            raise UserError("mlp_bias with qkv_bias but no out_bias has no Hugging Face form (Qwen2 has no mlp_bias)")
        return "qwen2"
    if config.out_bias and not config.qkv_bias:
        raise UserError("out_bias without qkv_bias has no Hugging Face form (Llama's attention_bias sets both)")
    biases = config.out_bias or config.mlp_bias
    # transformers' LlamaConfig refuses a width that is no multiple of the heads; Mistral's is the same model.
    if config.sliding_window is not None or (config.hidden_size % config.num_heads and not biases):
        if biases:
            raise UserError("sliding_window with biases has no Hugging Face form (Mistral has no biases)")
        return "mistral"
    return "llama"


_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    **moe.CLASSES,
}


def config_json(
    config: ModelConfig,
    *,
    dtype: str = "float32",
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> dict[str, Any]:
    """What `config.json` holds for ``config``: read alike by transformers 4.5x and 5."""
    kind = architecture(config)
    rope: dict[str, Any] = {"rope_type": "default"}
    scaling = config.rope_scaling
    if scaling is not None:
        rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope["low_freq_factor"] = scaling.low_freq_factor
            rope["high_freq_factor"] = scaling.high_freq_factor
            rope["original_max_position_embeddings"] = scaling.original_max_position
    values: dict[str, Any] = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": 0.0,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope if scaling is not None else None,
        "rope_parameters": {"rope_theta": config.rope_theta, **rope},
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
        "use_cache": True,
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    if kind in ("llama", "qwen3", "qwen3_moe"):
        values["attention_bias"] = config.out_bias
    if kind == "llama":
        values["mlp_bias"] = config.mlp_bias
    if kind != "llama":
        values["sliding_window"] = config.sliding_window
    if kind.startswith("qwen"):
        windowed = config.sliding_window is not None
        values["use_sliding_window"] = windowed
        values["max_window_layers"] = 0 if windowed else config.num_layers
        values["layer_types"] = ["sliding_attention" if windowed else "full_attention"] * config.num_layers
    if config.moe is not None:
        values |= moe.values(config, config.moe, kind)
    return values
