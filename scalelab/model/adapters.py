"""Streams and the adapters of PEFT."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

_STREAM_PARTS = ("prefix_k", "prefix_v", "prefix_bank", "prefix_banks", "aggregate_layer", "aggregate_banks")


def lora_config(model: Any, **options: Any) -> Any:
    """Return a `LoraConfig` of PEFT that adapts the backbone and trains the streams with it.

    An adapter made with it has low-rank matrices for the linear layers of the backbone, and copies of the prefixes and
    aggregators of all banks, which are saved, loaded and merged with it.

    Args:
        model: A causal language model; without banks only its backbone is adapted.
        options: Further arguments of `peft.LoraConfig`. `target_modules` are by default all linear layers of the
            backbone; `modules_to_save` are added to the streams.
    """
    from peft import LoraConfig

    names = stream_modules(model)
    modules = dict(model.get_decoder().named_modules())
    linear = {
        name.rpartition(".")[2]
        for name, module in modules.items()
        if isinstance(module, nn.Linear | Conv1D) and not _is_of_streams(name)
    }
    names += [name for name in options.pop("modules_to_save", None) or () if name not in names]
    defaults = {"task_type": "CAUSAL_LM", "target_modules": sorted(linear), "modules_to_save": names or None}
    return LoraConfig(**(defaults | options))


def stream_modules(model: Any) -> list[str]:
    """Return name endings of the modules with parameters of streams, for `modules_to_save` of an adapter."""
    decoder, banks = model.get_decoder(), getattr(model, "banks", {})
    if not banks:
        return []
    if model.config.parscale_banks is None:
        names, aggregators = ["prefix_bank"], {"aggregate_layer": decoder.aggregate_layer}
    else:
        names = [f"prefix_banks.{P}" for P in banks]
        aggregators = {f"aggregate_banks.{P}": part for P, part in getattr(decoder, "aggregate_banks", {}).items()}
    return names + [name for name, module in aggregators.items() if any(True for _ in module.parameters())]


def refuse_unsaved_streams(model: Any) -> None:
    """Raise ValueError if parameters of streams are trained that an adapter of PEFT does not hold.

    PEFT saves whole modules, and would leave out parameters that only have `requires_grad`.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and _is_of_streams(name) and ".modules_to_save." not in name and "lora_" not in name:
            raise ValueError(
                f"{name} is trained, but the adapter would not save it: make the adapter with "
                "get_peft_model(model, scalelab.model.lora_config(model))"
            )


def _is_of_streams(name: str) -> bool:
    return any(part in _STREAM_PARTS for part in name.split("."))
