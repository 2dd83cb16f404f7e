"""Banks of learned prefixes: keys and values for each P in every attention module.

A model with one bank names its parameters as the released checkpoints do, ``self_attn.prefix_k`` and ``prefix_v``. A
model with several banks keeps them in a `ModuleDict`, for example ``self_attn.prefix_banks.4.prefix_k``, so that
optimizers, ``.to()`` and checkpoints include them all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ONLY_BANK = "own"  # value of `active_streams` if the prefixes are parameters of the attention module itself


class PrefixBank(nn.Module):
    """Prefix keys and values [P, kv_heads, n, head_dim] of P streams."""

    def __init__(self, P: int, n_tokens: int, kv_heads: int, key_dim: int, value_dim: int, like: torch.Tensor) -> None:
        super().__init__()
        add_prefix_parameters(self, P, n_tokens, (kv_heads, key_dim, value_dim), like)


def add_prefix_parameters(
    module: nn.Module, P: int, n_tokens: int, shape: tuple[int, int, int], like: torch.Tensor
) -> None:
    """Add uninitialised prefix parameters to `module`; `shape` is (kv_heads, key_dim, value_dim)."""
    kv_heads, *dims = shape
    for name, dim in zip(("prefix_k", "prefix_v"), dims, strict=True):
        empty = torch.empty((P, kv_heads, n_tokens, dim), dtype=like.dtype, device=like.device)
        setattr(module, name, nn.Parameter(empty))
    module._is_hf_initialized = False


def active_bank(module: nn.Module) -> nn.Module | None:
    """Return the module that holds the active prefixes of an attention module; None without streams."""
    name = getattr(module, "active_streams", None)
    if name is None:
        return None
    return module if name == ONLY_BANK else module.prefix_banks[name]


def bank_sizes(config: Any) -> dict[int, int]:
    """Return the banks of a config as {P: prefix tokens}."""
    if config.parscale_banks:
        return {int(P): n for P, n in config.parscale_banks.items()}
    return {config.parscale_n: config.parscale_n_tokens} if config.parscale_n > 1 else {}


def check_keys(config: Any) -> None:
    """Raise ValueError naming the first invalid key about streams in a config."""
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
    """Return the self-attention modules of a decoder, found by transformers' naming conventions."""
    return [
        module
        for module in decoder.modules()
        if "Attention" in type(module).__name__
        and getattr(module, "layer_idx", None) is not None
        and not getattr(module, "is_cross_attention", False)
    ]


def kv_shapes(config: Any, count: int) -> list[tuple[int, int, int]]:
    """Return (kv_heads, key_dim, value_dim) of each of `count` attention modules, from the config."""
    if config.parscale_kv_shapes:
        return [tuple(shape) for shape in config.parscale_kv_shapes]
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return [(kv_heads, head_dim, head_dim)] * count
