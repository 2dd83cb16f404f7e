"""Running out of memory: what it looks like, and how to make room again."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from scalelab.errors import MemoryShortError
from scalelab.train.cost import resident_bytes
from scalelab.train.recipe import RunConfig

_PLANNED = 0.9  # of the free memory is planned with

# How torch words it where it raises a plain RuntimeError: its CPU allocator, and libraries below it.
_WORDS = ("allocate memory", "out of memory", "not enough memory", "bad_alloc", "could not allocate", "alloc_failed")


def fitting_micro_batch(config: RunConfig, device: str) -> int:
    """Return how many sequences to compute at once on `device`: an equal part of the batch that fits by prediction.

    On a CPU the whole batch, so that losses do not depend on what else runs there. Where the prediction is too low,
    the training step halves the part.
    """
    batch = config.recipe.batch_size
    if not device.startswith("cuda"):
        return batch
    room = _PLANNED * torch.cuda.mem_get_info(device)[0]
    return largest_part(batch, lambda rows: resident_bytes(config, device, rows) <= room)


def largest_part(batch: int, fits: Callable[[int], bool]) -> int:
    """Return the largest divisor of `batch` that `fits`, or 1."""
    return next((rows for rows in range(batch, 1, -1) if batch % rows == 0 and fits(rows)), 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory, of the host or of a device, did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


def free_memory() -> None:
    """Give back what no tensor uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def memory_told(name: str, advice: str) -> Iterator[None]:
    """Where memory runs out in here, `MemoryShortError` is raised, a line with `name` and `advice`."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            first = str(error).splitlines() or ["no more memory"]
            raise MemoryShortError(f"{name}: out of memory ({first[0]}); {advice}") from None
        raise
