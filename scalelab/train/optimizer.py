"""AdamW with separate learning rates for prefixes and aggregator."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scalelab.train.recipe import Recipe


def stream_groups(model: Any) -> dict[int, str]:
    """Return "prefix" or "aggregator" for each parameter, by id, of the streams in use."""
    aggregator = model.get_decoder().aggregator
    aggregator_ids = {id(p) for p in aggregator.parameters()} if aggregator is not None else set()
    return {id(p): "aggregator" if id(p) in aggregator_ids else "prefix" for _, p in model.stream_parameters()}


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.AdamW:
    """Make AdamW for all trainable parameters, with weight decay only on matrices of the backbone.

    Prefixes and aggregator have the learning rate `lr` times their scales in `recipe`.
    """
    scales = {"prefix": recipe.prefix_lr_scale, "aggregator": recipe.aggregator_lr_scale}
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
