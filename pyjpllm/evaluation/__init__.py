"""Judging models and runs: held-out loss in bits per byte, and the report of a run."""

from pyjpllm.evaluation.report import write_report
from pyjpllm.evaluation.summary import summarize

__all__ = ["summarize", "write_report"]
