"""What one field cannot tell alone: sizes that must divide, ranks that must fit, files that must be there."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from pyjpllm.config.mistakes import ConfigError, nearest_path, shown
from pyjpllm.config.schema import Config, Corpus

Say = Callable[[str, str], None]


def check_config(
    config: Config, world_size: int, *, source: str | Path = "", machine: bool = True, files: bool = True
) -> None:
    """Check ``config`` as a whole for a job of ``world_size`` ranks, before any of them starts work.

    ``source`` is put before each line. ``machine=False`` leaves out what only the machine that will train can answer
    (a GPU, compiled kernels, mpi4py); ``files=False`` leaves out files and folders.
    Raises ``ConfigError`` with one line a mistake: the field, its value, what is allowed, the nearest right one.
    """
    lines: list[str] = []
    before = f"{source}: " if str(source) else ""

    def say(field: str, text: str) -> None:
        value: object = config
        for part in field.split("."):
            value = getattr(value, part)
        lines.append(f"{before}{field} = {shown(value)}: {text}")

    _check_model(config, say)
    _check_moe(config, say)
    replicas = _check_ranks(config, world_size, say)
    _check_tensor(config, world_size, say)
    _check_context(config, say)
    _check_pipeline(config, say)
    if replicas is not None:
        _check_batch(config, replicas * config.parallel.expert, say)
    _check_zero(config, say)
    _check_schedule(config, say)
    _check_engines(config, say)
    _check_intervals(config, say)
    if machine and not lines:
        _check_machine(config, world_size, say)
    if files:
        lines += [before + line for line in _missing_files(config)]
    if lines:
        raise ConfigError(lines)


def _check_model(config: Config, say: Say) -> None:
    model = config.model
    if model.num_heads % model.num_kv_heads:
        fitting = [n for n in range(1, model.num_heads + 1) if model.num_heads % n == 0]
        say(
            "model.num_kv_heads",
            f"does not divide model.num_heads = {model.num_heads}; {_near(model.num_kv_heads, fitting)}",
        )
    if config.data.sequence_length > model.max_position:
        say(
            "data.sequence_length",
            f"is longer than model.max_position = {model.max_position}; at most {model.max_position}, "
            f"or set model.max_position = {config.data.sequence_length}",
        )
    scaling = model.rope_scaling
    if scaling is not None and scaling.kind == "llama3" and scaling.low_freq_factor >= scaling.high_freq_factor:
        say(
            "model.rope_scaling.low_freq_factor",
            f"must be less than model.rope_scaling.high_freq_factor = {scaling.high_freq_factor:g}; usual: 1 and 4",
        )


def _check_moe(config: Config, say: Say) -> None:
    moe, ranks = config.model.moe, config.parallel.expert
    if moe is None:
        if ranks > 1:
            say("parallel.expert", "shares experts, but there is no [model.moe]; leave it out, or use parallel.data")
        return
    if moe.num_experts % ranks:
        fitting = [n for n in range(1, moe.num_experts + 1) if moe.num_experts % n == 0]
        say("parallel.expert", f"does not divide model.moe.num_experts = {moe.num_experts}; {_near(ranks, fitting)}")
    layers = config.model.num_layers
    if moe.experts_per_token > moe.num_experts:
        say("model.moe.experts_per_token", f"must be at most model.moe.num_experts = {moe.num_experts}")
    if moe.shared_gate and not moe.shared_size:
        say("model.moe.shared_gate", "needs a shared expert: write model.moe.shared_size, or leave it out")
    if moe.first_dense_layers >= layers:
        say("model.moe.first_dense_layers", f"leaves none of model.num_layers = {layers} experts; at most {layers - 1}")
    elif not any(moe.is_sparse(layer) for layer in range(layers)):
        say("model.moe.layer_step", f"leaves none of model.num_layers = {layers} experts; at most {layers}")
    for name in ("intermediate_size", "shared_size"):
        size, tensor = getattr(moe, name), config.parallel.tensor
        if 0 < size < tensor:
            say(f"model.moe.{name}", f"cannot be shared by parallel.tensor = {tensor} ranks; at least {tensor}")


def _check_ranks(config: Config, world_size: int, say: Say) -> int | None:
    """The number of data-parallel replicas, or None when the ranks do not fit."""
    data, beside = config.parallel.data, config.parallel.beside_data
    if data == 0:
        say("parallel.data", "must be at least 1, or -1 for all the ranks that the other sizes leave")
        return None
    left = world_size
    for name, size in beside.items():
        if left % size:
            fitting = [n for n in range(1, left + 1) if left % n == 0]
            others = world_size // left
            shared = f", {left} for each of the {others} that other sizes ask for" if others > 1 else ""
            say(f"parallel.{name}", f"does not divide the job's {_ranks(world_size)}{shared}; {_near(size, fitting)}")
            return None
        left //= size
    if data not in (-1, left):
        needed = config.parallel.fewest_ranks
        factors = [f"parallel.{name} = {size}" for name, size in beside.items() if size > 1]
        times = f"times {' and '.join(factors)} is {needed}" if factors else f"asks for {_ranks(needed)}"
        say(
            "parallel.data",
            f"{times}, but the job has {_ranks(world_size)}; start it with {_ranks(needed)} (mpirun -n {needed}), "
            f"or write {left} (or -1: all that are left)",
        )
        return None
    return left


def _check_tensor(config: Config, world_size: int, say: Say) -> None:
    model, tensor = config.model, config.parallel.tensor
    if config.parallel.sequence and tensor == 1:
        say(
            "parallel.sequence", "splits over the ranks of parallel.tensor, which is 1; set parallel.tensor = 2 or more"
        )
    if model.num_heads % model.num_kv_heads == 0 and not heads_fit(model.num_heads, model.num_kv_heads, tensor):
        fitting = [t for t in range(1, model.num_heads + 1) if heads_fit(model.num_heads, model.num_kv_heads, t)]
        dividing = [t for t in fitting if world_size % t == 0]
        say(
            "parallel.tensor",
            f"cannot share model.num_heads = {model.num_heads} with model.num_kv_heads = {model.num_kv_heads}; "
            f"{_near(tensor, dividing or fitting)}",
        )
    elif tensor > model.intermediate_size:
        say("parallel.tensor", f"is more than model.intermediate_size = {model.intermediate_size} can be shared by")


def _check_context(config: Config, say: Say) -> None:
    model, ranks, kind = config.model, config.parallel.context, config.parallel.context_kind
    length, window = config.data.sequence_length, config.model.sliding_window
    if ranks == 1:
        if kind != type(config.parallel)().context_kind:
            say("parallel.context_kind", "is for parallel.context, which is 1; leave it out, or set that")
    elif ranks > length:
        say("parallel.context", f"is more ranks than a sequence has tokens; at most data.sequence_length = {length}")
    elif kind == "ring" and window is not None and window < length:
        say("parallel.context_kind", f'does not know model.sliding_window = {window}; write "ulysses"')
    elif kind == "ulysses" and not _ulysses_fits(config, ranks):
        fitting = [n for n in range(1, model.num_heads + 1) if _ulysses_fits(config, n)]
        shared = f" beside parallel.tensor = {config.parallel.tensor}" if config.parallel.tensor > 1 else ""
        say(
            "parallel.context",
            f"cannot share model.num_heads = {model.num_heads} with model.num_kv_heads = {model.num_kv_heads}{shared}; "
            f'{_near(ranks, fitting)}, or write parallel.context_kind = "ring"',
        )


def _ulysses_fits(config: Config, ranks: int) -> bool:
    """Can each tensor-parallel rank's heads be shared by ``ranks``?"""
    heads, kv_heads, tensor = config.model.num_heads, config.model.num_kv_heads, config.parallel.tensor
    if heads % kv_heads or not heads_fit(heads, kv_heads, tensor):
        return True  # that is another mistake
    if tensor > kv_heads:
        return heads_fit(heads // tensor, 1, ranks)
    each = {kv_heads // tensor, -(-kv_heads // tensor)}
    return all(heads_fit(heads // kv_heads * kv, kv, ranks) for kv in each)


def _check_pipeline(config: Config, say: Say) -> None:
    parallel = config.parallel
    if parallel.pipeline == 1:
        defaults = type(parallel)()
        for name in ("schedule", "layers", "chunks", "times", "memory"):
            if getattr(parallel, f"pipeline_{name}") != getattr(defaults, f"pipeline_{name}"):
                say(f"parallel.pipeline_{name}", "is for parallel.pipeline, which is 1; leave it out, or set that")
        return
    kind = parallel.pipeline_schedule
    for name, owner in (("chunks", "interleaved"), ("times", "searched"), ("memory", "searched")):
        field = f"pipeline_{name}"
        if kind != owner and getattr(parallel, field) != getattr(type(parallel)(), field):
            say(f"parallel.{field}", f'is for pipeline_schedule = "{owner}", which is "{kind}"; leave it out')
    if 0 < parallel.pipeline_memory < 1:
        say("parallel.pipeline_memory", "a rank holds at least one micro-batch of its part: 1 or more, or 0")
    each = {"interleaved": parallel.pipeline_chunks, "zb-v": 2, "searched": 2}.get(kind, 1)
    chunks, layers = each * parallel.pipeline, parallel.pipeline_layers
    if layers and len(layers) != chunks:
        say("parallel.pipeline_layers", f"has {len(layers)} numbers; {kind} on {parallel.pipeline} ranks has {chunks}")
    elif layers and sum(layers) != config.model.num_layers:
        say("parallel.pipeline_layers", f"add up to {sum(layers)}, model.num_layers is {config.model.num_layers}")
    elif layers and (idle := _rank_without_layers(layers, parallel.pipeline, v_shaped=kind in ("zb-v", "searched"))):
        say("parallel.pipeline_layers", f"leaves rank {idle} of the pipeline nothing to do; give it a layer")
    elif parallel.pipeline > config.model.num_layers:
        say(
            "parallel.pipeline",
            f"is more ranks than the model has layers; at most model.num_layers = {config.model.num_layers}",
        )


def _rank_without_layers(layers: list[int], ranks: int, *, v_shaped: bool) -> int | None:
    """The first rank whose pieces have no layer, and are neither the first nor the last (embedding, head)."""
    for rank in range(ranks):
        mine = {rank, 2 * ranks - 1 - rank} if v_shaped else set(range(rank, len(layers), ranks))
        if not any(layers[piece] for piece in mine) and not mine & {0, len(layers) - 1}:
            return rank
    return None


def heads_fit(num_heads: int, num_kv_heads: int, tensor: int) -> bool:
    """Can attention be shared by ``tensor`` ranks?

    Up to one rank a kv head any number fits, evenly or not; beyond it each kv head is copied to the same number of
    ranks, which share its query heads evenly.
    """
    if tensor <= num_kv_heads:
        return True
    return tensor % num_kv_heads == 0 and (num_heads // num_kv_heads) % (tensor // num_kv_heads) == 0


def _check_batch(config: Config, replicas: int, say: Say) -> None:
    train = config.train
    unit = train.micro_batch * replicas
    if train.global_batch % unit:
        below = train.global_batch // unit * unit
        near = " or ".join(str(n) for n in (below, below + unit) if n > 0)
        say(
            "train.global_batch",
            f"is no multiple of train.micro_batch x data-parallel ranks = {train.micro_batch} x {replicas} = {unit}; "
            f"nearest: {near}",
        )


def _check_zero(config: Config, say: Say) -> None:
    parallel, dtype = config.parallel, config.precision.dtype
    if parallel.zero >= 2 and parallel.pipeline > 1:
        say(
            "parallel.zero",
            f"would send every micro-batch's gradients of every piece of parallel.pipeline = {parallel.pipeline}; "
            "write 1, whose gradients travel once a step",
        )
    if parallel.gradient_dtype == "model" and dtype not in ("bf16", "fp16"):
        say(
            "parallel.gradient_dtype",
            f'is for precision.dtype = "bf16" or "fp16", which is "{dtype}"; leave it out',
        )


def _check_schedule(config: Config, say: Say) -> None:
    schedule, steps = config.schedule, config.train.steps
    if schedule.warmup_steps >= steps:
        say("schedule.warmup_steps", f"must be less than train.steps = {steps}; at most {steps - 1}")
    elif schedule.kind == "wsd":
        decay = round(schedule.decay_fraction * steps)  # as pyjpllm.training.schedule counts them
        if schedule.warmup_steps + decay > steps:
            most = math.floor((steps - schedule.warmup_steps) / steps * 1000) / 1000
            say(
                "schedule.decay_fraction",
                f"of train.steps = {steps} is {decay} steps, which do not fit after schedule.warmup_steps = "
                f"{schedule.warmup_steps}; at most {most:g}",
            )


def _check_engines(config: Config, say: Say) -> None:
    device, kernels, dtype = config.train.device, config.train.kernels, config.precision.dtype
    backend = config.parallel.backend
    if config.precision.math != "exact" and kernels != "native":
        say(
            "precision.math",
            'is computed by train.kernels = "native" alone; write "exact", or train.kernels = "native"',
        )
    elif config.precision.math == "fp16-chunk" and dtype != "fp16":
        say(
            "precision.math", f'is for precision.dtype = "fp16", which is "{dtype}"; write "exact", or change the dtype'
        )
    if config.precision.math != "fp16-chunk" and config.precision.math_chunk != 32:
        say(
            "precision.math_chunk",
            f'is for precision.math = "fp16-chunk", which is "{config.precision.math}"; leave it out',
        )
    if device == "cuda":
        if kernels != "torch":
            say("train.kernels", 'computes on the CPU; with train.device = "cuda" write "torch"')
        if backend not in ("auto", "nccl"):
            say("parallel.backend", 'moves no GPU memory; with train.device = "cuda" write "nccl" or "auto"')
        return
    if backend == "nccl":
        say("parallel.backend", 'is for GPUs; with train.device = "cpu" write "mpi4py" or "auto"')
    if kernels == "native" and dtype == "fp64":
        say("precision.dtype", 'is not computed by train.kernels = "native"; write "fp32", or train.kernels = "torch"')
    if kernels == "reference" and dtype in ("bf16", "fp16"):
        say("precision.dtype", 'is not computed by train.kernels = "reference"; write "fp32" or "fp64"')
    if config.precision.loss_scale > 0 and not math.log2(config.precision.loss_scale).is_integer():
        near = 2.0 ** round(math.log2(config.precision.loss_scale))
        say("precision.loss_scale", f"must be a power of two, so that it changes no bit; nearest: {near:g}")


def _check_intervals(config: Config, say: Say) -> None:
    checkpoint = config.checkpoint
    if checkpoint.keep_every:
        if checkpoint.interval == 0:
            say("checkpoint.keep_every", "keeps nothing while checkpoint.interval = 0 saves only the last step")
        elif checkpoint.keep_every % checkpoint.interval:
            below = checkpoint.keep_every // checkpoint.interval * checkpoint.interval
            near = " or ".join(str(n) for n in (below, below + checkpoint.interval) if n > 0)
            say(
                "checkpoint.keep_every",
                f"is no multiple of checkpoint.interval = {checkpoint.interval}; nearest: {near}",
            )
    if config.train.eval_interval and not config.data.valid:
        say("train.eval_interval", "needs held-out text: write data.valid, or set it to 0")


def _check_machine(config: Config, world_size: int, say: Say) -> None:
    if config.train.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            say("train.device", f'torch {torch.__version__} sees no GPU here; write "cpu"')
    if config.train.kernels == "native" and importlib.util.find_spec("pyjpllm._native") is None:
        say("train.kernels", 'the kernels are not built here; build them (pip install .) or write "torch"')
    engine = config.parallel.backend
    mpi = engine == "mpi4py" or (engine == "auto" and config.train.device == "cpu")
    if world_size > 1 and mpi and importlib.util.find_spec("mpi4py") is None:
        say("parallel.backend", "mpi4py is not installed (pip install mpi4py)")


def _missing_files(config: Config) -> Iterable[str]:
    for split, corpora in (("train", config.data.train), ("valid", config.data.valid)):
        for index, corpus in enumerate(corpora):
            yield from _missing_tokens(f"data.{split}.{index}.path", corpus)
    tokenizer = Path(config.data.tokenizer)
    if tokenizer.is_dir():
        if not (tokenizer / "tokenizer.model").is_file():
            yield f"data.tokenizer = {shown(str(tokenizer))}: no tokenizer.model in this folder{_models_in(tokenizer)}"
    elif not tokenizer.is_file():
        yield f"data.tokenizer = {shown(str(tokenizer))}: no such file or folder{nearest_path(tokenizer)}"
    if config.model.init_from is not None:
        folder = Path(config.model.init_from)
        if not folder.is_dir():
            yield f"model.init_from = {shown(str(folder))}: no such folder{nearest_path(folder)}"
        elif not (folder / "config.json").is_file():
            yield f"model.init_from = {shown(str(folder))}: no config.json there; it must be a Hugging Face folder"
        elif not any(folder.glob("*.safetensors")):
            yield f"model.init_from = {shown(str(folder))}: no .safetensors in this folder"
    copies = Path(config.checkpoint.copy_to)
    if copies.is_file():
        yield f"checkpoint.copy_to = {shown(str(copies))}: is a file; name a folder"


def _missing_tokens(field: str, corpus: Corpus) -> Iterable[str]:
    prefix = Path(corpus.path)
    where = f"{field} = {shown(corpus.path)}"
    if prefix.suffix in (".bin", ".idx") and prefix.is_file():
        yield f"{where}: is a file of the pair; write the prefix {shown(str(prefix.with_suffix('')))}"
        return
    pair = [Path(corpus.path + suffix) for suffix in (".bin", ".idx")]
    absent = [path for path in pair if not path.is_file()]
    if len(absent) == 1:
        yield f"{where}: {str(absent[0])!r} is missing beside its other half; encode the text again"
    elif absent:
        if prefix.is_dir():
            inside = sorted(str(path.with_suffix("")) for path in prefix.glob("*.idx"))
            hint = f"; did you mean {inside[0]!r}?" if inside else "; it holds no .idx"
            yield f"{where}: is a folder; write the prefix of .bin and .idx{hint}"
        else:
            hint = nearest_path(absent[1]).replace(".idx'", "'").replace(".bin'", "'")
            yield f"{where}: no such token files (.bin and .idx){hint}"


def _models_in(folder: Path) -> str:
    found = sorted(str(path) for path in folder.glob("*.model"))
    return f"; did you mean {found[0]!r}?" if found else ""


def _near(value: int, fitting: list[int]) -> str:
    below = [n for n in fitting if n < value]
    above = [n for n in fitting if n > value]
    near = [str(n) for n in (*below[-1:], *above[:1])]
    return f"nearest: {' or '.join(near)}" if near else "no number fits"


def _ranks(count: int) -> str:
    return f"{count} rank" if count == 1 else f"{count} ranks"
