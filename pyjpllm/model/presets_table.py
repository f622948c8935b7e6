"""The table of presets in docs/models.md: ``python -m pyjpllm.model.presets_table``."""

from __future__ import annotations

from pyjpllm.config.presets import PRESETS
from pyjpllm.config.schema import ModelConfig, MoEConfig
from pyjpllm.model.flops import count_parameters, flops_per_token


def presets_table(vocab_size: int = 32000, sequence_length: int = 2048) -> str:
    """The presets as a Markdown table, sizes with a vocabulary of ``vocab_size``."""
    lines = [
        "| preset | D | layers | heads | kv heads | F | experts | tied | weights | without tables | GFLOP a token |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for name, fields in PRESETS.items():
        config = ModelConfig(**{**fields, "vocab_size": vocab_size})
        bare = count_parameters(ModelConfig(**{**fields, "vocab_size": 0}))
        moe = config.moe
        width, experts = (config.intermediate_size, "") if moe is None else (moe.intermediate_size, _experts(moe))
        lines.append(
            f"| `{name}` | {config.hidden_size} | {config.num_layers} | {config.num_heads} | {config.num_kv_heads} "
            f"| {width} | {experts} | {'yes' if config.tie_embeddings else 'no'} "
            f"| {_short(count_parameters(config))} | {_short(bare)} "
            f"| {flops_per_token(config, sequence_length) / 1e9:.3g} |"
        )
    return "\n".join(lines) + "\n"


def _experts(moe: MoEConfig) -> str:
    return f"{moe.experts_per_token} of {moe.num_experts}"


def _short(number: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number / 1e3:.3g}K"


if __name__ == "__main__":
    print(presets_table(), end="")
