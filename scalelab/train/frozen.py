"""Runs on a frozen backbone: an existing model of which only streams and low-rank matrices (LoRA) are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from scalelab.errors import UsageError
from scalelab.model import add_streams, lora_config
from scalelab.model.checkpoint import load_model
from scalelab.train.convert import convert
from scalelab.train.cost import trained_params
from scalelab.train.recipe import RunConfig
from scalelab.train.tokens import TokenData


def build_frozen(config: RunConfig, data: TokenData | None = None, device: str = "cpu") -> Any:
    """Return the model of a run on a frozen backbone, on `device`; only what is to be trained requires gradients.

    Prefixes start from text of `data` (`scalelab.train.convert`), and without it from random numbers.
    """
    shape, recipe = config.architecture, config.recipe
    model = load_model(config.backbone, torch.float32).to(device)
    if shape.has_prefixes:
        banks, options = {shape.P: shape.prefix_tokens}, {"smooth": recipe.smooth, "aggregation": shape.aggregation}
        if data is None:
            add_streams(model, shape.P, shape.prefix_tokens, seed=config.seed, **options)
        else:
            convert(model, banks, data, recipe, seed=config.seed, **options)
    model.requires_grad_(False)
    for _, parameter in model.stream_parameters():
        parameter.requires_grad_(True)
    if config.lora_rank:
        _add_lora(model, config.lora_rank, config.seed)
        if sum(p.numel() for p in model.parameters() if p.requires_grad) != trained_params(config):
            reason = "its linear layers are not those of Llama, so LoRA is not supported; leave `lora_rank` out"
            raise UsageError(f"{config.backbone}: {reason}")
    return model.to(device)


def _add_lora(model: Any, rank: int, seed: int) -> None:
    """Add low-rank matrices to all linear layers of the backbone, in place; they start at a product of 0."""
    from peft import inject_adapter_in_model

    streams = [parameter for _, parameter in model.stream_parameters()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = lora_config(model, r=rank, lora_alpha=2 * rank)
        adapter.modules_to_save = None  # streams are trained themselves, not as copies
        inject_adapter_in_model(adapter, model)
    for parameter in streams:
        parameter.requires_grad_(True)


def _lora_layers(model: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


@contextmanager
def backbone_only(model: Any) -> Iterator[None]:
    """Run only the frozen backbone in the body, without streams and low-rank matrices."""
    layers = [module for _, module in _lora_layers(model)]
    required = [parameter.requires_grad for parameter in model.parameters()]
    for module in layers:
        module.enable_adapters(False)
    try:
        with model.plain():
            yield
    finally:
        for module in layers:
            module.enable_adapters(True)
        for parameter, value in zip(model.parameters(), required, strict=True):
            parameter.requires_grad_(value)


def merge_lora(model: Any) -> None:
    """Add the low-rank products to the weights of their layers, in place, so that a plain model is left."""
    for name, module in _lora_layers(model):
        module.merge()
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
