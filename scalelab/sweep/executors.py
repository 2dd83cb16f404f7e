"""Executors of sweeps and what each needs. Importing this module does not import torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from scalelab.errors import UsageError, choice_error

Executor = Literal["local", "ray"]
EXECUTORS: tuple[Executor, ...] = ("local", "ray")


def check_executor(executor: str, address: str | None, tensorboard: bool) -> None:
    """Raise `UsageError` for an executor, an address or a log that cannot be used."""
    if executor not in EXECUTORS:
        raise choice_error("executor", executor, EXECUTORS)
    if address is not None and executor != "ray":
        raise UsageError("needs `executor='ray'`", argument="address")
    if tensorboard and find_spec("tensorboard") is None:
        raise UsageError("needs the package tensorboard: pip install 'scalelab[tensorboard]'", argument="tensorboard")
