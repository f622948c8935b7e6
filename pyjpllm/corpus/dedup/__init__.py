"""Deduplication across any number of ranks: documents, paragraphs and lines, and substrings."""

from pyjpllm.corpus.dedup.documents import CopiesStep, NearCopiesStep
from pyjpllm.corpus.dedup.lines import RepeatedUnitsStep
from pyjpllm.corpus.dedup.lsh import collision_probability, solve_banding
from pyjpllm.corpus.dedup.minhash import MinHasher
from pyjpllm.corpus.dedup.substrings import RepeatedSubstringsStep

__all__ = [
    "CopiesStep",
    "MinHasher",
    "NearCopiesStep",
    "RepeatedSubstringsStep",
    "RepeatedUnitsStep",
    "collision_probability",
    "solve_banding",
]
