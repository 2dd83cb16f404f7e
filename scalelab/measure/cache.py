"""Contents of a transformers cache: the keys, values and states of each layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from scalelab.errors import ScalelabError


def cache_layers(cache: Any) -> list[Any]:
    """Return the layers of a cache; an empty list for None."""
    return list(getattr(getattr(cache, "self_attention_cache", cache), "layers", []))


def report_updates(layers: list[Any], on_update: Callable[[int], None]) -> None:
    """Make each layer of a cache pass its index to `on_update` whenever it is written."""
    for i, layer in enumerate(layers):
        for name in ("update", "update_conv_state", "update_recurrent_state"):
            if (method := getattr(layer, name, None)) is not None:
                setattr(layer, name, _reporting(method, i, on_update))


def _reporting(method: Any, index: int, on_update: Callable[[int], None]) -> Any:
    def update(*args: Any, **kwargs: Any) -> Any:
        on_update(index)
        return method(*args, **kwargs)

    return update


def count_cached_numbers(cache: Any) -> list[int]:
    """Count the numbers that a cache stores for each layer of the model, in cache layers or in other lists.

    Raises:
        ScalelabError: The cache stores tensors that do not belong to a layer.
    """
    parts = vars(getattr(cache, "self_attention_cache", cache))
    lists = {name: part for name, part in parts.items() if isinstance(part, list)}
    if any(_tensors(part) for name, part in parts.items() if name not in lists):
        raise ScalelabError("its cache stores tensors that do not belong to a layer")
    counts = [0] * max(map(len, lists.values()))
    for part in lists.values():
        for i, layer in enumerate(part):
            held = layer if isinstance(layer, (Tensor, list)) else vars(layer)
            counts[i] += sum(math.prod(x.shape) for x in _tensors(held))
    return counts


def _tensors(tree: Any) -> list[Tensor]:
    """Return the distinct floating-point tensors in a tree."""
    found = {id(x): x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.is_floating_point()}
    return list(found.values())


def window_of(layer: Any) -> int | None:
    """Return the window of a sliding cache layer in keys; None for a layer that stores all keys."""
    return getattr(layer, "sliding_window", None) if getattr(layer, "is_sliding", False) else None
