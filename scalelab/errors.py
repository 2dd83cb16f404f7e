"""Errors for users, each with a message of one line.

`UsageError` means that the request is wrong (exit code 2); `ScalelabError` means that a valid request
could not be carried out (exit code 1).

Messages use Python names: an error about one argument names it in `argument`, and a message refers to other
arguments in backquotes, such as ``use `engine='roofline'` ``. The command line turns both into flags.
"""

from __future__ import annotations

from typing import Any

from scalelab.status import RunStatus

_UNSET: Any = object()


class ScalelabError(Exception):
    """Base class of all errors. The message names the file, argument, column or value, and what to do.

    Attributes:
        argument: Name of the wrong argument, or None.
        value: Value of that argument, if the message shows it.
        reason: The message without argument and value.
    """

    exit_code = 1
    argument: str | None = None
    value: Any = _UNSET
    reason: str = ""

    def __init__(self, message: str, *, argument: str | None = None, value: Any = _UNSET) -> None:
        self.reason, self.argument, self.value = message, argument, value
        head = "" if argument is None else f"{argument}: " if value is _UNSET else f"{argument}={value!r}: "
        super().__init__(head + message)

    @property
    def shows_value(self) -> bool:
        """True if the message shows the value of `argument`."""
        return self.value is not _UNSET

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the finished message with the attributes that are set."""
        known = {name: value for name, value in self.__dict__.items() if value is not _UNSET}
        return _restored, (type(self), self.args[0], known)


def _restored(kind: type[ScalelabError], message: str, known: dict[str, Any]) -> ScalelabError:
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    error.__dict__.update({"value": _UNSET} | known)
    return error


class UsageError(ScalelabError, ValueError):
    """A wrong request: an argument, a value or a combination of them."""

    exit_code = 2


class NotPricedError(UsageError):
    """A device, precision or shape that a cost model does not support. `because` is the reason, without advice."""

    because = ""

    def __init__(self, because: str, advice: str, *, argument: str | None = None, value: Any = _UNSET) -> None:
        super().__init__(f"{because}; {advice}", argument=argument, value=value)
        head = f"{value}: " if argument is not None and value is not _UNSET else ""
        self.because = head + because


class TrainingError(ScalelabError):
    """A run that cannot be finished. `status` is for its record; `state` is the last training state, if known."""

    status = RunStatus.FAILED

    def __init__(self, message: str, state: Any = None) -> None:
        super().__init__(message)
        self.state = state


class DivergedError(TrainingError):
    """A loss that grew without bound or became NaN. The message names the step."""

    status = RunStatus.DIVERGED


class MemoryShortError(TrainingError):
    """Too little memory for even the smallest micro-batch or request."""

    status = RunStatus.OUT_OF_MEMORY


class InterruptedSweepError(ScalelabError):
    """A sweep stopped by a user or a scheduler. The message lists what is kept."""

    exit_code = 130  # as shells report SIGINT; 143 after SIGTERM


class DataError(ScalelabError):
    """A file or table that cannot be used. The message names the file and the column."""


class MissingPackageError(ScalelabError):
    """An optional package that is not installed. The message has the command that installs it."""


def choice_error(argument: str, value: Any, choices: Any, advice: str = "") -> UsageError:
    """Return the error for a value that is not one of `choices`; it lists all of them and suggests the nearest."""
    from difflib import get_close_matches

    names = [str(choice) for choice in choices]
    near = get_close_matches(str(value).lower(), names, 1, 0.6)
    meant = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"{meant}choose one of {', '.join(names)}{advice}", argument=argument, value=value)


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, and the second if the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
