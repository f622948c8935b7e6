"""Rules that keep or drop a document by what is measured in its text: presets of Japanese corpora, and one's own."""

from pyjpllm.corpus.rules.config import EditConfig, RulesConfig
from pyjpllm.corpus.rules.presets import Preset, Rule, load_preset, preset_names
from pyjpllm.corpus.rules.stage import EditStage, RulesStage

__all__ = [
    "EditConfig",
    "EditStage",
    "Preset",
    "Rule",
    "RulesConfig",
    "RulesStage",
    "load_preset",
    "preset_names",
]
