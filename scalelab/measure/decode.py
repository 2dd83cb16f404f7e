"""Prefill and decoding of a model: eager, and on CUDA also as a captured graph.

At batch 1 a GPU decodes faster than Python can launch its kernels. Eager time is then the host's and does not show
what streams cost the device. A captured step shows it, and is what serving engines run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, StaticCache

from scalelab.measure.rounds import median_s
from scalelab.train.device import synchronize

_WARM_UP_STEPS = 3
_PROFILED_STEPS = 8


def prefill(model: Any, ids: Tensor) -> None:
    """Process the prompt `ids` [B, T] up to the logits of the next token."""
    model(ids, past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1)


def decoding(model: Any, ids: Tensor, steps: int) -> Callable[[], float]:
    """Return a function that processes the prompt `ids` [B, T], decodes `steps` tokens greedily and times the decoding.

    The function returns the seconds of the decode steps.
    """

    def work() -> float:
        cache = DynamicCache(config=model.config)  # its sliding layers store only their window
        logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        synchronize(str(ids.device))
        start = time.perf_counter()
        for _ in range(steps):
            logits = model(logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        synchronize(str(ids.device))
        return time.perf_counter() - start

    return work


def device_s(model: Any, ids: Tensor) -> float | None:
    """Return the GPU time of a decoded token in seconds, summed over its kernels; None on a CPU."""
    if ids.device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    def busy_us(work: Callable[[], object]) -> float:
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], acc_events=True) as seen:
            work()
            torch.cuda.synchronize(ids.device)
        return sum(e.self_device_time_total for e in seen.key_averages() if e.device_type.name == "CUDA")

    whole = busy_us(decoding(model, ids, _PROFILED_STEPS))
    return max(0.0, whole - busy_us(lambda: prefill(model, ids))) / _PROFILED_STEPS / 1e6


def graph_s(model: Any, ids: Tensor, steps: int, seconds: float) -> float | None:
    """Return the seconds of `steps` decode steps captured as a CUDA graph with a static cache.

    The cache has its final length from the start, so attention reads more than in eager decoding. Returns None on a CPU
    and for models that cannot be captured.
    """
    if ids.device.type != "cuda":
        return None
    step = static_step(model, ids, steps + _WARM_UP_STEPS + 1)
    device = str(ids.device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                step()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            step()
    except RuntimeError:  # this architecture synchronizes with the host
        return None

    def work() -> None:
        for _ in range(steps):
            graph.replay()

    return median_s(work, seconds, device)


def static_step(model: Any, ids: Tensor, room: int) -> Callable[[], Tensor]:
    """Return one decode step after the prompt `ids` [B, T], with a static cache that has room for `room` more tokens.

    Every step does the same work on the same memory: its input is the token that the previous step chose, and the
    cache keeps track of the position.
    """
    cache = StaticCache(config=model.config, max_cache_len=ids.shape[1] + room)
    logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    token = logits[:, -1:].argmax(-1)

    def step() -> Tensor:
        logits = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token.copy_(logits[:, -1:].argmax(-1))
        return token

    return step
