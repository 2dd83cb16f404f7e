"""Speed of one attention layer with each way to pass the causal mask, over sequence length."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timing import DEVICE, QUICK, in_turn
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from scalelab.model import attention
from scalelab.model.banks import ONLY_BANK, OwnBank, add_prefix_parameters

N_PREFIX = 48


def masks() -> list[str]:
    """Rows of the table, milliseconds."""
    lines = [
        "| length | P | forward: mask, heads repeated, ms | mask | zero queries | with backward: mask | zero queries |",
        "|---|---|---|---|---|---|---|",
    ]
    usual = attention._ZERO_QUERY_LENGTH

    def run(threshold: int, back: bool, module: nn.Module, inputs: list[Tensor]) -> None:
        attention._ZERO_QUERY_LENGTH = threshold
        with torch.set_grad_enabled(back):
            output, _ = attention.parscale_sdpa(module, *inputs, None, scaling=None)
        if back:
            output.sum().backward()

    @torch.no_grad()
    def repeated(module: nn.Module, inputs: list[Tensor]) -> None:
        key, value, n = attention._with_prefix(module, *inputs[1:])
        length = key.shape[2] - n
        mask = torch.ones(length, n + length, dtype=torch.bool, device=DEVICE).tril(n)
        sdpa_attention_forward(module, inputs[0], key, value, mask[None, None])

    for length in (128, 512, 1024) if QUICK else (64, 128, 256, 384, 512, 768, 1024, 2048):
        for P in (1, 8):
            module, *inputs = attention_layer(P, length)
            works = [partial(run, threshold, back) for back in (False, True) for threshold in (10**9, 0)]
            times = in_turn(*(partial(work, module, inputs) for work in (repeated, *works)), budget_s=2)
            lines.append(f"| {length} | {P} | " + " | ".join(f"{ms:.2f}" for ms in times) + " |")
            print(lines[-1], flush=True)
    attention._ZERO_QUERY_LENGTH = usual
    return lines


def attention_layer(P: int, length: int) -> list[Any]:
    """Return the arguments of an attention function: a module with P prefixes, query, key, value."""
    module = nn.Module()
    add_prefix_parameters(module, P, N_PREFIX, (2, 64, 64), torch.empty(0, device=DEVICE))
    module.prefix_bank = OwnBank(module)
    nn.init.normal_(module.prefix_k)
    nn.init.normal_(module.prefix_v)
    module.active_streams, module.num_key_value_groups = ONLY_BANK, 4
    sizes = [(P, length, heads, 64) for heads in (8, 2, 2)]
    return [module, *(torch.randn(size, device=DEVICE).transpose(1, 2).requires_grad_() for size in sizes)]
