"""Initial values for the prefixes of a pretrained model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalelab.model.attention import record_attention_calls
from scalelab.model.banks import active_bank, attention_modules

STARTS = ("text", "moments", "normal")


@torch.no_grad()
def start_from_text(model: Any, ids: Tensor, how: str = "text", seed: int = 0) -> None:
    """Set the prefixes of the active bank to the plain model's keys and values of `ids` [P, n].

    Args:
        model: A model with an active bank of P streams with n prefix tokens.
        ids: One text of n tokens for each stream, [P, n].
        how: "text": stream p gets the keys and values of its text, at positions −n to −1 with rotary positions, which
            are relative, and at 0 to n − 1 with learned positions. "moments": normal values with the mean and standard
            deviation of those keys and values for each layer, head and channel. "normal": prefixes are not changed
            and stay at N(0, initializer_range²).
        seed: Seed of the values for "moments".

    Raises:
        ValueError: `how` is unknown, or `ids` does not have the bank's shape.
    """
    if how == "normal":
        return
    if how not in STARTS:
        raise ValueError(f"unknown start {how!r}: choose one of {', '.join(STARTS)}")
    decoder = model.get_decoder()
    modules = attention_modules(decoder)
    banks = [active_bank(module) for module in modules]
    wanted = (banks[0].prefix_k.shape[0], banks[0].prefix_k.shape[2])
    if tuple(ids.shape) != wanted:
        raise ValueError(f"ids must have shape {wanted} for this bank, not {tuple(ids.shape)}")
    n = ids.shape[1]
    rotated = getattr(model.config, "rope_parameters", None) is not None
    positions = torch.arange(n, device=ids.device)[None] - (n if rotated else 0)
    with model.plain(), record_attention_calls(keep=True) as calls:
        decoder(input_ids=ids, position_ids=positions, use_cache=False)
    generator = torch.Generator().manual_seed(seed)
    made = {id(m): (k, v) for m, k, v in zip(calls.modules, calls.keys, calls.values, strict=True)}
    for module, bank in zip(modules, banks, strict=True):
        for prefix, own in zip((bank.prefix_k, bank.prefix_v), made[id(module)], strict=True):
            if how == "moments":
                mean, std = own.mean((0, 2), keepdim=True), own.std((0, 2), keepdim=True)
                noise = torch.randn(own.shape, generator=generator).to(own.device, own.dtype)
                own = mean + std * noise
            prefix.copy_(own)
