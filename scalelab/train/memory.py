"""Out-of-memory errors: recognising, translating and avoiding them."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from scalelab.errors import MemoryShortError
from scalelab.train.cost import resident_bytes
from scalelab.train.recipe import RunConfig

_USABLE_SHARE = 0.9  # of the free memory

# Texts of plain RuntimeErrors from torch's CPU allocator and the libraries below it.
_OOM_PHRASES = (
    "allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "could not allocate",
    "alloc_failed",
)


def fitting_micro_batch(config: RunConfig, device: str) -> int:
    """Return the micro-batch for `device`: the largest equal part of the batch predicted to fit, in sequences.

    On a CPU it is the whole batch, so that losses do not depend on other processes. If the prediction is too low, the
    training step halves the micro-batch.
    """
    batch = config.recipe.batch_size
    if not device.startswith("cuda"):
        return batch
    room = _USABLE_SHARE * torch.cuda.mem_get_info(device)[0]
    return largest_part(batch, lambda rows: resident_bytes(config, device, rows) <= room)


def largest_part(batch: int, fits: Callable[[int], bool]) -> int:
    """Return the largest divisor of `batch` that `fits`, or 1."""
    return next((rows for rows in range(batch, 1, -1) if batch % rows == 0 and fits(rows)), 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Return true if `error` means that the host or a device ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in _OOM_PHRASES)


def free_memory() -> None:
    """Release memory that no tensor uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def translate_oom(name: str, advice: str) -> Iterator[None]:
    """Turn an out-of-memory error in the block into a `MemoryShortError` with `name` and `advice`."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            first = str(error).splitlines() or ["no more memory"]
            raise MemoryShortError(f"{name}: out of memory ({first[0]}); {advice}") from None
        raise
