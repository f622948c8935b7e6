"""How ranks share a model: data, tensor, sequence and context parallelism, on flat parameters."""

from pyjpllm.parallel.context import ContextParallel
from pyjpllm.parallel.data import DataParallel, global_grad_norm
from pyjpllm.parallel.expert import Exchange, ExpertLinear, ExpertParallel
from pyjpllm.parallel.flat import Bucket, FlatEntry, FlatGroup, FlatParameters
from pyjpllm.parallel.layout import (
    HeadRanges,
    Layout,
    head_ranges,
    layout_of,
    piece_of,
    pieces_of,
    set_layout,
    split_range,
    split_sizes,
)
from pyjpllm.parallel.sequence import gather_vocabulary, tp_input, tp_output
from pyjpllm.parallel.tensor import (
    ColumnParallelLinear,
    RMSNorm,
    RowParallelLinear,
    TensorParallel,
    VocabParallelEmbedding,
    vocab_parallel_cross_entropy,
    vocab_parallel_logits,
)

__all__ = [
    "Bucket",
    "ColumnParallelLinear",
    "ContextParallel",
    "DataParallel",
    "Exchange",
    "ExpertLinear",
    "ExpertParallel",
    "FlatEntry",
    "FlatGroup",
    "FlatParameters",
    "HeadRanges",
    "Layout",
    "RMSNorm",
    "RowParallelLinear",
    "TensorParallel",
    "VocabParallelEmbedding",
    "gather_vocabulary",
    "global_grad_norm",
    "head_ranges",
    "layout_of",
    "piece_of",
    "pieces_of",
    "set_layout",
    "split_range",
    "split_sizes",
    "tp_input",
    "tp_output",
    "vocab_parallel_cross_entropy",
    "vocab_parallel_logits",
]
