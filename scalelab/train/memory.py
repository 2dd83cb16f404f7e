"""Running out of memory: what it looks like, and how to make room again."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from scalelab.errors import MemoryShortError

# How torch words it where it raises a plain RuntimeError: its CPU allocator, and libraries below it.
_WORDS = ("allocate memory", "out of memory", "not enough memory", "bad_alloc", "could not allocate", "alloc_failed")


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
