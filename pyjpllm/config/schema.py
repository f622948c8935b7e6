"""The one config tree: every field a user can write, its type, range, default and meaning.

docs/configuration.md is generated from this file; a field's docstring is its entry there.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A table of the config: unknown keys are errors, values are never coerced, instances never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class RopeScaling(Section):
    """How rotary frequencies are stretched beyond the length the model was trained on."""

    kind: Literal["linear", "llama3"]
    """`linear` divides every frequency by `factor`; `llama3` divides only the low ones (Llama 3.1)."""
    factor: PositiveFloat
    """How many times longer the context gets."""
    low_freq_factor: PositiveFloat = 1.0
    """`llama3`: wavelengths above `original_max_position / low_freq_factor` are divided by `factor`."""
    high_freq_factor: PositiveFloat = 4.0
    """`llama3`: wavelengths below `original_max_position / high_freq_factor` are kept."""
    original_max_position: Positive = 8192
    """`llama3`: the context length before stretching."""


class MoEConfig(Section):
    """A mixture of experts in place of the feed-forward: each token goes through its best few of many small ones, none
    is ever dropped. A table of its own; without it every layer has a feed-forward of `model.intermediate_size`."""

    num_experts: Positive
    """Experts of a layer, E."""
    experts_per_token: Positive
    """Experts that each token goes through, k; at most `num_experts`."""
    intermediate_size: Positive
    """Width of an expert's SwiGLU."""
    shared_size: NonNegative = 0
    """Width of a shared expert that every token goes through as well; 0 is none."""
    shared_gate: bool = False
    """The shared expert's output is multiplied by a sigmoid gate of its own, as Qwen2-MoE has it."""
    router: Literal["softmax", "sigmoid"] = "softmax"
    """What makes scores of the router's logits, over all experts or for each alone (DeepSeek-V3)."""
    normalize_weights: bool = True
    """The scores of a token's experts are divided by their sum before they weigh the experts' outputs."""
    first_dense_layers: NonNegative = 0
    """The first layers, this many, keep the feed-forward of `model.intermediate_size`."""
    layer_step: Positive = 1
    """After them every `layer_step`-th layer of the model has experts (the layers are counted from 1)."""
    balance_loss: NonNegativeFloat = 0.01
    """Weight of the loss that evens out the experts' loads in each sequence (Switch Transformer's, by sequence as in
    DeepSeek-V3): a mean over the sequences of the global batch, summed over layers; logged apart from the loss."""
    router_z_loss: NonNegativeFloat = 0.0
    """Weight of the router's squared log-sum-exp, a mean over all tokens, summed over layers; logged apart."""
    balance_bias_rate: NonNegativeFloat = 0.0
    """Balance without a loss: after each step a bias that counts for the choice alone moves by this much, up for
    experts with less than the mean load, down for those with more; DeepSeek-V3 has 0.001. 0 has no such bias."""

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has experts."""
        return layer >= self.first_dense_layers and (layer + 1) % self.layer_step == 0


class ModelConfig(Section):
    """`[model]`: the shape of the transformer (Llama family). A preset fills what is not written."""

    preset: str | None = None
    """Name of a preset (`jpllm train --presets` lists them); fields written beside it win."""
    init_from: str | None = None
    """A Hugging Face folder to start from: sizes come from its `config.json`, weights from its safetensors."""
    hidden_size: Positive
    """Width of the residual stream, D."""
    num_layers: Positive
    """Number of transformer blocks."""
    num_heads: Positive
    """Query heads, H."""
    num_kv_heads: Positive
    """Key and value heads, K; divides `num_heads`. Equal to `num_heads` for plain multi-head attention."""
    head_dim: Annotated[int, Field(gt=0, multiple_of=2)]
    """Width of a head; usually `hidden_size / num_heads`."""
    intermediate_size: Positive
    """Width of the SwiGLU feed-forward, F."""
    vocab_size: NonNegative = 0
    """Rows of the embedding, V. 0 takes the tokenizer's size."""
    max_position: Positive = 4096
    """Longest sequence the model is meant for (`max_position_embeddings`)."""
    rope_theta: PositiveFloat = 500000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the rotary frequencies; a table of its own."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = False
    """The output head shares the embedding's weights."""
    qkv_bias: bool = False
    """Biases on the query, key and value projections, as Qwen2 has them."""
    out_bias: bool = False
    """A bias on the attention's output projection (Llama's `attention_bias` sets this and `qkv_bias`)."""
    mlp_bias: bool = False
    """Biases on the feed-forward's projections."""
    qk_norm: bool = False
    """RMSNorm over each head of queries and keys before the rotation, as Qwen3 has it."""
    moe: MoEConfig | None = None
    """A mixture of experts; a table of its own."""
    sliding_window: Positive | None = None
    """Attend to at most this many last positions, as Mistral 7B v0.1 does; none by default."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights; outputs of blocks are scaled by 1/sqrt(2 num_layers)."""


