"""Signals that stop a sweep: Ctrl-C, SIGTERM and SIGHUP, all with the same effect.

Schedulers and `kill` send SIGTERM; a closed terminal or a dropped connection sends SIGHUP.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scalelab.errors import InterruptedSweepError

_TERMINATING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_SIGNALS = (signal.SIGINT, *_TERMINATING)
_REPEAT_S = 10.0


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived; a KeyboardInterrupt, so that the clean-up after Ctrl-C runs."""

    number = signal.SIGTERM


class _Handler:
    """Signal handler that raises `Terminated`, except for a signal soon after another."""

    def __init__(self) -> None:
        self.raised_at: float | None = None
        self.number = signal.SIGTERM

    def __call__(self, number: int, _frame: Any) -> None:
        # `timeout` sends two in a row. A later signal raises again: the first exception may have been lost.
        if self.raised_at is None or time.monotonic() - self.raised_at > _REPEAT_S:
            self.raised_at = time.monotonic()
            self.number = signal.Signals(number)
            stop = Terminated()
            stop.number = self.number
            raise stop


def caught_signal(stop: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that raised `stop` inside `sigterm_as_interrupt`.

    Ray replaces the exception by a plain KeyboardInterrupt, so the handler remembers the signal.
    """
    if isinstance(stop, Terminated):
        return stop.number
    for number in _TERMINATING:
        handler = signal.getsignal(number)
        if isinstance(handler, _Handler) and handler.raised_at is not None:
            return handler.number
    return signal.SIGINT


def signal_name(stop: KeyboardInterrupt) -> str:
    """Return the name of the signal that raised `stop`, for messages."""
    number = caught_signal(stop)
    return "Ctrl-C" if number == signal.SIGINT else number.name


def interruption_error(stop: KeyboardInterrupt, rest: str) -> InterruptedSweepError:
    """Return the error for a stopped command, "interrupted" and `rest`, with the exit code that shells use."""
    number = caught_signal(stop)
    if number == signal.SIGINT:
        return InterruptedSweepError(f"interrupted{rest}")
    error = InterruptedSweepError(f"interrupted by {number.name}{rest}")
    error.exit_code = 128 + number
    return error


@contextmanager
def sigterm_as_interrupt(override: bool = False) -> Iterator[None]:
    """Raise `Terminated` for SIGTERM and SIGHUP in the block; another signal soon after the first is ignored.

    Earlier handlers are restored at the end. A handler that the program has set stays, unless `override`, and so does
    an ignored SIGHUP, as with `nohup`. Outside the main thread, which never receives signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _TERMINATING}
    handler = _Handler()
    taken = [
        number
        for number, current in before.items()
        if current is signal.SIG_DFL or (override and current is not signal.SIG_IGN)
    ]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number] or signal.SIG_DFL)


@contextmanager
def restore_sigterm() -> Iterator[None]:
    """Restore SIGTERM's handler at the end of the block."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Delay Ctrl-C, SIGTERM and SIGHUP until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set from Python
    for number in arrived[:1]:
        signal.raise_signal(number)
