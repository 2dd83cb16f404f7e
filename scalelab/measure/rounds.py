"""Timing of repeated work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from scalelab.train.device import synchronize

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 100


def median_s(work: Callable[[], object], seconds: float, device: str) -> float:
    """Return the median seconds of `work`, or of its return value if that is a float.

    One warm-up round is not timed: in it libraries load kernels. Then 5 to 100 rounds follow, for about `seconds`.
    """
    return statistics.median(_rounds(work, seconds, device))


def least_s(work: Callable[[], object], seconds: float, device: str) -> float:
    """Return the minimum seconds of `work`: its time without interference from other processes. See `median_s`."""
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
