"""Status of a run in its record."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """Outcome of a run. Laws are fitted only to runs that are ok."""

    OK = "ok"
    """The run reached its last step and was evaluated. There is nothing to do."""

    DIVERGED = "diverged"
    """The loss ran away or became no number. Lower `lr` or lengthen the warm-up; the same settings diverge again, so a
    sweep repeats such a run only when it is asked to retry."""

    OUT_OF_MEMORY = "out_of_memory"
    """Not even one sequence at a time fits. Choose a smaller N, P or sequence length, or a device with more memory; the
    same command then tries again."""

    FAILED = "failed"
    """An error ended the run. Read `message` and the log that it names, and fix the cause; the same command then
    tries again."""

    INTERRUPTED = "interrupted"
    """A person, a scheduler or the loss of a machine ended the run. The same command goes on from its last saved
    state."""

    @property
    def words(self) -> str:
        """The status as a reader sees it: ``out of memory``."""
        return self.replace("_", " ")
