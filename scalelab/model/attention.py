"""Attention that sees each stream's prefix: learned keys and values before the sequence's own.

The functions are registered with transformers' attention and mask interfaces under the names
``parscale_sdpa`` and ``parscale_eager``. A module that carries `prefix_k` and `prefix_v`
([P, kv_heads, n, head_dim]) attends to them from every query. The prefixes are not rotated and
take no position, and the KV cache holds ordinary tokens only, so positions, padding and caches
stay what they are without streams. Rows are stream-major: row = p·B + b.
"""

# torch types every attribute of a module as Tensor | Module, so these rules say nothing here.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# pyright: reportOptionalMemberAccess=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

NAMES = {"sdpa": "parscale_sdpa", "eager": "parscale_eager"}

# With no mask given, n zero queries and `is_causal` beat an explicit mask on CPU from about this
# length on (1.5-1.7 times at 1024-2048 tokens); below it the explicit mask wins.
_ZERO_QUERY_LENGTH = 512


def attention_name(implementation: str | None) -> str:
    """Our name for a library attention implementation.

    Raises ValueError for one that would silently leave the prefixes out.
    """
    implementation = implementation or "sdpa"
    if implementation in NAMES.values():
        return implementation
    if implementation not in NAMES:
        raise ValueError(f"streams work with attention {' or '.join(NAMES)}, not {implementation!r}")
    return NAMES[implementation]


def _with_prefix(module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, int]:
    """Keys and values [P·B, kv_heads, n + T, head_dim] and n."""
    P, kv_heads, n, head_dim = module.prefix_k.shape
    batch = key.shape[0] // P
    joined = []
    for prefix, own in ((module.prefix_k, key), (module.prefix_v, value)):
        rows = prefix.unsqueeze(1).expand(P, batch, kv_heads, n, head_dim).flatten(0, 1)
        joined.append(torch.cat([rows.to(own.dtype), own], dim=2))
    return joined[0], joined[1], n


def parscale_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """`sdpa_attention_forward` over prefix and sequence. Query [P·B, heads, T, head_dim]."""
    if not hasattr(module, "prefix_k"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    length = query.shape[2]
    causal = attention_mask is None and length > 1
    if causal and key.shape[2] > length:  # an empty static cache: its tail is all future
        key, value = key[:, :, :length], value[:, :, :length]
    key, value, n = _with_prefix(module, key, value)
    if attention_mask is not None:
        attention_mask = F.pad(attention_mask, (n, 0), value=True)
    elif causal and length >= _ZERO_QUERY_LENGTH:
        # n dummy queries stand where the prefix keys stand, so plain causality is right.
        output, _ = sdpa_attention_forward(module, F.pad(query, (0, 0, n, 0)), key, value, None, **kwargs)
        return output[:, n:], None
    elif causal:
        attention_mask = torch.ones(length, n + length, dtype=torch.bool, device=query.device).tril(n)
        attention_mask = attention_mask[None, None]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def parscale_eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """The architecture's own eager attention over prefix and sequence; the mask is additive."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    if hasattr(module, "prefix_k"):
        key, value, n = _with_prefix(module, key, value)
        attention_mask = F.pad(attention_mask, (n, 0), value=0.0)
    return eager(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register("parscale_sdpa", parscale_sdpa)
AttentionInterface.register("parscale_eager", parscale_eager)
AttentionMaskInterface.register("parscale_sdpa", sdpa_mask)
AttentionMaskInterface.register("parscale_eager", eager_mask)
