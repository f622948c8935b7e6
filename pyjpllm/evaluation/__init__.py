"""Judging models and runs: held-out loss in bits per byte, and the report of a run."""

from pyjpllm.evaluation.baselines import Compressed, compress
from pyjpllm.evaluation.heldout import HeldOut, Scoring, evaluate, evaluate_corpora
from pyjpllm.evaluation.report import write_report
from pyjpllm.evaluation.summary import summarize

__all__ = [
    "Compressed",
    "HeldOut",
    "Scoring",
    "compress",
    "evaluate",
    "evaluate_corpora",
    "summarize",
    "write_report",
]
