"""Where the learned prefixes live: one bank of keys and values for each P, in every attention module.

A model with one bank keeps it as the released checkpoints do, ``self_attn.prefix_k`` and
``prefix_v``; one with several keeps them in a `ModuleDict`, ``self_attn.prefix_banks.4.prefix_k``,
so that optimisers, ``.to()`` and checkpoints see them all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ONLY_BANK = "own"  # the active bank is the attention module itself


class PrefixBank(nn.Module):
    """Keys and values [P, kv_heads, n, head_dim] that P streams see before the sequence."""

    def __init__(self, P: int, n_tokens: int, kv_heads: int, key_dim: int, value_dim: int, like: torch.Tensor) -> None:
        super().__init__()
        add_prefix_parameters(self, P, n_tokens, (kv_heads, key_dim, value_dim), like)


def add_prefix_parameters(
    module: nn.Module, P: int, n_tokens: int, shape: tuple[int, int, int], like: torch.Tensor
) -> None:
    """Give `module` uninitialised prefixes; `shape` is (kv_heads, key_dim, value_dim)."""
    kv_heads, *dims = shape
    for name, dim in zip(("prefix_k", "prefix_v"), dims, strict=True):
        empty = torch.empty((P, kv_heads, n_tokens, dim), dtype=like.dtype, device=like.device)
        setattr(module, name, nn.Parameter(empty))
    module._is_hf_initialized = False


def active_bank(module: nn.Module) -> nn.Module | None:
    """What holds the prefixes in use by an attention module; None where it is plain."""
    name = getattr(module, "active_streams", None)
    if name is None:
        return None
    return module if name == ONLY_BANK else module.prefix_banks[name]


def bank_sizes(config: Any) -> dict[int, int]:
    """{P: prefix tokens} of the banks that a config declares."""
    if config.parscale_banks:
        return {int(P): n for P, n in config.parscale_banks.items()}
    return {config.parscale_n: config.parscale_n_tokens} if config.parscale_n > 1 else {}


def check_keys(config: Any) -> None:
    """Raises ValueError naming a key about streams that makes no sense, before anything is built from it."""
    counts = {"parscale_n": config.parscale_n, "parscale_n_tokens": config.parscale_n_tokens}
    banks = {} if config.parscale_banks is None else config.parscale_banks
    if not isinstance(banks, dict):
        raise ValueError(f"parscale_banks must be a mapping of P to prefix tokens, not {banks!r}")
    for P, n_tokens in banks.items():
        counts |= {f"parscale_banks {P}": n_tokens, f"P {P!r} in parscale_banks": int(P) if str(P).isdigit() else P}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    smooth = config.parscale_attn_smooth
    if not isinstance(smooth, int | float) or not 0 <= smooth < 1:
        raise ValueError(f"parscale_attn_smooth must lie in [0, 1), not {smooth!r}")


def attention_modules(decoder: nn.Module) -> list[nn.Module]:
    """The self-attention of each layer, by transformers' conventions; cross-attention left out."""
    return [
        module
        for module in decoder.modules()
        if "Attention" in type(module).__name__
        and getattr(module, "layer_idx", None) is not None
        and not getattr(module, "is_cross_attention", False)
    ]


def kv_shapes(config: Any, count: int) -> list[tuple[int, int, int]]:
    """(kv_heads, key_dim, value_dim) of each of `count` attention modules."""
    if config.parscale_kv_shapes:
        return [tuple(shape) for shape in config.parscale_kv_shapes]
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return [(kv_heads, head_dim, head_dim)] * count
