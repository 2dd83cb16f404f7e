"""Streams for transformers models in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from scalelab.api.loading import need_torch

__all__ = ["add_streams"]


def add_streams(
    model: Any,
    P: int | Sequence[int],
    prefix_tokens: int | None = None,
    smooth: float = 0.01,
    aggregation: Literal["dynamic", "mean", "channel"] = "dynamic",
    seed: int = 0,
) -> Any:
    """Add banks of streams to a causal language model of transformers, in place.

    Afterwards ``model.set_streams(P)`` selects a bank, ``model.plain()`` is a context manager without streams, and
    ``model.save_pretrained`` saves all banks.

    Args:
        model: Any decoder of transformers that uses its attention interface.
        P: Numbers of streams; each gets its own bank.
        prefix_tokens: Prefix length of each stream, 48 by default.
        smooth: Smoothing ε of the aggregator's weights: w ← w(1−ε) + ε/P.
        aggregation: Aggregator: "dynamic" (the paper's), "mean" or "channel".
        seed: Seed of the initial values.

    Returns:
        The same model.

    Raises:
        ValueError: The model cannot have streams; the message gives the reason.
        MissingPackageError: torch or transformers is not installed.
    """
    need_torch("add_streams")
    from scalelab.model import add_streams as add

    return add(model, P, prefix_tokens, smooth, aggregation, seed)
