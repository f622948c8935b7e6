"""The config tree of a run: schema, presets, loading with overrides, checks."""

from pyjpllm.config.check import check_config
from pyjpllm.config.dump import to_toml
from pyjpllm.config.load import load_config
from pyjpllm.config.mistakes import ConfigError
from pyjpllm.config.presets import PRESETS
from pyjpllm.config.schema import Config

__all__ = ["PRESETS", "Config", "ConfigError", "check_config", "load_config", "to_toml"]
