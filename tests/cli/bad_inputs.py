"""Mistakes a user makes, and what must be said about each: one line, the field, and the nearest right thing.

A case: its name, edits of the config's text, further words on the command line, and for every line that must come out
the parts it must have.
"""

from __future__ import annotations

from typing import NamedTuple


class Bad(NamedTuple):
    name: str
    edits: tuple[tuple[str, str], ...]
    words: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def text(name: str, old: str, new: str, *parts: str) -> Bad:
    """A mistake in the file."""
    return Bad(name, ((old, new),), (), (("run.toml", *parts),))


def word(name: str, override: str, *parts: str) -> Bad:
    """A mistake in an override."""
    return Bad(name, (), (override,), (parts,))


LAST = "eval_interval = 50\n"
MISSPELT = (
    text("section", "[optimizer]", "[optimzer]", ":10:", "[optimzer]", "no such section", "did you mean 'optimizer'"),
    text("required section", "[train]", "[trian]", ":16:", "did you mean 'train'"),
    text("section, short", "[schedule]", "[sched]", "did you mean 'schedule'"),
    text("section, unlike any", "[optimizer]", "[zzzzzz]", "allowed: model, data, precision"),
    text("section, capital", "[optimizer]", "[Optimizer]", "did you mean 'optimizer'"),
    text("key", "lr = 1e-3", "lrr = 1e-3", ":11:", "optimizer.lrr = 0.001", "did you mean 'optimizer.lr'"),
    text("required key", "steps = 100", "setps = 100", "train.setps = 100", "did you mean 'train.steps'"),
    text("key with hyphen", "global_batch", "global-batch", "train.global-batch", "did you mean 'train.global_batch'"),
    text("key of another section", "steps = 100", "steps = 100\nlr = 1", "train.lr = 1", "did you mean 'optimizer.lr'"),
    text("key of data in train", LAST, "sequence_length = 3", "train.sequence_length", "'data.sequence_length'"),
    text("key of precision in model", "[model]", "[model]\ndtype = 'bf16'", "model.dtype", "'precision.dtype'"),
    text("others' name: batch_size", LAST, "batch_size = 3", "train.batch_size = 3", "'train.global_batch'"),
    text("others' name: learning_rate", "lr = 1e-3", "learning_rate = 1e-3", "'optimizer.lr'"),
    text("others' name: d_model", "[model]", "[model]\nd_model = 3", "model.d_model", "'model.hidden_size'"),
    text("others' name: n_layer", "[model]", "[model]\nn_layer = 3", "'model.num_layers'"),
    text("others' name: seq_len", "sequence_length", "seq_len", "data.seq_len = 128", "'data.sequence_length'"),
    text("others' name: fp16", LAST, "fp16 = true", "'precision.dtype'"),
    text("key above all sections", "[model]", "lr = 3\n[model]", ":1:", "lr = 3", "did you mean 'optimizer.lr'"),
    text("key unlike any", "lr = 1e-3", "qqqqqq = 1", "optimizer.qqqqqq", "allowed in optimizer: lr, beta1"),
    text(
        "key of a corpus", "weight = 9", "wieght = 9", "data.train.0.wieght = 9", "did you mean 'data.train.0.weight'"
    ),
    text(
        "key of a nested table",
        LAST,
        "[model.rope_scaling]\nkind='linear'\nfactor=2\nfactr=3",
        "'model.rope_scaling.factor'",
    ),
    text("nested table", LAST, "[model.rope_scalin]\nfactor=2", "did you mean 'model.rope_scaling'"),
)
TYPES = (
    text(
        "text for whole number",
        "steps = 100",
        'steps = "100"',
        'train.steps = "100"',
        "whole number",
        "did you mean 100",
    ),
    text("number for whole number", "steps = 100", "steps = 1e2", "train.steps = 100.0", "did you mean 100?"),
    text("fraction for whole number", "steps = 100", "steps = 1.5", "train.steps = 1.5", "must be a whole number"),
    text("flag for whole number", "steps = 100", "steps = true", "train.steps = true", "must be a whole number"),
    text(
        "text for number", "lr = 1e-3", 'lr = "1e-3"', 'optimizer.lr = "1e-3"', "must be a number", "did you mean 0.001"
    ),
    text("flag for number", "lr = 1e-3", "lr = true", "optimizer.lr = true", "must be a number"),
    text("number for text", 'tokenizer = "tokenizer"', "tokenizer = 7", "data.tokenizer = 7", 'did you mean "7"'),
    text("text for flag", LAST, '[log]\ntensorboard = "yes"', 'log.tensorboard = "yes"', "did you mean true?"),
    text("number for flag", LAST, "[log]\ntensorboard = 0", "log.tensorboard = 0", "did you mean false?"),
    text(
        "text for list of tables",
        'valid = [{path = "tokens/heldout"}]',
        'valid = "tokens/heldout"',
        "data.valid",
        '[{path = "tokens/heldout"}]',
    ),
    text(
        "texts for tables",
        'valid = [{path = "tokens/heldout"}]',
        'valid = ["tokens/heldout"]',
        "data.valid.0",
        "must be a table",
    ),
    text("text for list of texts", LAST, '[log]\nsample_prompts = "昔々"', "log.sample_prompts", '["昔々"]'),
    text("number in list of texts", LAST, "[log]\nsample_prompts = [1]", "log.sample_prompts.0 = 1", "text in quotes"),
    text("value for section", "[model]", "log = 3\n[model]", "log = 3", "must be a table"),
    text("value for nested table", LAST, "[model]", "not valid TOML"),
    text(
        "number for choice", LAST, "[precision]\ndtype = 16", "precision.dtype = 16", "allowed: fp32, bf16, fp16, fp64"
    ),
    text("date for text", 'tokenizer = "tokenizer"', "tokenizer = 2024-01-01", "data.tokenizer", "text in quotes"),
    text("list for number", "lr = 1e-3", "lr = [1e-3]", "optimizer.lr", "must be a number"),
)
RANGES = (
    text("zero steps", "steps = 100", "steps = 0", "train.steps = 0", "at least 1"),
    text("negative steps", "steps = 100", "steps = -5", "train.steps = -5", "at least 1"),
    text("negative rate", "lr = 1e-3", "lr = -1e-3", "optimizer.lr = -0.001", "greater than 0"),
    text("rate is not a number", "lr = 1e-3", "lr = nan", "optimizer.lr = nan", "finite number"),
    text("endless rate", "lr = 1e-3", "lr = inf", "optimizer.lr = inf", "finite number"),
    text("beta of one", "lr = 1e-3", "beta2 = 1.0", "optimizer.beta2 = 1.0", "less than 1"),
    text("eps too large", "lr = 1e-3", "eps = 1e-6", "optimizer.eps = 1e-06", "less than 1e-06"),
    text("fraction above one", "warmup_steps = 10", "decay_fraction = 1.5", "schedule.decay_fraction", "at most 1"),
    text("negative warm-up", "warmup_steps = 10", "warmup_steps = -1", "schedule.warmup_steps = -1", "at least 0"),
    text(
        "odd head_dim", "[model]", "[model]\nhead_dim = 33", "model.head_dim = 33", "multiple of 2; nearest: 32 or 34"
    ),
    text(
        "no corpora",
        'train = [{path = "tokens/web", weight = 9}, {path = "tokens/wiki"}]',
        "train = []",
        "data.train",
        "at least one",
    ),
    text("weight of zero", "weight = 9", "weight = 0", "data.train.0.weight = 0", "greater than 0"),
    text("data below -1", LAST, "[parallel]\ndata = -2", "parallel.data = -2", "at least -1"),
    text("choice", LAST, '[precision]\ndtype = "bf61"', 'precision.dtype = "bf61"', 'did you mean "bf16"', "fp64"),
    text("choice, long name", LAST, '[precision]\ndtype = "bfloat16"', 'did you mean "bf16"'),
    text("choice, capital", LAST, 'device = "CPU"', 'train.device = "CPU"', 'did you mean "cpu"'),
    text("choice unlike any", LAST, 'device = "gpu:0"', "train.device", 'did you mean "cuda"', "allowed: cpu, cuda"),
    text("preset", '"tiny"', '"tinny"', 'model.preset = "tinny"', 'did you mean "tiny"', "13b"),
    text("preset, other size", '"tiny"', '"7B"', 'did you mean "7b"'),
    text("preset is a number", '"tiny"', "7", "model.preset = 7", "text in quotes"),
)
MISSING = (
    text("steps", "steps = 100\n", "", "train.steps is missing", "Optimizer steps", "whole number"),
    text("tokenizer", 'tokenizer = "tokenizer"\n', "", "data.tokenizer is missing"),
    text("path of a corpus", '{path = "tokens/wiki"}', "{weight = 1}", "data.train.1.path is missing"),
    text("model", '[model]\npreset = "tiny"\n', "", "model.preset is missing", 'preset = "tiny"', "13b"),
    text(
        "sizes",
        'preset = "tiny"',
        "hidden_size = 64\nnum_layers = 2\nnum_heads = 4",
        "model.intermediate_size is missing",
    ),
    text(
        "kind of scaling",
        LAST,
        "[model.rope_scaling]\nfactor = 2",
        "model.rope_scaling.kind is missing",
        "linear, llama3",
    ),
)
DIVIDE = (
    text("batch", "global_batch = 8", "global_batch = 9", "train.global_batch = 9", "nearest: 8 or 10"),
    text("batch below micro-batch", "micro_batch = 2", "micro_batch = 16", "train.global_batch = 8", "nearest: 16"),
    text(
        "width by heads",
        'preset = "tiny"',
        "hidden_size = 100\nnum_layers = 2\nnum_heads = 3\nintermediate_size = 9",
        "model.hidden_size = 100",
        "nearest: 96 or 102",
    ),
    text(
        "width beside a preset",
        "[model]",
        "[model]\nhidden_size = 129",
        "model.hidden_size = 129",
        "nearest: 128 or 136",
    ),
    text("kv heads", "[model]", "[model]\nnum_kv_heads = 3", "model.num_kv_heads = 3", "nearest: 2 or 4"),
    text("ranks by tensor", LAST, "[parallel]\ntensor = 2", "parallel.tensor = 2", "1 rank; nearest: 1"),
    text("ranks", LAST, "[parallel]\ndata = 4", "parallel.data = 4", "the job has 1 rank", "mpirun -n 4"),
    text("sequence parallel alone", LAST, "[parallel]\nsequence = true", "parallel.sequence = true", "parallel.tensor"),
    text(
        "warm-up longer than the run",
        "warmup_steps = 10",
        "warmup_steps = 100",
        "schedule.warmup_steps = 100",
        "at most 99",
    ),
    text(
        "warm-up and decay", "warmup_steps = 10", "warmup_steps = 95", "schedule.decay_fraction = 0.1", "at most 0.05"
    ),
    text("length", "sequence_length = 128", "sequence_length = 4096", "data.sequence_length = 4096", "at most 2048"),
    text(
        "keep_every",
        LAST,
        "[checkpoint]\ninterval = 100\nkeep_every = 150",
        "checkpoint.keep_every = 150",
        "100 or 200",
    ),
    text(
        "evaluation of nothing", 'valid = [{path = "tokens/heldout"}]\n', "", "train.eval_interval = 50", "data.valid"
    ),
    text("engine of another device", LAST, '[parallel]\nbackend = "nccl"', "parallel.backend", '"mpi4py"'),
    text("native in FP64", LAST, 'kernels = "native"\n[precision]\ndtype = "fp64"', "precision.dtype", '"fp32"'),
)
FILES = (
    text("tokens", "tokens/web", "tokens/wep", 'data.train.0.path = "tokens/wep"', "did you mean 'tokens/web'"),
    text("held-out tokens", "tokens/heldout", "tokens/held", "data.valid.0.path", "did you mean 'tokens/heldout'"),
    text("tokens with suffix", "tokens/web", "tokens/web.bin", "write the prefix", "tokens/web"),
    text("folder of tokens", "tokens/web", "tokns/web", "data.train.0.path", "did you mean 'tokens'"),
    text("tokenizer's folder", '"tokenizer"', '"tokeniser"', "data.tokenizer", "did you mean 'tokenizer'"),
    text("tokenizer in a folder", '"tokenizer"', '"tokens"', "data.tokenizer", "no tokenizer.model"),
    text(
        "folder to start from",
        'preset = "tiny"',
        'init_from = "lama"',
        'model.init_from = "lama"',
        "did you mean 'llama'",
    ),
)
SYNTAX = (
    text("no equals sign", "steps = 100", "steps 100", ":17:", "not valid TOML", "'steps 100'"),
    text("no quotes", '"tiny"', "tiny", ":2:", "not valid TOML", "preset = tiny"),
    text("open string", '"tiny"', '"tiny', ":2:", "not valid TOML"),
    text("key twice", "steps = 100", "steps = 100\nsteps = 3", ":18:", "written twice"),
    text("section twice", "[schedule]", "[optimizer]", ":13:", "not valid TOML: declared twice in '[optimizer]'"),
    text("open list", LAST, "x = [1,", "not valid TOML"),
)
OVERRIDES = (
    word("no equals sign", "train.steps", "'train.steps'", "section.key=value", "did you mean 'train.steps=...'"),
    word("key", "optimizer.lrr=3", "'optimizer.lrr=3'", "did you mean 'optimizer.lr'"),
    word("section", "optimzer.lr=3", "'optimzer.lr=3'", "did you mean 'optimizer"),
    word("no section", "lr=3", "'lr=3'", "did you mean 'optimizer.lr'"),
    word("section only", "train=3", "'train=3'", "section.key=value", "train.steps="),
    word("empty name", "train.=3", "'train.=3'", "a name is missing"),
    word("no name", "=3", "'=3'", "a name is missing"),
    word("type", "train.steps=many", "'train.steps=many'", "must be a whole number"),
    word("empty value", "train.steps=", "'train.steps='", "must be a whole number"),
    word("flag, capital", "log.tensorboard=True", "'log.tensorboard=True'", "did you mean true?"),
    word("range", "train.steps=0", "'train.steps=0'", "at least 1"),
    word("choice", "schedule.kind=WSD", "'schedule.kind=WSD'", 'did you mean "wsd"'),
    word("list", "data.train=[{path='x'}", "data.train=", "not valid TOML"),
    word("place in a list", "data.train.7.weight=2", "'data.train.7.weight=2'", "data.train has no entry 7"),
    word("below a value", "train.steps.x=2", "'train.steps.x=2'", "has no entry 'x'"),
    word("preset", "model.preset=tinny", "'model.preset=tinny'", 'did you mean "tiny"'),
    Bad("twice", (), ("train.steps=3", "train.steps=4"), (("'train.steps=4'", "twice", "'train.steps=3'"),)),
    Bad("whole and part", (), ("train={steps=1}", "train.steps=4"), (("train.steps is given twice",),)),
    word(
        "nested key",
        "model.rope_scaling={kind='linear',facto=3}",
        "model.rope_scaling.facto",
        "'model.rope_scaling.factor'",
    ),
    word(
        "part of a table",
        "model.rope_scaling.factor=8",
        "model.rope_scaling.factor=8'",
        "model.rope_scaling.kind is missing",
    ),
)
SEVERAL = (
    Bad(
        "three in the file",
        (("lr = 1e-3", "lr = -1\nbeta3 = 0.9"), ("steps = 100", 'steps = "x"')),
        (),
        (("optimizer.lr = -1",), ("optimizer.beta3", "'optimizer.beta"), ("train.steps",)),
    ),
    Bad(
        "file and override",
        (("lr = 1e-3", "lr = -1"),),
        ("train.step=4", "trian.steps"),
        (("'trian.steps'", "section.key=value"), ("'train.step=4'", "'train.steps'"), ("optimizer.lr = -1",)),
    ),
    Bad(
        "two that do not divide",
        (("global_batch = 8", "global_batch = 9"), ("warmup_steps = 10", "warmup_steps = 1000")),
        (),
        (("train.global_batch = 9",), ("schedule.warmup_steps = 1000",)),
    ),
)
BAD = {
    f"{group}: {bad.name}": bad
    for group, cases in (
        ("misspelt", MISSPELT),
        ("type", TYPES),
        ("range", RANGES),
        ("missing", MISSING),
        ("sizes", DIVIDE),
        ("file", FILES),
        ("syntax", SYNTAX),
        ("override", OVERRIDES),
        ("several", SEVERAL),
    )
    for bad in cases
}
