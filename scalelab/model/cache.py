"""A KV cache layer with room to grow.

The library's `DynamicLayer` joins all it holds with each new token, so a step copies the whole
cache: with P streams P times as much, a quarter of a step at P = 8 and 2,000 tokens
(docs/benchmarks.md).
"""

# `DynamicLayer` has no keys before its first update, and types them as if at any time.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

_LEAST_ROOM = 16  # tokens
_LEAST_BYTES = 2**18  # of keys; below, joining costs less than keeping account


class GrowingLayer(DynamicLayer):
    """`DynamicLayer` whose keys and values lie at the head of tensors with an eighth more room.

    Seen from outside, `keys` and `values` are as before: [rows, kv_heads, T, head_dim].
    """

    buffer: _Buffer | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if (
            torch.compiler.is_compiling()
            or torch.is_grad_enabled()  # what was written must not change before the backward pass
            or not self.is_initialized
            or self.keys.nbytes < _LEAST_BYTES
        ):
            return super().update(key_states, value_states, *args, **kwargs)
        held = (self.keys, self.values)
        end = self.keys.shape[-2] + key_states.shape[-2]
        if self.buffer is None or not self.buffer.fits(held, end):
            self.buffer = _Buffer(held, end)
        self.keys, self.values = self.buffer.write(key_states, value_states)
        return self.keys, self.values


class _Buffer:
    """Two tensors with space after what they hold. Caches that came from one another may share them."""

    def __init__(self, held: tuple[Tensor, Tensor], end: int) -> None:
        self.tensors = (_enlarged(held[0], end), _enlarged(held[1], end))
        self.end = held[0].shape[2]  # written so far

    def fits(self, held: tuple[Tensor, Tensor], end: int) -> bool:
        """Whether `held` still are the heads of these tensors, up to all that was written, and `end` tokens go in.

        Beams may have been reordered; and where another cache has written on, or this one was cropped, what
        lies behind may still be looked at.
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
        """Keys and values with the new ones behind them."""
        start, self.end = self.end, self.end + new_keys.shape[2]
        keys, values = self.tensors
        keys[:, :, start : self.end], values[:, :, start : self.end] = new_keys, new_values
        return keys[:, :, : self.end], values[:, :, : self.end]


def _enlarged(held: Tensor, end: int) -> Tensor:
    rows, kv_heads, length, dim = held.shape
    room = held.new_empty(rows, kv_heads, end + max(_LEAST_ROOM, end // 8), dim)
    room[:, :, :length] = held
    return room


def use_growing_layers(cache: Any) -> None:
    """Give the plain dynamic layers of `cache` room to grow; all others are left as they are."""
    if isinstance(cache, EncoderDecoderCache):  # some decoders make one for themselves
        cache = cache.self_attention_cache
    for layer in cache.layers if isinstance(cache, Cache) else ():
        if type(layer) is DynamicLayer:
            layer.__class__ = GrowingLayer
