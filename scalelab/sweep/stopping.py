"""What stops a sweep from outside: Ctrl-C, and SIGTERM, which schedulers and `kill` send and which acts alike."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scalelab.errors import InterruptedSweepError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AT_ONCE_S = 10.0


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whatever tidies up after Ctrl-C does so after it too."""


class _Handler:
    """Of SIGTERM: raises `Terminated`, but for what comes soon after the first."""

    def __init__(self) -> None:
        self.raised_at: float | None = None

    def __call__(self, _number: int, _frame: Any) -> None:
        # `timeout` sends two at once. A later one counts: the first may have come where an exception is lost.
        if self.raised_at is None or time.monotonic() - self.raised_at > _AT_ONCE_S:
            self.raised_at = time.monotonic()
            raise Terminated


def by_sigterm(stop: KeyboardInterrupt) -> bool:
    """Whether `stop`, caught where a sweep is `terminable`, was SIGTERM: Ray makes of it what Ctrl-C raises."""
    handler = signal.getsignal(signal.SIGTERM)
    return isinstance(stop, Terminated) or (isinstance(handler, _Handler) and handler.raised_at is not None)


def describe(stop: KeyboardInterrupt) -> str:
    """What it was, in a word."""
    return "SIGTERM" if by_sigterm(stop) else "Ctrl-C"


def interrupted(stop: KeyboardInterrupt, rest: str) -> InterruptedSweepError:
    """The error that ends a sweep, ``interrupted`` and `rest`; its exit code is what shells report of the signal."""
    if not by_sigterm(stop):
        return InterruptedSweepError(f"interrupted{rest}")
    error = InterruptedSweepError(f"interrupted by SIGTERM{rest}")
    error.exit_code = 128 + signal.SIGTERM
    return error


@contextmanager
def terminable(over: bool = False) -> Iterator[None]:
    """SIGTERM in here raises `Terminated`; another soon after does not disturb what the first has begun.

    The handler that was there before comes back in the end. One of a program of its own stays in place, unless `over`.
    Outside of the main thread, where signals never arrive, nothing changes.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not (over or before is signal.SIG_DFL):
        yield
        return
    signal.signal(signal.SIGTERM, _Handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Afterwards SIGTERM has the handler that it had before, whatever was set in here."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def stopped_later() -> Iterator[None]:
    """Ctrl-C and SIGTERM in here take effect at the end."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        signal.signal(number, lambda arrived, _: came.append(arrived))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not set from Python
    for number in came[:1]:
        signal.raise_signal(number)
