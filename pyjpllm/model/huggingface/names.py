"""Names of weights in Hugging Face's files. Experts, which are one tensor here, are one each there."""

from __future__ import annotations

import re

_PARTS = {
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "mlp.router": "mlp.gate",
    "mlp.experts.gate": "mlp.experts.{}.gate_proj",
    "mlp.experts.up": "mlp.experts.{}.up_proj",
    "mlp.experts.down": "mlp.experts.{}.down_proj",
    "mlp.shared.gate": "mlp.shared_expert.gate_proj",
    "mlp.shared.up": "mlp.shared_expert.up_proj",
    "mlp.shared.down": "mlp.shared_expert.down_proj",
    "mlp.shared_gate": "mlp.shared_expert_gate",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
_MIXTRAL = {
    "mlp.router": "block_sparse_moe.gate",
    "mlp.experts.gate": "block_sparse_moe.experts.{}.w1",
    "mlp.experts.up": "block_sparse_moe.experts.{}.w3",
    "mlp.experts.down": "block_sparse_moe.experts.{}.w2",
}
_WHOLE = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


def hf_name(name: str, kind: str = "llama") -> str:
    """The name in Hugging Face's files of a model type of our parameter ``name``; ``{}`` in it is the expert."""
    if name in _WHOLE:
        return _WHOLE[name]
    parts = {**_PARTS, **_MIXTRAL} if kind == "mixtral" else _PARTS
    match = _BLOCK.fullmatch(name)
    if match is None or match[2] not in parts:
        raise KeyError(name)
    return f"model.layers.{match[1]}.{parts[match[2]]}.{match[3]}"


def hf_names(name: str, shape: tuple[int, ...], kind: str) -> list[str]:
    """The names of all the tensors that our parameter of that shape is there: one, or one for each expert."""
    found = hf_name(name, kind)
    return [found.format(expert) for expert in range(shape[0])] if len(shape) == 3 else [found]
