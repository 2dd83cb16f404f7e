"""Batches from token arrays: the same data order for every N and P of one seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from scalelab.errors import DataError
from scalelab.units import plural


def cut(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Return the `length` tokens from each of `starts` on, [len(starts), length]."""
    return tokens[starts[:, None] + np.arange(length)].astype(np.int64)


def spread(n_tokens: int, seq_len: int, available: int) -> np.ndarray:
    """Return numbers of windows for `n_tokens`, two or more, spread evenly over those that are `available`."""
    count = min(max(2, n_tokens // seq_len), available)
    return np.arange(count) * available // count


def training_starts(count: int, batch_size: int, steps: int, seed: int, first: int = 0) -> Iterator[np.ndarray]:
    """Yield the windows [batch_size] of each step, from the step `first` up to `steps`, as numbers below `count`.

    Each pass over the windows has a new order, drawn from `seed` alone.
    """
    rng = np.random.default_rng([seed, 0x5CA1E])
    order = rng.permutation(count)
    for number in range(steps):
        if len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(count)])
        if number >= first:
            yield order[:batch_size]
        order = order[batch_size:]


class TokenWindows:
    """Windows of seq_len + 1 tokens of a text, on the device that trains on them.

    On CUDA the text is copied there once, if it takes less than an eighth of the free memory.

    Raises `DataError` if the text is shorter than one batch.
    """

    def __init__(self, tokens: np.ndarray, seq_len: int, batch_size: int, device: str) -> None:
        self.tokens, self.seq_len, self.device = tokens, seq_len, device
        self.count = (len(tokens) - 1) // seq_len
        if self.count < batch_size:
            raise DataError(
                f"the training text has {plural(len(tokens), 'token')}, less than one batch of "
                f"{batch_size} × {seq_len}; give more text"
            )
        self.there: torch.Tensor | None = None
        if device.startswith("cuda") and tokens.nbytes < torch.cuda.mem_get_info(device)[0] / 8:
            self._place()

    def _place(self) -> None:
        """Copy the text to the device."""
        whole = np.ascontiguousarray(self.tokens)
        signed = {"uint16": np.int16, "uint32": np.int32}.get(whole.dtype.name, whole.dtype)  # torch gathers only these
        self.mask = 0xFFFF if whole.dtype == np.uint16 else -1
        self.there = torch.from_numpy(whole.view(signed)).to(self.device)
        self.offsets = torch.arange(self.seq_len + 1, device=self.device)

    def on_device(self, numbers: np.ndarray) -> torch.Tensor:
        """Return window numbers on the device, copied without waiting for it."""
        held = torch.from_numpy(np.ascontiguousarray(numbers))
        return held.pin_memory().to(self.device, non_blocking=True) if self.device.startswith("cuda") else held

    def gather(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the windows [len(numbers), seq_len + 1] of a text that is on the device."""
        assert self.there is not None
        return self.there[numbers[:, None] * self.seq_len + self.offsets].long() & self.mask

    def batch(self, numbers: np.ndarray) -> torch.Tensor:
        """Return the windows [len(numbers), seq_len + 1] of token ids."""
        if self.there is not None:
            return self.gather(self.on_device(numbers))
        return self.on_device(cut(self.tokens, numbers * self.seq_len, self.seq_len + 1))


def validation_windows(
    tokens: np.ndarray, document_starts: np.ndarray, seq_len: int, n_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """A fixed validation set, spread evenly over the split.

    Returns windows [w, seq_len + 1], at least two of them, and for each the index of the
    document in which it begins [w].
    """
    available = (len(tokens) - 1) // seq_len
    if available < 2:
        raise DataError(f"the validation text has only {plural(len(tokens), 'token')}; give more text")
    starts = spread(n_tokens, seq_len, available) * seq_len
    documents = np.searchsorted(document_starts, starts, side="right") - 1
    return cut(tokens, starts, seq_len + 1), documents
