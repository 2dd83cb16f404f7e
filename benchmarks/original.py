"""Baseline with the method of the original implementation: our speeds are ratios to it.

A plain Qwen2 with repeated inputs, prefixes at the start of the KV cache, and n zero queries so that a plain causal
mask is correct.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from scalelab.model.banks import active_bank, attention_modules


class PrefixLayer(DynamicLayer):
    """A cache layer that starts with the prefix, and joins all it holds with each new token."""

    def __init__(self, bank: nn.Module, rows: int) -> None:
        super().__init__()
        P, _, self.n, _ = bank.prefix_k.shape
        self.prefix = [prefix.repeat_interleave(rows // P, dim=0) for prefix in (bank.prefix_k, bank.prefix_v)]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = self.prefix
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] - self.n if self.is_initialized else 0


def zero_queries(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """As many zero queries as there are more keys than queries; their output is dropped."""
    n = key.shape[2] - query.shape[2]
    if query.shape[2] > 1 and n > 0:
        query = torch.cat([query.new_zeros(*query.shape[:2], n, query.shape[3]), query], dim=2)
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)[0][:, n:], None
    if module.config.repeats_heads:
        key, value = (repeat_kv(x, module.num_key_value_groups) for x in (key, value))
        output = F.scaled_dot_product_attention(query, key, value, scale=kwargs["scaling"])
        return output.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, None, **kwargs)


AttentionInterface.register("zero_queries", zero_queries)
AttentionMaskInterface.register("zero_queries", sdpa_mask)


class Baseline(nn.Module):
    """The original's way with P streams, on the weights of `model`."""

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        super().__init__()
        self.plain = Qwen2ForCausalLM(Qwen2Config(**settings)).to(model.device).eval()
        own = dict(model.named_parameters())
        self.plain.load_state_dict({name: own[name] for name, _ in self.plain.named_parameters()}, assign=True)
        self.plain.set_attn_implementation("zero_queries")
        self.plain.config.repeats_heads = False  # as transformers did at each token when the original was written
        self.P = model.P
        self.banks = [active_bank(module) for module in attention_modules(model.model)] if model.P > 1 else []
        self.aggregator = model.model.aggregator
        self.smooth = model.config.parscale_attn_smooth

    def make_cache(self, rows: int) -> DynamicCache:
        cache = DynamicCache()
        cache.layers = [PrefixLayer(bank, rows) for bank in self.banks]
        return cache

    def forward(
        self, ids: Tensor, cache: DynamicCache | None = None, labels: Tensor | None = None, keep: int = 0
    ) -> Tensor:
        """Logits [B, T, vocab], those of the last `keep` where it is not 0; the loss where there are labels."""
        ids = ids.repeat(self.P, 1)
        if cache is None and self.P > 1:
            cache = self.make_cache(len(ids))
        hidden = self.plain.model(ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state
        if self.P > 1:
            streams = hidden.view(self.P, -1, *hidden.shape[1:]).permute(1, 2, 3, 0)  # [B, T, h, P]
            scores = self.aggregator[2](F.silu(self.aggregator[0](streams.flatten(2))))
            weights = torch.softmax(scores.float(), dim=-1) * (1 - self.smooth) + self.smooth / self.P
            hidden = (streams.transpose(2, 3) * weights.unsqueeze(-1).to(hidden.dtype)).sum(2)
        logits = self.plain.lm_head(hidden[:, -keep:])
        return logits if labels is None else self.plain.loss_function(logits, labels, self.plain.vocab_size)
