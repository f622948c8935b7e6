"""The Llama family: RMSNorm, rotary embeddings, grouped-query attention, SwiGLU (Touvron et al., 2023).

B batch, S sequence, N = B*S tokens, D model width, H query heads and K kv heads of this rank, d head width,
V vocabulary, T positions in the cache. The residual stream is flat, x_ND; under sequence parallelism
a rank holds x_nD, its part of the tokens. Parallelism is all in the layers of `pyjpllm.parallel`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.checkpoint import checkpoint

from pyjpllm import ops
from pyjpllm.config.schema import ModelConfig
from pyjpllm.model.cache import KVCache
from pyjpllm.model.feed_forward import MLP
from pyjpllm.model.moe import MoE
from pyjpllm.model.remake import remade
from pyjpllm.parallel import (
    ColumnParallelLinear,
    ContextParallel,
    ExpertParallel,
    RMSNorm,
    RowParallelLinear,
    TensorParallel,
    VocabParallelEmbedding,
    gather_vocabulary,
    head_ranges,
    tp_input,
    vocab_parallel_cross_entropy,
    vocab_parallel_logits,
)
from pyjpllm.parallel.pipeline.parts import Part


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped heads; biases, head norms and a window where asked."""

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        *,
        tp: TensorParallel,
        context: ContextParallel,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.config, self.layer, self.context = config, layer, context
        D, d = config.hidden_size, config.head_dim
        heads = head_ranges(config.num_heads, config.num_kv_heads, tp)
        mine_q = (heads.q[0] * d, heads.q[1] * d)
        mine_kv = (heads.kv[0] * d, heads.kv[1] * d)

        def projection(outputs: int, mine: tuple[int, int], copies: int) -> ColumnParallelLinear:
            return ColumnParallelLinear(
                D, outputs, tp=tp, bias=config.qkv_bias, out_range=mine, copies=copies, dtype=dtype, device=device
            )

        self.q = projection(config.num_heads * d, mine_q, 1)
        self.k = projection(config.num_kv_heads * d, mine_kv, heads.kv_copies)
        self.v = projection(config.num_kv_heads * d, mine_kv, heads.kv_copies)
        self.o = RowParallelLinear(
            config.num_heads * d, D, tp=tp, bias=config.out_bias, in_range=mine_q, dtype=dtype, device=device
        )
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if config.qk_norm:
            self.q_norm = RMSNorm(d, config.norm_eps, tp=tp, per_head=True, dtype=dtype, device=device)
            self.k_norm = RMSNorm(d, config.norm_eps, tp=tp, per_head=True, dtype=dtype, device=device)

    def forward(
        self, x_ND: Tensor, positions_BS: Tensor, document_ids_BS: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        config = self.config
        shape_BSHd = (*positions_BS.shape, -1, config.head_dim)
        q_BSHd = self.q(x_ND).view(shape_BSHd)
        k_BSKd = self.k(x_ND).view(shape_BSHd)
        v_BSKd = self.v(x_ND).view(shape_BSHd)
        if self.q_norm is not None and self.k_norm is not None:
            q_BSHd, k_BSKd = self.q_norm(q_BSHd), self.k_norm(k_BSKd)
        q_BSHd, k_BSKd = ops.rotary(q_BSHd, k_BSKd, positions_BS, config.rope_theta, config.rope_scaling)
        if cache is None:
            out_BSHd = self.context.attention(
                q_BSHd, k_BSKd, v_BSKd, document_ids_Bs=document_ids_BS, window=config.sliding_window
            )
        else:  # every context-parallel rank generates the whole text
            k_BSKd, v_BSKd = cache.append(self.layer, k_BSKd, v_BSKd)
            out_BSHd = ops.attention(q_BSHd, k_BSKd, v_BSKd, window=config.sliding_window)
        out_nD: Tensor = self.o(out_BSHd.reshape(x_ND.shape[0], -1))
        return out_nD


class Block(nn.Module):
    """``x += attention(norm(x)); x += mlp(norm(x))``; a mixture of experts is an mlp, too."""

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        *,
        tp: TensorParallel,
        context: ContextParallel,
        ep: ExpertParallel,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.tp = tp
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps, tp=tp, dtype=dtype, device=device)
        self.attention = Attention(config, layer, tp=tp, context=context, dtype=dtype, device=device)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps, tp=tp, dtype=dtype, device=device)
        self.mlp: MLP | MoE
        D, F, moe = config.hidden_size, config.intermediate_size, config.moe
        if moe is not None and moe.is_sparse(layer):
            self.mlp = MoE(D, moe, tp=tp, ep=ep, dtype=dtype, device=device)
        else:
            self.mlp = MLP(D, F, tp=tp, bias=config.mlp_bias, dtype=dtype, device=device)

    def forward(
        self,
        x_nD: Tensor,
        positions_BS: Tensor,
        document_ids_BS: Tensor | None,
        cache: KVCache | None = None,
        remake: bool = False,
    ) -> Tensor:
        tokens = positions_BS.numel()
        normed_nD = self.attention_norm(x_nD)
        with self._sent(normed_nD, x_nD, self.attention_norm, tokens, remake) as normed_ND:
            update_nD: Tensor = self.attention(normed_ND, positions_BS, document_ids_BS, cache)
        x_nD, normed_nD = self.mlp_norm.of_sum(x_nD, update_nD)
        with self._sent(normed_nD, x_nD, self.mlp_norm, tokens, remake) as normed_ND:
            if isinstance(self.mlp, MoE):
                update_nD = self.mlp(normed_ND, positions_BS.shape[0], remake)
            else:
                update_nD = self.mlp(normed_ND, remake)
        return x_nD + update_nD

    @contextmanager
    def _sent(self, normed_nD: Tensor, x_nD: Tensor, norm: RMSNorm, tokens: int, remake: bool) -> Iterator[Tensor]:
        """The norm of x as the layers read it; under sequence parallelism it has been sent, and is kept."""
        normed_ND = tp_input(normed_nD, self.tp, tokens)
        with remade(normed_ND, lambda: norm(x_nD)) if remake and not self.tp.sequence else nullcontext():
            yield normed_ND


