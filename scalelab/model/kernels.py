"""Choice of torch's attention kernel by device, precision and shape.

By default torch prefers cuDNN on Hopper. There cuDNN is the fastest for training, but it makes an execution plan for
every new shape, and in decoding every token has a new shape. Measurements: docs/gpu.md.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Compute capabilities on which cuDNN was measured to be correct, and the fastest in training.
_CUDNN_CAPABILITIES = {(9, 0)}
_HALF = (torch.float16, torch.bfloat16)


class KernelChoice(NamedTuple):
    """Settings of one call of scaled-dot-product attention on CUDA."""

    cudnn: bool  # allow cuDNN
    grouped: bool  # pass grouped key heads; otherwise repeat them to the number of query heads


def choose_kernel(
    capability: tuple[int, int], dtype: torch.dtype, length: int, masked: bool, trains: bool
) -> KernelChoice:
    """Choose how to call attention on a CUDA device.

    Args:
        capability: The device's compute capability.
        dtype: Precision of query, key and value.
        length: Number of queries.
        masked: Whether an explicit mask is given.
        trains: Whether a backward pass follows, so that shapes repeat for thousands of steps.
    """
    cudnn = trains and length > 1 and dtype in _HALF and capability in _CUDNN_CAPABILITIES
    # With a mask, or in fp32, only the memory-efficient kernel remains. It needs as many key heads as query heads; with
    # grouped heads torch would fall back to computing every score.
    return KernelChoice(cudnn, grouped=dtype in _HALF and not masked)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Return attention [rows, heads, T, head_dim] of queries over keys that may have fewer heads.

    `causal` aligns the first query with the first key. On a CPU key heads are never repeated.
    """
    grouped = query.shape[1] != key.shape[1]
    if query.device.type != "cuda":
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal, scale=scale, enable_gqa=grouped)
    trains = torch.is_grad_enabled() and query.requires_grad
    choice = choose_kernel(_capability(query.device), query.dtype, query.shape[2], mask is not None, trains)
    if grouped and not choice.grouped:
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    options = {"scale": scale, "enable_gqa": grouped and choice.grouped}
    if torch.compiler.is_compiling() or choice.cudnn:  # compiled shapes do not change from call to call
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal, **options)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal, **options)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
