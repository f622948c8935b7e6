"""The trainer: steps, optimizer, schedules, checkpoints, faults, records of a run."""

from pyjpllm.training.faults import TrainingError
from pyjpllm.training.folders import complete_steps, latest
from pyjpllm.training.loading import Loaded, find_model, load_model, read_model_state
from pyjpllm.training.manifest import Manifest
from pyjpllm.training.trainer import Result, train

__all__ = [
    "Loaded",
    "Manifest",
    "Result",
    "TrainingError",
    "complete_steps",
    "find_model",
    "latest",
    "load_model",
    "read_model_state",
    "train",
]