class Corpus(Section):
    """One corpus of a blend."""

    path: str
    """Prefix of the token files: `PATH.bin` and `PATH.idx`."""
    weight: PositiveFloat = 1.0
    """Share of the samples drawn from it, relative to the other corpora's weights."""


class DataConfig(Section):
    """`[data]`: what the model is trained and validated on."""

    train: list[Corpus] = Field(min_length=1)
    """Corpora of the training blend: `[{path = "tokens/web", weight = 9}, {path = "tokens/wiki", weight = 1}]`."""
    valid: list[Corpus] = Field(default_factory=list)
    """Held-out corpora; none switches the evaluation during training off."""
    tokenizer: str
    """Folder that holds `tokenizer.model` (sentencepiece), or that file."""
    sequence_length: Positive = 2048
    """Tokens of one training sequence, S."""
    document_mask: bool = True
    """Tokens attend only within their own document, and positions start anew with each document."""


class PrecisionConfig(Section):
    """`[precision]`: number formats. Master weights, optimizer state and gradient sums are FP32 (FP64 for `fp64`)."""

    dtype: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    """Type of weights and activations in the model."""
    math: Literal["exact", "fp16-chunk", "int16"] = "exact"
    """How `train.kernels` `native` sums products of layers and of the loss: `exact` is FP32; `fp16-chunk`, for `dtype`
    `fp16`, sums `math_chunk` of them in FP16 at a time; `int16`, for layers alone, rounds to 16-bit integers, 512 of a
    row or column with a scale of their own, and sums exactly. A64FX does both at nearly twice FP32's rate; other CPUs
    only imitate them."""
    math_chunk: Literal[16, 32, 64, 128] = 32
    """Products that `math` `fp16-chunk` sums in FP16 before it adds their sum to an FP32 one."""
    loss_scale: Annotated[float, Field(ge=0)] = 0.0
    """Factor on the loss before backward, taken out of the gradients again; 0 follows the gradients where `dtype` is
    `fp16` (halved when they overflow) and is none elsewhere."""
    loss_scale_interval: Positive = 1000
    """Good steps after which a factor that follows the gradients is doubled."""


