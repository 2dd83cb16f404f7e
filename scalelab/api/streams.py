"""Give a model of transformers streams, in place."""

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
    """Give a causal language model of transformers banks of streams, in place.

    Afterwards ``model.set_streams(P)`` chooses a bank, ``model.plain()`` is a context without any, and
    ``model.save_pretrained`` saves all of them.

    Args:
        model: Any decoder of transformers that uses its attention interface.
        P: Streams, a bank for each.
        prefix_tokens: Prefix length of each stream, 48 by default.
        smooth: Smoothing of the mixture's weights.
        aggregation: How streams are mixed.
        seed: Seed of the start.

    Returns:
        The model.

    Raises:
        ValueError: The model cannot have streams; the message says why.
    """
    need_torch("add_streams")
    from scalelab.model import add_streams as add

    return add(model, P, prefix_tokens, smooth, aggregation, seed)
