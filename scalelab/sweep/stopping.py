"""Signals that stop a sweep: Ctrl-C, SIGTERM and SIGHUP.

Schedulers and `kill` send SIGTERM; a terminal that closes and a connection that drops send SIGHUP. All act alike.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scalelab.errors import InterruptedSweepError

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_SIGNALS = (signal.SIGINT, *_ENDING)
_AT_ONCE_S = 10.0


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived: whatever tidies up after Ctrl-C does so after them too."""

    number = signal.SIGTERM


class _Handler:
    """Raises `Terminated`, except for a signal that arrives soon after the first."""

    def __init__(self) -> None:
        self.raised_at: float | None = None
        self.number = signal.SIGTERM

    def __call__(self, number: int, _frame: Any) -> None:
        # `timeout` sends two at once. A later one counts: the first may have come where an exception is lost.
        if self.raised_at is None or time.monotonic() - self.raised_at > _AT_ONCE_S:
            self.raised_at = time.monotonic()
            self.number = signal.Signals(number)
            stop = Terminated()
            stop.number = self.number
            raise stop


def signal_of(stop: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that raised `stop`, caught where a sweep is `terminable`.

    Ray turns SIGTERM into what Ctrl-C raises; the handler remembers.
    """
    if isinstance(stop, Terminated):
        return stop.number
    for number in _ENDING:
        handler = signal.getsignal(number)
        if isinstance(handler, _Handler) and handler.raised_at is not None:
            return handler.number
    return signal.SIGINT


def describe(stop: KeyboardInterrupt) -> str:
    """Return the name of the signal for messages."""
    number = signal_of(stop)
    return "Ctrl-C" if number == signal.SIGINT else number.name


def interrupted(stop: KeyboardInterrupt, rest: str) -> InterruptedSweepError:
    """Return the error that ends a sweep, ``interrupted`` and `rest`; its exit code is the one shells report."""
    number = signal_of(stop)
    if number == signal.SIGINT:
        return InterruptedSweepError(f"interrupted{rest}")
    error = InterruptedSweepError(f"interrupted by {number.name}{rest}")
    error.exit_code = 128 + number
    return error


@contextmanager
def terminable(over: bool = False) -> Iterator[None]:
    """Raise `Terminated` for SIGTERM and SIGHUP in here; another soon after does not disturb what the first began.

    Earlier handlers come back at the end. A handler that the program has set itself stays in place, unless `over`, and
    so does an ignored SIGHUP, as below `nohup`. Outside of the main thread, where signals never arrive, nothing
    changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    handler = _Handler()
    taken = [
        number
        for number, current in before.items()
        if current is signal.SIG_DFL or (over and current is not signal.SIG_IGN)
    ]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number] or signal.SIG_DFL)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Restore SIGTERM's handler at the end, whatever was set in here."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def stopped_later() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP in here take effect at the end."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda arrived, _: came.append(arrived))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not set from Python
    for number in came[:1]:
        signal.raise_signal(number)
