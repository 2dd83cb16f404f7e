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


def describe(stop: KeyboardInterrupt) -> str:
    """What it was, in a word."""
    return "SIGTERM" if isinstance(stop, Terminated) else "Ctrl-C"


def interrupted(stop: KeyboardInterrupt, rest: str) -> InterruptedSweepError:
    """The error that ends a sweep, ``interrupted`` and `rest`; its exit code is what shells report of the signal."""
    by = " by SIGTERM" if isinstance(stop, Terminated) else ""
    error = InterruptedSweepError(f"interrupted{by}{rest}")
    if isinstance(stop, Terminated):
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
    raised_at: list[float] = []

    def stop(_number: int, _frame: Any) -> None:
        # `timeout` sends two at once. A later one counts: the first may have come where an exception is lost.
        if not raised_at or time.monotonic() - raised_at[-1] > _AT_ONCE_S:
            raised_at.append(time.monotonic())
            raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
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
