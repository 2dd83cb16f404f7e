"""KV cache layer with spare capacity.

`DynamicLayer` of transformers concatenates its content with each new token, so every step copies the whole cache. With
P streams that is P times as much: a quarter of a step at P = 8 and 2,000 tokens (docs/benchmarks.md).
"""

# `DynamicLayer` has no keys before its first update, but its types say that it does.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

_MIN_SPARE_TOKENS = 16
_MIN_KEY_BYTES = 2**18  # below this, concatenation is faster than bookkeeping


class GrowingLayer(DynamicLayer):
    """`DynamicLayer` whose keys and values are views of tensors with an eighth more capacity.

    `keys` and `values` are [rows, kv_heads, T, head_dim], as before.
    """

    buffer: _Buffer | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values and return all of them."""
        if (
            torch.compiler.is_compiling()
            or torch.is_grad_enabled()  # the backward pass needs unchanged values
            or not self.is_initialized
            or self.keys.nbytes < _MIN_KEY_BYTES
        ):
            return super().update(key_states, value_states, *args, **kwargs)
        held = (self.keys, self.values)
        end = self.keys.shape[-2] + key_states.shape[-2]
        if self.buffer is None or not self.buffer.fits(held, end):
            self.buffer = _Buffer(held, end)
        self.keys, self.values = self.buffer.write(key_states, value_states)
        return self.keys, self.values


class _Buffer:
    """Tensors for keys and values with spare capacity at the end. Copies of a cache may share them."""

    def __init__(self, held: tuple[Tensor, Tensor], end: int) -> None:
        self.tensors = (_enlarged(held[0], end), _enlarged(held[1], end))
        self.end = held[0].shape[2]  # tokens written so far

    def fits(self, held: tuple[Tensor, Tensor], end: int) -> bool:
        """Return whether `held` is everything written to these tensors, and `end` tokens fit.

        It is not if beams were reordered, the cache was cropped, or a copy of it has written more tokens, which that
        copy may still read.
        """
        if held[0].shape[2] != self.end or end > self.tensors[0].shape[2]:
            return False
        if self.tensors[0].is_inference() and not torch.is_inference_mode_enabled():
            return False
        return all(
            h.data_ptr() == t.data_ptr() and h.shape[:2] == t.shape[:2] and h.stride() == t.stride()
            for h, t in zip(held, self.tensors, strict=True)
        )

    def write(self, new_keys: Tensor, new_values: Tensor) -> tuple[Tensor, Tensor]:
        """Append new keys and values and return all of them."""
        start, self.end = self.end, self.end + new_keys.shape[2]
        keys, values = self.tensors
        keys[:, :, start : self.end], values[:, :, start : self.end] = new_keys, new_values
        return keys[:, :, : self.end], values[:, :, : self.end]


def _enlarged(held: Tensor, end: int) -> Tensor:
    rows, kv_heads, length, dim = held.shape
    enlarged = held.new_empty(rows, kv_heads, end + max(_MIN_SPARE_TOKENS, end // 8), dim)
    enlarged[:, :, :length] = held
    return enlarged


def use_growing_layers(cache: Any) -> None:
    """Change plain dynamic layers of `cache` to `GrowingLayer`, in place; other layers stay the same."""
    if isinstance(cache, EncoderDecoderCache):  # some decoders create one
        cache = cache.self_attention_cache
    for layer in cache.layers if isinstance(cache, Cache) else ():
        if type(layer) is DynamicLayer:
            layer.__class__ = GrowingLayer
