"""How the prefixes of a pretrained model start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalelab.model.attention import record_attention_calls
from scalelab.model.banks import active_bank, attention_modules

STARTS = ("text", "moments", "normal")


@torch.no_grad()
def start_from_text(model: Any, ids: Tensor, how: str = "text", seed: int = 0) -> None:
    """Set the prefixes of the bank in use from what the plain model makes of `ids` [P, n].

    ``text``: stream p sees the keys and values of its own n tokens as if they stood just before
    the sequence, at the positions −n to −1 where positions are rotations (a relative distance is all
    that attention sees then), and at 0 to n − 1 where they are learned. ``moments``: normal, with mean and
    standard deviation of those keys and values for each layer, head and channel. ``normal`` leaves them as
    they are, N(0, initializer_range²).

    Raises ValueError if `ids` do not have the bank's shape.
    """
    if how == "normal":
        return
    if how not in STARTS:
        raise ValueError(f"start {how!r}: choose one of {', '.join(STARTS)}")
    decoder = model.get_decoder()
    modules = attention_modules(decoder)
    banks = [active_bank(module) for module in modules]
    wanted = (banks[0].prefix_k.shape[0], banks[0].prefix_k.shape[2])
    if tuple(ids.shape) != wanted:
        raise ValueError(f"the bank needs {wanted[0]} rows of {wanted[1]} tokens, not {tuple(ids.shape)}")
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
