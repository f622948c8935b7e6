"""Held-out loss during a run, and the text the model writes at that moment."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyjpllm.config.schema import Config
from pyjpllm.data import Loader, Tokenizer
from pyjpllm.distributed.collectives import all_reduce
from pyjpllm.distributed.mesh import Mesh
from pyjpllm.model import Reader, Transformer, generate
from pyjpllm.training.pipeline import Pipeline
from pyjpllm.training.step import sum_losses


class Validation:
    """Evaluates on the first ``train.eval_batches`` global batches of ``data.valid``, always the same ones."""

    def __init__(
        self,
        config: Config,
        loader: Loader,
        tokenizer: Tokenizer,
        mesh: Mesh,
        device: torch.device,
        pipeline: Pipeline | None = None,
    ) -> None:
        self.loader, self.mesh, self.device, self.pipeline = loader, mesh, device, pipeline
        batch = config.train.global_batch
        self.starts = range(0, min(loader.num_samples, config.train.eval_batches * batch), batch)
        self.token_bytes = torch.tensor(tokenizer.token_bytes(), dtype=torch.float64)

    def run(self, model: Transformer) -> dict[str, float]:
        """``valid_loss`` (nats a token) and ``valid_bits_per_byte``, the same on all ranks."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        for start in self.starts:
            batches = self.loader.step(start)
            if self.pipeline is None:
                totals[:2] += sum_losses(model, batches, self.device)
            else:
                totals[:2] += self.pipeline.sum_losses(model, batches, self.device)
            if self.pipeline is None or self.pipeline.has_end:
                totals[2] += sum(self._bytes(batch.targets_BS) for batch in batches)
        all_reduce(totals, self.mesh.group("replicas"))
        all_reduce(totals, self.mesh.group("pp"))
        loss, tokens, size = totals.tolist()
        if not tokens:
            return {}
        return {"valid_loss": loss / tokens, "valid_bits_per_byte": loss / math.log(2) / max(1.0, size)}

    def _bytes(self, targets_BS: Tensor) -> float:
        valid = targets_BS[targets_BS >= 0].cpu()
        return float(self.token_bytes[valid].sum())


def write_samples(model: Reader, tokenizer: Tokenizer, config: Config) -> list[tuple[str, str]]:
    """(prompt, continuation) for every ``log.sample_prompts``; the ranks that share a model call it together."""
    samples = []
    for prompt in config.log.sample_prompts:
        ids = tokenizer.encode(prompt)
        out = generate(
            model,
            ids,
            max_new_tokens=config.log.sample_tokens,
            temperature=0.8,
            top_p=0.95,
            seed=config.train.seed,
            eos_id=tokenizer.eos_id,
        )
        samples.append((prompt, tokenizer.continuation(ids, out)))
    return samples
