"""Limits that a sweep can exceed: the memory of the machine, and the tokens of its text."""

from __future__ import annotations

from collections.abc import Sequence

from scalelab.errors import UsageError
from scalelab.train.cost import resident_bytes
from scalelab.train.device import device_memory_bytes
from scalelab.train.recipe import RunConfig
from scalelab.units import format_bytes, format_count

MANY_PASSES = 4.0  # up to about this many, repeated text is worth nearly as much as new text (arXiv 2305.16264)


def check_memory(runs: Sequence[RunConfig], device: str) -> None:
    """Refuse runs that cannot fit on `device` even with one sequence at a time.

    Raises:
        UsageError: The smallest memory that a run needs is more than there is.
    """
    available = device_memory_bytes(device)
    for config in runs:
        needed = resident_bytes(config, device, 1)
        if available and needed > available:
            shape = config.architecture
            raise UsageError(
                f"N {format_count(shape.backbone_params)} with P {shape.P} needs {format_bytes(needed)} to train, and "
                f"{_name(device)} has {format_bytes(available)}; choose smaller `N` or `P`"
            )


def limit_warnings(runs: Sequence[RunConfig], device: str, at_once: int, train_tokens: int) -> list[str]:
    """Return warnings about runs that need more memory than there is, or repeat their text many times.

    Args:
        runs: Runs to train.
        device: Device to train on.
        at_once: Runs that train at the same time.
        train_tokens: Tokens of the training text.
    """
    warnings = []
    available = device_memory_bytes(device)
    largest = max((resident_bytes(config, device) for config in runs), default=0)
    together = largest * (at_once if device == "cpu" else 1)
    if available and largest > available:
        warnings.append(
            f"the largest run needs {format_bytes(largest)} with a whole batch at once, and {_name(device)} has "
            f"{format_bytes(available)}: it may not fit"
        )
    elif available and together > available:
        warnings.append(
            f"{at_once} runs at once may need {format_bytes(together)}, and {_name(device)} has "
            f"{format_bytes(available)}: choose fewer `workers`"
        )
    longest = max((config.n_tokens for config in runs), default=0)
    if train_tokens and longest / train_tokens > MANY_PASSES:
        warnings.append(
            f"D {format_count(longest)} is {longest / train_tokens:,.0f} passes over the {format_count(train_tokens)} "
            "training tokens of this text: the losses will be of repeated text"
        )
    return warnings


def _name(device: str) -> str:
    return "this machine" if device == "cpu" else device.split(":")[0]
