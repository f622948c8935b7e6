"""Speed of encoding text into token files, and of the loader that reads them back.

    python benchmarks/encode.py TEXT... --tokenizer FOLDER [--workers 1 2 4] [--repeat 3]

Prints MB of UTF-8 text a second, best of the repeats. The libraries alone, on texts in memory and one thread, are timed
by CPU time, as is encode_files in one process (it reads and writes files); more workers and the loader by the clock.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece

from pyjpllm.config.schema import Config
from pyjpllm.corpus import expand_inputs, read_documents
from pyjpllm.data import Tokenizer, encode_files


def best(repeat: int, work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)


def alone(texts: list[str], tokenizer: Tokenizer) -> dict[str, Callable[[], Any]]:
    """What the libraries do by themselves, on one thread."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.model_path))
    ways: dict[str, Callable[[], Any]] = {
        "sentencepiece alone": lambda: [processor.EncodeAsIds(text) for text in texts],
        "Tokenizer.encode": lambda: [tokenizer.encode(text) for text in texts],
    }
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return ways
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_hf(folder)
        fast = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ways["transformers"] = lambda: [fast(text, add_special_tokens=False)["input_ids"] for text in texts]
    return ways


def loader_speed(prefix: Path, tokenizer: Tokenizer, length: int, steps: int) -> float:
    """Tokens a second that a loader gives out, batches of 64 sequences, one step ahead."""
    from pyjpllm.data import build_loader  # here, since the workers of encode_files import this file, but need no torch
    from pyjpllm.distributed.mesh import AXES, Mesh

    sizes = dict.fromkeys(("hidden_size", "head_dim", "intermediate_size"), 8)
    config = Config.model_validate(
        {
            "model": {**sizes, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1},
            "data": {
                "train": [{"path": str(prefix)}],
                "tokenizer": str(tokenizer.model_path),
                "sequence_length": length,
            },
            "train": {"steps": 1, "global_batch": 64, "micro_batch": 8},
        }
    )
    one = Mesh(dict.fromkeys(AXES, 1), dict.fromkeys(AXES, 0), None, None)
    loader = build_loader(config, one, tokenizer.vocab_size)
    loader.step(0)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        loader.step(step * 64)
    seconds = time.perf_counter() - started
    loader.close()
    return steps * 64 * length / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--length", type=int, default=2048)
    options = parser.parse_args()

    tokenizer = Tokenizer.load(options.tokenizer)
    files = expand_inputs(options.text)
    texts = [document.text for document in read_documents(files)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.1f} MB, vocabulary {tokenizer.vocab_size}")
    cpu = time.process_time
    for name, work in alone(texts, tokenizer).items():
        print(f"{name:<24}{megabytes / best(options.repeat, work, cpu):8.1f} MB/s of CPU time")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tokens"
        seconds = best(options.repeat, lambda: encode_files(files, tokenizer.model_path, out, workers=1), cpu)
        print(f"{'encode_files, itself':<24}{megabytes / seconds:8.1f} MB/s of CPU time")
        for workers in options.workers:
            seconds = best(options.repeat, lambda n=workers: encode_files(files, tokenizer.model_path, out, workers=n))
            print(f"{f'encode_files, {workers} workers':<24}{megabytes / seconds:8.1f} MB/s")
        stats = encode_files(files, options.tokenizer, out, workers=1)
        print(f"{stats.tokens} tokens, {stats.characters_per_token:.3f} characters a token")
        rate = loader_speed(out, tokenizer, options.length, steps=20)
        print(f"{'loader':<24}{rate / 1e6:8.1f} M tokens/s (sequences of {options.length})")


if __name__ == "__main__":
    main()
