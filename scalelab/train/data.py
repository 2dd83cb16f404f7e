"""Batches from token arrays: the same data order for every N and P of one seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from scalelab.errors import DataError
from scalelab.units import plural


def slice_windows(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Return `length` tokens from each of `starts`, [len(starts), length]."""
    return tokens[starts[:, None] + np.arange(length)].astype(np.int64)


def evenly_spaced(n_tokens: int, seq_len: int, available: int) -> np.ndarray:
    """Return the numbers of windows for `n_tokens`, at least two, evenly spaced over the `available` ones."""
    count = min(max(2, n_tokens // seq_len), available)
    return np.arange(count) * available // count


def window_order(count: int, batch_size: int, steps: int, seed: int, first: int = 0) -> Iterator[np.ndarray]:
    """Yield the numbers, below `count`, of the windows of each step, [batch_size], from step `first` up to `steps`.

    Each pass over the windows has a new order, which depends only on `seed`.
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
    """Windows of seq_len + 1 tokens of a text, delivered on the training device.

    On CUDA the whole text is copied there once if it takes less than an eighth of the free memory.

    Raises:
        DataError: the text is shorter than one batch.
    """

    def __init__(self, tokens: np.ndarray, seq_len: int, batch_size: int, device: str) -> None:
        self.tokens, self.seq_len, self.device = tokens, seq_len, device
        self.count = (len(tokens) - 1) // seq_len
        if self.count < batch_size:
            raise DataError(
                f"the training text has {plural(len(tokens), 'token')}, less than one batch of "
                f"{batch_size} × {seq_len}; give more text"
            )
        self.device_tokens: torch.Tensor | None = None
        if device.startswith("cuda") and tokens.nbytes < torch.cuda.mem_get_info(device)[0] / 8:
            self._move_to_device()

    def _move_to_device(self) -> None:
        """Copy the text to the device."""
        whole = np.ascontiguousarray(self.tokens)
        signed = {"uint16": np.int16, "uint32": np.int32}.get(
            whole.dtype.name, whole.dtype
        )  # torch can index only these types
        self.mask = 0xFFFF if whole.dtype == np.uint16 else -1
        self.device_tokens = torch.from_numpy(whole.view(signed)).to(self.device)
        self.offsets = torch.arange(self.seq_len + 1, device=self.device)

    def on_device(self, numbers: np.ndarray) -> torch.Tensor:
        """Copy window numbers to the device without waiting for it."""
        tensor = torch.from_numpy(np.ascontiguousarray(numbers))
        if not self.device.startswith("cuda"):
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def gather(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the windows [len(numbers), seq_len + 1] of a text that is on the device."""
        assert self.device_tokens is not None
        return self.device_tokens[numbers[:, None] * self.seq_len + self.offsets].long() & self.mask

    def batch(self, numbers: np.ndarray) -> torch.Tensor:
        """Return the windows [len(numbers), seq_len + 1] of token ids."""
        if self.device_tokens is not None:
            return self.gather(self.on_device(numbers))
        return self.on_device(slice_windows(self.tokens, numbers * self.seq_len, self.seq_len + 1))


def validation_windows(
    tokens: np.ndarray, document_starts: np.ndarray, seq_len: int, n_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a fixed validation set, evenly spaced over the split.

    Returns:
        Windows [w, seq_len + 1], at least two, and the index [w] of the document in which each of them starts.
    """
    available = (len(tokens) - 1) // seq_len
    if available < 2:
        raise DataError(
            f"the validation text has only {plural(len(tokens), 'token')}, less than two sequences of {seq_len}; "
            "give more text"
        )
    starts = evenly_spaced(n_tokens, seq_len, available) * seq_len
    documents = np.searchsorted(document_starts, starts, side="right") - 1
    return slice_windows(tokens, starts, seq_len + 1), documents
