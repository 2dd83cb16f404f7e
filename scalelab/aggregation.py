"""Aggregation of P streams of width h into one: the kinds there are, and what each of them costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Aggregation:
    """One way to make one stream of P. The functions take h and P."""

    params: Callable[[int, int], int]
    matrix_params: Callable[[int, int], int]  # as `params`, without biases
    flops: Callable[[int, int], int]  # operations of the forward pass for a token
    kept: Callable[[int, int], int]  # numbers kept for the backward pass, for a token
    module: str  # the name of its class in scalelab.model.aggregators, which needs torch

    def create_module(self, hidden_size: int, P: int, smooth: float) -> Any:
        """Return its torch module."""
        return getattr(import_module("scalelab.model.aggregators"), self.module)(hidden_size, P, smooth)


AGGREGATIONS: dict[str, Aggregation] = {
    "dynamic": Aggregation(  # the paper's
        params=lambda h, P: P * h * h + h + h * P + P,
        matrix_params=lambda h, P: P * h * h + h * P,
        flops=lambda h, P: 2 * (P * h * h + 2 * P * h),
        kept=lambda h, P: 2 * P * h + 2 * h + 2 * P,
        module="DynamicAggregator",
    ),
    "mean": Aggregation(
        params=lambda h, P: 0,
        matrix_params=lambda h, P: 0,
        flops=lambda h, P: 0,
        kept=lambda h, P: 0,
        module="MeanAggregator",
    ),
    "channel": Aggregation(
        params=lambda h, P: P * h,
        matrix_params=lambda h, P: P * h,
        flops=lambda h, P: 2 * P * h,
        kept=lambda h, P: P * h,
        module="ChannelAggregator",
    ),
}


def get_aggregation(kind: str) -> Aggregation:
    """Return the aggregation of that name. Raises `ValueError` naming those there are."""
    if kind not in AGGREGATIONS:
        raise ValueError(f"aggregation {kind!r}: choose one of {', '.join(AGGREGATIONS)}")
    return AGGREGATIONS[kind]
