"""Readers of the pipeline: documents, and what had to be set aside, out of any file, however broken."""

from pyjpllm.corpus.intake.bounded import Bounds
from pyjpllm.corpus.intake.html import Extraction
from pyjpllm.corpus.intake.item import Item, Span
from pyjpllm.corpus.intake.read import SUFFIXES, read_span

__all__ = ["SUFFIXES", "Bounds", "Extraction", "Item", "Span", "read_span"]
