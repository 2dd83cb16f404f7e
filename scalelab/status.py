"""Status of a run, as its record holds it."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """Outcome of a run. Laws are fitted only to runs with status ok."""

    OK = "ok"
    """The run reached its last step and was evaluated."""

    DIVERGED = "diverged"
    """The loss grew without bound or became NaN. Lower `lr` or lengthen the warm-up. The same settings would diverge
    again, so a sweep repeats such a run only with `retry`."""

    OUT_OF_MEMORY = "out_of_memory"
    """Not even one sequence at a time fits into memory. Choose a smaller N, P or sequence length, or a device with more
    memory; the same command tries again."""

    FAILED = "failed"
    """An error ended the run. Read `message` and the log it names and fix the cause; the same command tries again."""

    INTERRUPTED = "interrupted"
    """A user, a scheduler or the loss of a machine ended the run. The same command resumes from the last checkpoint."""

    @property
    def words(self) -> str:
        """The status in words: ``out of memory``."""
        return self.replace("_", " ")
