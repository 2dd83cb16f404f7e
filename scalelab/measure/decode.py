"""Prefill and decoding of a model: as eager code does it, and on CUDA as a captured step.

At batch 1 a GPU decodes faster than Python can start its kernels. Eager seconds then are the host's, and say nothing of
what streams cost the device: the captured step does, and is what serving engines run.
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
    """Take the prompt `ids` [B, T], up to the logits of the next token."""
    model(ids, past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1)


def decoding(model: Any, ids: Tensor, steps: int) -> Callable[[], float]:
    """Return what takes the prompt `ids` and then `steps` tokens, the likeliest each time, and returns the seconds
    of the latter."""

    def work() -> float:
        cache = DynamicCache(config=model.config)  # whose windowed layers keep no more than their window
        logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        synchronize(str(ids.device))
        start = time.perf_counter()
        for _ in range(steps):
            logits = model(logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        synchronize(str(ids.device))
        return time.perf_counter() - start

    return work


def device_s(model: Any, ids: Tensor) -> float | None:
    """Return the seconds a decoded token keeps a GPU busy, the sum over its kernels; None on a CPU."""
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
    """Return the seconds of `steps` decoded tokens by a captured step over a static cache; None where there is none.

    The cache has its final length from the start, so attention reads more than eager decoding does on the way there.
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
    except RuntimeError:  # something in this architecture waits for the host
        return None

    def work() -> None:
        for _ in range(steps):
            graph.replay()

    return median_s(work, seconds, device)


def static_step(model: Any, ids: Tensor, room: int) -> Callable[[], Tensor]:
    """Return one decode step after the prompt `ids` [B, T], over a cache with `room` for so many tokens more.

    It is the same work on the same memory each time: the token it takes is the one that it chose before. A model
    whose next position is not in its cache would count on; here each step writes at the cache's own place.
    """
    cache = StaticCache(config=model.config, max_cache_len=ids.shape[1] + room)
    logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    token = logits[:, -1:].argmax(-1)

    def step() -> Tensor:
        logits = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token.copy_(logits[:, -1:].argmax(-1))
        return token

    return step
