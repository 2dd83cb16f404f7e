"""AdamW with rates of their own for prefixes and mixture."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scalelab.train.recipe import Recipe


def stream_groups(model: Any) -> dict[int, str]:
    """{id of parameter: "prefix" or "mixture"} of the streams in use."""
    mixture = model.get_decoder().aggregator
    mixing = {id(p) for p in mixture.parameters()} if mixture is not None else set()
    return {id(p): "mixture" if id(p) in mixing else "prefix" for _, p in model.stream_parameters()}


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.AdamW:
    """AdamW over what requires gradients; matrices of the backbone decay, streams have rates of their own."""
    scales = {"prefix": recipe.prefix_lr_scale, "mixture": recipe.aggregator_lr_scale}
    kinds = stream_groups(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        kind = kinds.get(id(parameter))
        decay = recipe.weight_decay if kind is None and parameter.ndim >= 2 else 0.0
        groups.setdefault((scales.get(kind or "", 1.0), decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": lr * s, "weight_decay": d} for (s, d), p in groups.items()],
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )
