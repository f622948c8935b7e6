"""Types of the compiled module, csrc/.

An array is (address, shape, stride in elements, dtype name, owner).
"""

from collections.abc import Sequence
from typing import Any

Array = tuple[int, Sequence[int], Sequence[int], str, object]
"""The owner is what keeps the memory alive during the call, such as the tensor itself."""

def gemm(
    a: Array,
    b: Array,
    c: Array,
    bias: Array | None,
    accumulate: bool,
    threads: int,
    residual: Array | None = None,
    up: Array | None = None,
    gate_out: Array | None = None,
    up_out: Array | None = None,
    math: str = "exact",
    math_chunk: int = 32,
    packed: Array | None = None,
) -> None: ...
def packed_bytes(b: Array, a_dtype: str, math: str = "exact", math_chunk: int = 32) -> int: ...
def pack(b: Array, packed: Array, a_dtype: str, threads: int, math: str = "exact", math_chunk: int = 32) -> None: ...
def grouped_gemm(
    a: Array,
    b: Array,
    c: Array,
    sizes: list[int] | None,
    threads: int,
    math: str = "exact",
    math_chunk: int = 32,
) -> None: ...
def column_sum(x: Array, out: Array, threads: int) -> None: ...
def set_past_caches(bytes: int) -> int: ...
def rms_norm(
    x: Array, update: Array | None, weight: Array, eps: float, sum: Array | None, y: Array, rstd: Array, threads: int
) -> None: ...
def rms_norm_backward(
    dy: Array, x: Array, dsum: Array | None, weight: Array, rstd: Array, dx: Array, dweight: Array, threads: int
) -> None: ...
def layer_norm(
    x: Array, weight: Array, bias: Array, eps: float, y: Array, mean: Array, rstd: Array, threads: int
) -> None: ...
def layer_norm_backward(
    dy: Array,
    x: Array,
    weight: Array,
    mean: Array,
    rstd: Array,
    dx: Array,
    dweight: Array,
    dbias: Array,
    threads: int,
) -> None: ...
def swiglu(gate: Array, up: Array, y: Array, threads: int) -> None: ...
def swiglu_backward(dy: Array, gate: Array, up: Array, dgate: Array, dup: Array, threads: int) -> None: ...
def softmax(x: Array, y: Array, threads: int) -> None: ...
def softmax_backward(dy: Array, y: Array, dx: Array, threads: int) -> None: ...
def cast(x: Array, y: Array, scale: float, threads: int) -> bool: ...
def rotary(q: Array, k: Array, table: Array, q_out: Array, k_out: Array, inverse: bool, threads: int) -> None: ...
def embedding(ids: Array, weight: Array, y: Array, threads: int) -> None: ...
def embedding_backward(ids: Array, dy: Array, dweight: Array, threads: int) -> None: ...
def route(
    logits: Array, bias: Array | None, sigmoid: bool, normalize: bool, experts: Array, weights: Array, threads: int
) -> None: ...
def route_backward(
    dweights: Array,
    logits: Array,
    sigmoid: bool,
    normalize: bool,
    experts: Array,
    weights: Array,
    dlogits: Array,
    threads: int,
) -> None: ...
def sort_by_expert(experts: Array, token: Array, position: Array, sizes: Array) -> None: ...
def combine(x: Array, position: Array, weights: Array | None, y: Array, threads: int) -> None: ...
def combine_backward(
    dy: Array, x: Array, position: Array, weights: Array, dx: Array, dweights: Array, threads: int
) -> None: ...
def linear_logsumexp(
    hidden: Array,
    weight: Array,
    targets: Array,
    lse: Array,
    target_logit: Array,
    threads: int,
    math: str = "exact",
    math_chunk: int = 32,
) -> None: ...
def linear_logsumexp_backward(
    hidden: Array,
    weight: Array,
    targets: Array,
    lse: Array,
    dlse: Array,
    dtarget_logit: Array,
    dhidden: Array | None,
    dweight: Array | None,
    threads: int,
    math: str = "exact",
    math_chunk: int = 32,
) -> None: ...
def linear_cross_entropy(
    hidden: Array,
    weight: Array,
    targets: Array,
    z_loss: float,
    dhidden: Array | None,
    dweight: Array | None,
    threads: int,
    math: str = "exact",
    math_chunk: int = 32,
) -> tuple[float, float]: ...
def adamw_step(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    model_param: Array | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float,
    threads: int,
) -> None: ...
def sum_of_squares(x: Array, threads: int) -> float: ...
def attention(
    q: Array,
    k: Array,
    v: Array,
    query_ids: Array | None,
    key_ids: Array | None,
    scale: float,
    causal: bool,
    window: int,
    out: Array,
    lse: Array,
    threads: int,
) -> None: ...
def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    query_ids: Array | None,
    key_ids: Array | None,
    scale: float,
    causal: bool,
    window: int,
    dq: Array,
    dk: Array,
    dv: Array,
    threads: int,
) -> None: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def build_info() -> dict[str, Any]: ...
def fma_peak(seconds: float = 0.2, threads: int = 1) -> float: ...
def dot_peak(seconds: float = 0.2, threads: int = 1) -> tuple[float, bool]: ...
def stream(
    kind: str, past_caches: bool = False, mebibytes: int = 128, seconds: float = 0.5, threads: int = 1
) -> float: ...
def stream_has_past_caches() -> bool: ...
