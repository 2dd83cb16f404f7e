"""Batches from token arrays: the same data order for every N and P of one seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scalelab.errors import DataError


def _windows(tokens: np.ndarray, starts: np.ndarray, seq_len: int) -> np.ndarray:
    """Windows [len(starts), seq_len + 1]: inputs and, one on, their labels."""
    return tokens[starts[:, None] + np.arange(seq_len + 1)].astype(np.int64)


def training_batches(
    tokens: np.ndarray, seq_len: int, batch_size: int, steps: int, seed: int, first: int = 0
) -> Iterator[np.ndarray]:
    """Batches [batch_size, seq_len + 1] of token ids, those from the number `first` up to `steps`.

    Windows do not overlap; each pass over the text has a new order, drawn from `seed` alone.
    Raises `DataError` if the text is shorter than one batch.
    """
    count = (len(tokens) - 1) // seq_len
    if count < batch_size:
        raise DataError(
            f"the training text has {len(tokens)} tokens, less than one batch of "
            f"{batch_size} × {seq_len}; give more text"
        )
    rng = np.random.default_rng([seed, 0x5CA1E])
    order = rng.permutation(count)
    for number in range(steps):
        if len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(count)])
        if number >= first:
            yield _windows(tokens, order[:batch_size] * seq_len, seq_len)
        order = order[batch_size:]


def validation_windows(
    tokens: np.ndarray, document_starts: np.ndarray, seq_len: int, n_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """A fixed validation set, spread evenly over the split.

    Returns windows [w, seq_len + 1], at least two of them, and for each the index of the
    document in which it begins [w].
    """
    available = (len(tokens) - 1) // seq_len
    count = min(max(2, n_tokens // seq_len), available)
    if available < 2:
        raise DataError(f"the validation text has only {len(tokens)} tokens; give more text")
    starts = np.arange(count) * available // count * seq_len
    documents = np.searchsorted(document_starts, starts, side="right") - 1
    return _windows(tokens, starts, seq_len), documents
