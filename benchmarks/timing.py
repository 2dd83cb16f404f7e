"""Timing for benchmarks of models: works take turns, and the fastest round counts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

QUICK = "--quick" in sys.argv
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_turn(*works: Callable[[], object], budget_s: float) -> list[float]:
    """The least milliseconds of each, all taking their turn in each round.

    At least two rounds, the first of them a warm-up, then more until `budget_s` is spent.
    """
    best = [float("inf")] * len(works)
    began, done = time.perf_counter(), 0
    while done < 2 or (time.perf_counter() - began < budget_s and done < (4 if QUICK else 100)):
        for i, work in enumerate(works):
            _synchronise()
            start = time.perf_counter()
            work()
            _synchronise()
            best[i] = min(best[i], (time.perf_counter() - start) * 1e3)
        done += 1
    return best


def _synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def bandwidth() -> float:
    """Bytes a second of reading 256 MB."""
    large = torch.ones(64 * 2**20, device=DEVICE)
    return large.nbytes / in_turn(large.sum, budget_s=1)[0] * 1e3
