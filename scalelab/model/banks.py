"""Banks of learned prefixes: keys and values for each P in every attention module.

A model with one bank names its parameters as the released checkpoints do, ``self_attn.prefix_k`` and ``prefix_v``; its
`OwnBank` makes a module of them. A model with several banks keeps them in a `ModuleDict`, for example
``self_attn.prefix_banks.4.prefix_k``, so that optimizers, ``.to()`` and checkpoints include them all.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

ONLY_BANK = "own"  # value of `active_streams` if the prefixes are parameters of the attention module itself


class PrefixBank(nn.Module):
    """Prefix keys and values [P, kv_heads, n, head_dim] of P streams."""

    def __init__(self, P: int, n_tokens: int, kv_heads: int, key_dim: int, value_dim: int, like: torch.Tensor) -> None:
        super().__init__()
        add_prefix_parameters(self, P, n_tokens, (kv_heads, key_dim, value_dim), like)

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prefixes [rows, kv_heads, n, head_dim], with the rows and dtypes of a sequence's key and value.

        A call, not an attribute, so that hooks that move parameters to the device of a module run.
        """
        return expand_to_rows(self.prefix_k, key), expand_to_rows(self.prefix_v, value)


class OwnBank(nn.Module):
    """The prefixes of an attention module itself, as a module without parameters of its own.

    It gives them a name for tools that train and save whole modules, as PEFT does with `modules_to_save`. A copy of it
    is a `PrefixBank` with copies of the parameters.
    """

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self._owner = (owner,)  # in a tuple, since an attribute would be registered as a part of this module

    @property
    def prefix_k(self) -> nn.Parameter:
        """Keys of the attention module."""
        return self._owner[0].prefix_k

    @property
    def prefix_v(self) -> nn.Parameter:
        """Values of the attention module."""
        return self._owner[0].prefix_v

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prefixes, as `PrefixBank` does."""
        return expand_to_rows(self.prefix_k, key), expand_to_rows(self.prefix_v, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        owner = memo.get(id(self._owner[0]))  # if the owner is copied too
        return bank_of(copy.deepcopy(self.prefix_k), copy.deepcopy(self.prefix_v)) if owner is None else OwnBank(owner)


def bank_of(prefix_k: nn.Parameter, prefix_v: nn.Parameter) -> PrefixBank:
    """Return a bank with given parameters."""
    bank = nn.Module.__new__(PrefixBank)
    nn.Module.__init__(bank)
    bank.prefix_k, bank.prefix_v = prefix_k, prefix_v
    return bank


def restore_own_bank(module: nn.Module) -> None:
    """Make the parameters of a bank that has replaced the `OwnBank` of an attention module the module's own.

    PEFT leaves such a bank when it merges an adapter.
    """
    bank = getattr(module, "prefix_bank", None)
    if isinstance(bank, PrefixBank):
        module.prefix_k, module.prefix_v = bank.prefix_k, bank.prefix_v
        module.prefix_bank = OwnBank(module)


def expand_to_rows(prefix: Tensor, own: Tensor) -> Tensor:
    """Expand a prefix [P, kv_heads, n, head_dim] to the P·B rows of `own`, in its dtype."""
    P, rows = prefix.shape[0], own.shape[0]  # `len` would fix a symbolic number of rows
    if rows != P:
        prefix = prefix.unsqueeze(1).expand(P, rows // P, *prefix.shape[1:]).flatten(0, 1)
    return prefix.to(own.dtype)


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
    """Return the module that holds the active prefixes of an attention module; None without streams.

    It may be wrapped by PEFT, which passes calls and attributes on.
    """
    name = getattr(module, "active_streams", None)
    if name is None:
        return None
    return module.prefix_bank if name == ONLY_BANK else module.prefix_banks[name]


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
