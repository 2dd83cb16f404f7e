"""The errors a user can meet, each one clear line.

`UsageError` means the request was wrong (exit code 2); `ScalelabError` means that the
request was fine and could not be carried out (exit code 1).

The library speaks Python: an error about one argument names it in `argument`, and a message refers to other
arguments in backquotes, such as ``use `engine='roofline'` ``. The command line turns both into its flags.
"""

from __future__ import annotations

from typing import Any

from scalelab.status import RunStatus

_UNSET: Any = object()


class ScalelabError(Exception):
    """Something failed. The message names the file, argument, column or value and what to do.

    Attributes:
        argument: The name of the argument that is at fault, or None.
        value: The value it had, where the message shows it.
        reason: The message without the two.
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
        """Whether the message shows the value of `argument`."""
        return self.value is not _UNSET

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross between processes as the finished message, with what is known beside it."""
        known = {name: value for name, value in self.__dict__.items() if value is not _UNSET}
        return _restored, (type(self), self.args[0], known)


def _restored(kind: type[ScalelabError], message: str, known: dict[str, Any]) -> ScalelabError:
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    error.__dict__.update({"value": _UNSET} | known)
    return error


class UsageError(ScalelabError, ValueError):
    """The request itself is wrong: an argument, a value or an impossible combination."""

    exit_code = 2


class NotPricedError(UsageError):
    """A cost model cannot price this device, precision or shape. `because` says why, without advice."""

    because = ""

    def __init__(self, because: str, advice: str, *, argument: str | None = None, value: Any = _UNSET) -> None:
        super().__init__(f"{because}; {advice}", argument=argument, value=value)
        head = f"{value}: " if argument is not None and value is not _UNSET else ""
        self.because = head + because


class TrainingError(ScalelabError):
    """A run cannot be trained to its end. Its record says `status`; `state` is how far it came, if that is known."""

    status = RunStatus.FAILED

    def __init__(self, message: str, state: Any = None) -> None:
        super().__init__(message)
        self.state = state


class DivergedError(TrainingError):
    """Training ran away or into a loss that is no number. The message says where."""

    status = RunStatus.DIVERGED


class MemoryShortError(TrainingError):
    """Not even the smallest piece of work fits into memory."""

    status = RunStatus.OUT_OF_MEMORY


class InterruptedSweepError(ScalelabError):
    """A person or a scheduler stopped it. The message says what is kept."""

    exit_code = 130  # as shells report SIGINT; where it was SIGTERM, 143


class DataError(ScalelabError):
    """A file or table cannot be used. The message names the file and the column."""


class MissingPackageError(ScalelabError):
    """An optional package is needed and not installed. The message has the command that installs it."""


def choice_error(argument: str, value: Any, choices: Any, advice: str = "") -> UsageError:
    """The error for a value that is none of `choices`: it lists them all and names the nearest."""
    from difflib import get_close_matches

    names = [str(choice) for choice in choices]
    near = get_close_matches(str(value).lower(), names, 1, 0.6)
    meant = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"{meant}choose one of {', '.join(names)}{advice}", argument=argument, value=value)
