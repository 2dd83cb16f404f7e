"""The two errors a user can meet, each one clear line.

`UsageError` means the request was wrong (exit code 2); `ScalelabError` means that the
request was fine and could not be carried out (exit code 1).
"""

from __future__ import annotations

from typing import Any


class ScalelabError(Exception):
    """Something failed. The message names the file, column or value and what to do."""

    exit_code = 1


class UsageError(ScalelabError):
    """The request itself is wrong: a flag, a value or an impossible combination."""

    exit_code = 2


class TrainingError(ScalelabError):
    """A run cannot be trained to its end. Its record says `status`; `state` is how far it came, if that is known."""

    status = "failed"

    def __init__(self, message: str, state: Any = None) -> None:
        super().__init__(message)
        self.state = state


class DivergedError(TrainingError):
    """Training ran away or into a loss that is no number. The message says where."""

    status = "diverged"


class MemoryShortError(TrainingError):
    """Not even the smallest piece of work fits into memory."""

    status = "out_of_memory"


class InterruptedSweepError(ScalelabError):
    """A person or a scheduler stopped it. The message says what is kept."""

    exit_code = 130  # as shells report SIGINT; where it was SIGTERM, 143


class DataError(ScalelabError):
    """A file or table cannot be used. The message names the file and the column."""
