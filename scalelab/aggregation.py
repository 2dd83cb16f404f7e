"""Aggregators, which combine P streams of width h into one, with their parameter and compute costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Aggregation:
    """One kind of aggregator. The functions take the hidden size h and P."""

    params: Callable[[int, int], int]
    matrix_params: Callable[[int, int], int]  # as `params`, without biases
    flops: Callable[[int, int], int]  # of the forward pass, per token
    kept: Callable[[int, int], int]  # activations kept for the backward pass, in numbers per token
    module: str  # its class in scalelab.model.aggregators, which needs torch

    def create_module(self, hidden_size: int, P: int, smooth: float) -> Any:
        """Return the aggregator as a torch module."""
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
    """Return an aggregator by name.

    Raises:
        ValueError: There is no such aggregator; the message lists the choices.
    """
    if kind not in AGGREGATIONS:
        raise ValueError(f"aggregation {kind!r}: choose one of {', '.join(AGGREGATIONS)}")
    return AGGREGATIONS[kind]
