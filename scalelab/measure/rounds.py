"""Seconds of a piece of work, over rounds of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from scalelab.train.device import synchronize

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 100


def median_s(work: Callable[[], object], seconds: float, device: str) -> float:
    """Return the median seconds of `work`, or of what it returns if that is a number.

    After one round of warm-up, in which libraries load kernels and make plans, over rounds of `seconds` in all: at
    least 5, at most 100.
    """
    return statistics.median(_rounds(work, seconds, device))


def least_s(work: Callable[[], object], seconds: float, device: str) -> float:
    """Return the least seconds of `work`: what the device can do, where nothing else takes its time. See `median_s`."""
    return min(_rounds(work, seconds, device))


def _rounds(work: Callable[[], object], seconds: float, device: str) -> Iterator[float]:
    work()
    count, began = 0, time.perf_counter()
    while count < _LEAST_ROUNDS or (time.perf_counter() - began < seconds and count < _MOST_ROUNDS):
        synchronize(device)
        start = time.perf_counter()
        own = work()
        synchronize(device)
        took = time.perf_counter() - start
        count += 1
        yield own if isinstance(own, float) else took
