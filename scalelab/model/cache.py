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
from transformers.cache_utils import Cache, DynamicLayer

_LEAST_ROOM = 64  # tokens
_LEAST_BYTES = 2**18  # of keys; below, joining costs less than keeping account


class GrowingLayer(DynamicLayer):
    """`DynamicLayer` whose keys and values lie at the head of tensors with a quarter more room.

    Seen from outside, `keys` and `values` are as before: [rows, kv_heads, T, head_dim].
    """

    rooms: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        differentiated = torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad)
        if (
            torch.compiler.is_compiling()
            or differentiated
            or not self.is_initialized
            or self.keys.nbytes < _LEAST_BYTES
        ):
            return super().update(key_states, value_states, *args, **kwargs)
        held = (self.keys, self.values)
        end = self.keys.shape[-2] + key_states.shape[-2]
        if self.rooms is None or not all(_fits(h, room, end) for h, room in zip(held, self.rooms, strict=True)):
            self.rooms = (_more_room(self.keys, end), _more_room(self.values, end))
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, end - new.shape[-2] : end] = new
        self.keys, self.values = (room[:, :, :end] for room in self.rooms)
        return self.keys, self.values


def _fits(held: Tensor, room: Tensor, end: int) -> bool:
    """Whether `held` still is the head of `room` (beams may have been reordered), and `end` tokens go in."""
    same = held.data_ptr() == room.data_ptr() and held.shape[:2] == room.shape[:2] and held.stride() == room.stride()
    return same and end <= room.shape[2] and (torch.is_inference_mode_enabled() or not room.is_inference())


def _more_room(held: Tensor, end: int) -> Tensor:
    rows, kv_heads, length, dim = held.shape
    room = held.new_empty(rows, kv_heads, end + max(_LEAST_ROOM, end // 4), dim)
    room[:, :, :length] = held
    return room


def let_grow(cache: Any) -> None:
    """Give the plain dynamic layers of `cache` room to grow; all others are left as they are."""
    for layer in cache.layers if isinstance(cache, Cache) else ():
        if type(layer) is DynamicLayer:
            layer.__class__ = GrowingLayer