class Transformer(nn.Module):
    """A decoder of the Llama family, this rank's part of it; weights are empty until `initialize` or a file fills them.

    Args:
        config: the shape; ``vocab_size`` must be set.
        tp: the tensor-parallel ranks that share the weights.
        ep: the ranks that share the experts.
        dtype: of weights and activations.
        device: where; ``meta`` holds shapes only.
        parts: the pieces of the model that this rank has, as chunks of a pipeline; None: all of it. Parameters have
            the names that they have in the whole model.
        tied_group: the pipeline ranks with the first and the last part, where they are two and the embedding is tied:
            each holds the embedding, and their gradients are summed.
        context: the ranks that share each sequence: S is then this rank's tokens of it, everywhere but in generation.

    Attributes:
        activation_checkpointing: "full" keeps only the input of each block and computes the block again in backward;
            "cheap" makes only the outputs of norms and SwiGLU again; "none" keeps all.
        gathered_dtype: with ZeRO-3 (`pyjpllm.parallel.sharded`) the type in which a block's weights are gathered while
            it computes; None: all weights are here.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        tp: TensorParallel | None = None,
        ep: ExpertParallel | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        parts: Sequence[Part] | None = None,
        tied_group: dist.ProcessGroup | None = None,
        context: ContextParallel | None = None,
    ) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError("model.vocab_size is 0: set it to the tokenizer's size first")
        self.config = config
        self.tp = tp = TensorParallel() if tp is None else tp
        self.context = context = ContextParallel() if context is None else context
        self.ep = ep = ExpertParallel() if ep is None else ep
        self.activation_checkpointing: Literal["none", "cheap", "full"] = "cheap"
        self.gathered_dtype: torch.dtype | None = None
        self.parts = (Part.whole(config.num_layers),) if parts is None else tuple(parts)
        V, D = config.vocab_size, config.hidden_size
        first, last = (any(ends) for ends in zip(*((part.first, part.last) for part in self.parts), strict=True))
        self.embedding: VocabParallelEmbedding | None = None
        if first or (last and config.tie_embeddings):
            copies = 1 if (first and last) or not config.tie_embeddings else 2
            group = tied_group if copies == 2 else None
            self.embedding = VocabParallelEmbedding(
                V, D, tp=tp, copies=copies, grad_group=group, dtype=dtype, device=device
            )
        layers = [layer for part in self.parts for layer in range(part.start, part.stop)]
        self.blocks = nn.ModuleDict(
            {
                str(layer): Block(config, layer, tp=tp, context=context, ep=ep, dtype=dtype, device=device)
                for layer in layers
            }
        )
        self.norm: RMSNorm | None = None
        self.head: ColumnParallelLinear | None = None
        if last:
            self.norm = RMSNorm(D, config.norm_eps, tp=tp, dtype=dtype, device=device)
            if not config.tie_embeddings:
                self.head = ColumnParallelLinear(D, V, tp=tp, dtype=dtype, device=device)

    @property
    def head_weight_vD(self) -> Tensor:
        """This rank's rows of the output head: the embedding's where they are tied."""
        if self.head is not None:
            return self.head.weight
        assert self.embedding is not None, "this rank has not the last part of the model"
        return self.embedding.weight

    def moe_layers(self) -> dict[int, MoE]:
        """This rank's mixtures of experts, by the number of their layer."""
        return {int(name): block.mlp for name, block in self.blocks.items() if isinstance(block.mlp, MoE)}

    def names_of(self, part: Part) -> set[str]:
        """The names of the parameters that one of this rank's parts uses."""

        def used(name: str) -> bool:
            room, rest = name.split(".", 1)
            if room == "blocks":
                return part.start <= int(rest.split(".")[0]) < part.stop
            if room == "embedding":
                return part.first or (part.last and self.head is None)
            return part.last

        return {name for name, _ in self.named_parameters() if used(name)}

    def reading_order(self) -> Iterator[tuple[nn.Module, set[str]]]:
        """The modules that forward calls, in its order, each with the names of the parameters that are read from its
        call on until the next one's."""
        rooms: dict[str, nn.Module] = {f"blocks.{layer}": block for layer, block in self.blocks.items()}
        if self.embedding is not None:
            rooms = {"embedding": self.embedding, **rooms}
        if self.norm is not None:
            rooms["norm"] = self.norm
        for room, module in rooms.items():
            names = {f"{room}.{name}" for name, _ in module.named_parameters()}
            if room == "norm":  # the loss follows it, which reads the head's weight and calls no module
                names.add("embedding.weight" if self.head is None else "head.weight")
            yield module, names

    def linear_weights(self) -> Iterator[Tensor]:
        """This rank's weights of all linear layers that stay where they are, the head's last."""
        if self.gathered_dtype is not None:
            return
        for module in self.modules():
            if isinstance(module, (ColumnParallelLinear, RowParallelLinear)) and module is not self.head:
                yield module.weight
        if self.norm is not None:
            yield self.head_weight_vD

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(
        self,
        tokens_BS: Tensor,
        *,
        positions_BS: Tensor | None = None,
        document_ids_BS: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Token ids -> hidden_ND after the last norm (this rank's tokens under sequence parallelism).

        Positions default to 0, 1, ... of each row, from ``cache.length`` on with a cache. Tokens attend within their
        document only, where document ids are given; a cache takes none.
        """
        if cache is not None and document_ids_BS is not None:
            raise ValueError("a key-value cache holds one document a row: document ids cannot be given with it")
        if positions_BS is None:
            if cache is None and self.context.size > 1:
                raise ValueError("a rank that has a part of the tokens needs their positions (ContextParallel.take)")
            start = 0 if cache is None else cache.length
            positions_S = torch.arange(start, start + tokens_BS.shape[1], device=tokens_BS.device)
            positions_BS = positions_S.expand(tokens_BS.shape)
        (part,) = self.parts
        x_nD = self.through(part, None, tokens_BS, positions_BS, document_ids_BS, cache)
        if cache is not None:
            cache.advance(tokens_BS.shape[1])
        return x_nD

    def through(
        self,
        part: Part,
        x_nD: Tensor | None,
        tokens_BS: Tensor,
        positions_BS: Tensor,
        document_ids_BS: Tensor | None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """One of this rank's parts: the residual stream of the part before (None for the first, which starts from the
        tokens) -> that after this part's layers, and after the last norm in the last."""
        if x_nD is None:
            assert self.embedding is not None, "this rank has not the first part of the model"
            x_nD = self.embedding(tokens_BS)
        for layer in range(part.start, part.stop):
            block = self.blocks[str(layer)]
            if self.activation_checkpointing == "full" and torch.is_grad_enabled() and cache is None:
                x_nD = checkpoint(
                    block, x_nD, positions_BS, document_ids_BS, use_reentrant=False, preserve_rng_state=False
                )
            else:
                remake = self.activation_checkpointing == "cheap"
                x_nD = block(x_nD, positions_BS, document_ids_BS, cache, remake)
        if part.last:
            assert self.norm is not None
            x_nD = self.norm(x_nD)
        assert x_nD is not None
        return x_nD

    def loss(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor,
        *,
        positions_BS: Tensor | None = None,
        document_ids_BS: Tensor | None = None,
        z_loss: float = 0.0,
    ) -> ops.CrossEntropy:
        """Cross-entropy summed over all tokens of the batch whose target is not -100, equal on all tp ranks."""
        hidden_nD = self(tokens_BS, positions_BS=positions_BS, document_ids_BS=document_ids_BS)
        return self.loss_of(hidden_nD, targets_BS, z_loss=z_loss)

    def loss_of(self, hidden_nD: Tensor, targets_BS: Tensor, *, z_loss: float = 0.0) -> ops.CrossEntropy:
        """The loss as in `loss`, of what the last part gives."""
        return vocab_parallel_cross_entropy(
            hidden_nD, self.head_weight_vD, targets_BS, tp=self.tp, vocab_size=self.config.vocab_size, z_loss=z_loss
        )

    def logits(self, hidden_nD: Tensor, *, num_tokens: int | None = None) -> Tensor:
        """Whole logits_NV on every tp rank. ``num_tokens`` is N, needed under sequence parallelism only."""
        if num_tokens is None:
            if self.tp.sequence:
                raise ValueError("under sequence parallelism logits() needs num_tokens: a rank cannot tell N from n")
            num_tokens = hidden_nD.shape[0]
        return vocab_parallel_logits(
            hidden_nD, self.head_weight_vD, tp=self.tp, vocab_size=self.config.vocab_size, num_tokens=num_tokens
        )

    def next_logits(self, tokens_BS: Tensor, cache: KVCache) -> Tensor:
        """Read the tokens into the cache; logits_BV of what comes after the last, whole on every tp rank."""
        return self.last_logits(self(tokens_BS, cache=cache), tokens_BS)

    def last_logits(self, hidden_nD: Tensor, tokens_BS: Tensor) -> Tensor:
        """logits_BV of what comes after each row's last token, of what the last part gives; whole on every tp rank."""
        hidden_ND = tp_input(hidden_nD, self.tp, tokens_BS.numel())
        last_BD = hidden_ND.view(*tokens_BS.shape, -1)[:, -1]
        logits_Bv = ops.linear(last_BD, self.head_weight_vD)
        # Ranks that share experts read the same text together, and must go on alike.
        return self.ep.of_first(gather_vocabulary(logits_Bv, self.tp, self.config.vocab_size))

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for ``batch`` rows of up to ``capacity`` positions, of this rank's layers and kv heads."""
        kv = head_ranges(self.config.num_heads, self.config.num_kv_heads, self.tp).kv
        weight = next(self.parameters())
        return KVCache(
            [int(layer) for layer in self.blocks],
            batch,
            capacity,
            kv[1] - kv[0],
            self.config.head_dim,
            dtype=self.gathered_dtype or weight.dtype,
            device=weight.device,
        )