class ParallelConfig(Section):
    """`[parallel]`: how ranks share the work. `data * context * expert * tensor * pipeline` is their number."""

    backend: Literal["auto", "mpi4py", "gloo", "nccl"] = "auto"
    """Engine of the collectives; `auto` is `mpi4py` on CPU and `nccl` on GPU."""
    data: Annotated[int, Field(ge=-1)] = -1
    """Data-parallel replicas; -1 takes all the ranks that the others leave."""
    tensor: Positive = 1
    """Ranks that share each weight matrix (Megatron's tensor parallelism); keep it inside a node."""
    sequence: bool = False
    """With `tensor` > 1: norms and residuals are split along the sequence (Megatron's sequence parallelism)."""
    context: Positive = 1
    """Ranks that share the tokens of each sequence (context parallelism), where long ones do not fit."""
    context_kind: Literal["ring", "ulysses"] = "ring"
    """How they attend to each other's tokens: `ring` passes keys and values on while it computes; `ulysses` exchanges
    tokens for heads, of which there must be enough, and has `sliding_window`."""
    expert: Positive = 1
    """Ranks that share the experts of `model.moe`, each with sequences of its own; divides `model.moe.num_experts`."""
    pipeline: Positive = 1
    """Ranks that share the layers, each some of them, and work on different micro-batches at a time."""
    pipeline_schedule: Literal["gpipe", "1f1b", "interleaved", "zb-h1", "zb-v", "searched"] = "zb-v"
    """Who computes what when (`jpllm plan schedule` draws them). `zb-v` stands idle least in the memory of `1f1b`;
    `searched` looks for the best one for `pipeline_times` within `pipeline_memory`."""
    pipeline_layers: list[NonNegative] = Field(default_factory=list)
    """Layers of each piece of the model, by depth; none are given: balanced, the head counted as what it computes.
    There are as many pieces as ranks, or twice as many for `zb-v` and `searched` (rank 0 holds the first and the last,
    and so on), or `pipeline_chunks` times as many for `interleaved`."""
    pipeline_chunks: Annotated[int, Field(ge=2)] = 2
    """`interleaved`: pieces of the model on each rank."""
    pipeline_times: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)] = [1.0, 1.0, 1.0]
    """`searched`: times of a layer's forward, the gradient of its input and that of its weights, in any one unit."""
    pipeline_memory: NonNegativeFloat = 0.0
    """`searched`: the most activations on a rank, in micro-batches of its whole part; 0: as many as `1f1b` has, which
    is `pipeline`."""
    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO among replicas: `1` keeps master weights and optimizer state of each parameter on one of them, `2` the
    gradient sums as well (the gradients of every micro-batch travel then; not with `pipeline`), `3` the weights too,
    which are gathered layer by layer for each forward and backward (not with `pipeline`)."""
    gradient_dtype: Literal["fp32", "model"] = "fp32"
    """Type in which gradients travel between replicas: `model` sends 16-bit ones where the model has 16 bits."""
    bucket_mib: NonNegativeFloat = 0.0
    """Size of a gradient bucket in MiB; a full bucket is reduced while backward goes on. 0: by the machine, from the
    number of replicas, the bytes of gradients and the network (`pyjpllm/parallel/buckets.py`)."""
    deterministic: bool = False
    """Sum FP32 in one order, of ranks and then nodes, so that bits do not depend on the MPI library's choice of
    algorithm."""
    timeout: PositiveFloat = 1800.0
    """Seconds after which a collective that did not end is reported and the job is ended."""

    @property
    def beside_data(self) -> dict[str, int]:
        """The sizes of all axes but `data`, by field."""
        return {"tensor": self.tensor, "pipeline": self.pipeline, "context": self.context, "expert": self.expert}

    @property
    def fewest_ranks(self) -> int:
        """The ranks of a job, with one replica where `data` is not given."""
        return max(self.data, 1) * math.prod(self.beside_data.values())


class OptimizerConfig(Section):
    """`[optimizer]`: AdamW with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of the second moment."""
    eps: Annotated[float, Field(gt=0, lt=1e-6)] = 1e-8
    """Added to the root of the second moment. 1e-6 and more has cost whole runs and is refused."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay, on matrices only: norms and biases have none."""
    clip_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this global norm; 0 switches clipping off."""


class ScheduleConfig(Section):
    """`[schedule]`: learning rate over the steps."""

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    """`wsd` warms up, stays, decays with 1 - sqrt; `cosine` decays from the peak; `constant` stays."""
    warmup_steps: NonNegative = 0
    """Steps of linear warm-up."""
    decay_fraction: Fraction = 0.1
    """`wsd`: the last part of the steps in which the rate decays."""
    min_lr_ratio: Fraction = 0.0
    """The last rate, as a part of the peak."""


class TrainConfig(Section):
    """`[train]`: the length and the shape of the run."""

    steps: Positive
    """Optimizer steps."""
    global_batch: Positive = 512
    """Sequences of one optimizer step, over all ranks."""
    micro_batch: Positive = 1
    """Sequences that one rank computes at a time; times the data-parallel ranks it divides `global_batch`."""
    seed: NonNegative = 1234
    """Seed of the initial weights and of the data order."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    kernels: Literal["torch", "native", "reference"] = "torch"
    """Backend of the operations: ATen, this project's own kernels, or NumPy (slow, for checks)."""
    activation_checkpointing: Literal["none", "cheap", "full"] = "cheap"
    """What backward makes again instead of keeping it: nothing, the outputs of norms and SwiGLU (a quarter of a block's
    activations, for a hundredth of its time), or all of a block but its input."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared log-partition of the logits; logged apart from the loss."""
    eval_interval: NonNegative = 0
    """Steps between evaluations on `data.valid`; 0 evaluates only at the end."""
    eval_batches: Positive = 16
    """Global batches of one evaluation."""
    max_skipped_steps: Positive = 20
    """Steps in a row whose loss or gradient is not finite before the run is ended."""


class CheckpointConfig(Section):
    """`[checkpoint]`: what is saved and what is kept."""

    interval: NonNegative = 1000
    """Steps between checkpoints; the last step is always saved. 0 saves only there."""
    asynchronous: bool = True
    """Training goes on while files are written, from a copy in memory of what the rank writes; replicas share the
    writing. The last checkpoint of a run is waited for."""
    keep_last: Positive = 2
    """This many newest checkpoints are kept."""
    keep_every: NonNegative = 0
    """Checkpoints of steps divisible by this are kept for good; 0 keeps none."""
    copy_to: str = ""
    """A folder where each checkpoint is kept a second time, usually on another file system, by the same `keep_last` and
    `keep_every`; one for each run. A start finds them there. `""`: nowhere."""


class LogConfig(Section):
    """`[log]`: what is written while the run goes."""

    interval: Positive = 10
    """Steps between lines in a log that is no terminal; `metrics.jsonl` has every step."""
    tensorboard: bool = True
    """Write TensorBoard events into the run folder."""
    sample_prompts: list[str] = Field(default_factory=list)
    """Beginnings of text that the model continues at each evaluation, for the report."""
    sample_tokens: Positive = 64
    """Length of such a continuation."""


class Config(Section):
    """The whole config of a run, resolved: presets filled in, sizes checked."""

    model: ModelConfig
    data: DataConfig
    precision: PrecisionConfig = Field(default_factory=PrecisionConfig)
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    train: TrainConfig
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    log: LogConfig = Field(default_factory=LogConfig)
