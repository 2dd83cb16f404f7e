"""A training step as a CUDA graph: hundreds of kernels started by one call.

A step of a small model is a thousand kernels of a few microseconds, and starting each from Python takes longer than
running it. The first steps run as usual, then one is captured, and every later one is replayed on new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalelab.train.data import TokenWindows
from scalelab.train.memory import free_memory, is_out_of_memory
from scalelab.train.step import TrainingStep, allocate_moments, has_dropout

# Between the first captured step and the usual one, of a step's length and of the loss. Kernels add in another order,
# and AdamW turns small gradients of either sign into steps of one size.
_MOST_OFF, _MOST_LOSS_OFF = 0.25, 1e-2
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # by families' own names
WARM_UP_STEPS = 3  # real steps, in which libraries load kernels and compiled code is made


def can_be_captured(model: Any, device: str) -> bool:
    """Return true if a step of `model` on `device` has the same kernels on the same memory each time.

    Experts are chosen on the host, dropout's noise is seeded there at each step, and decoders that look for packed
    sequences wait for the answer.
    """
    experts = any(getattr(model.config, name, None) for name in _EXPERTS)
    looks = not getattr(model.get_decoder(), "accepts_mask_dict", False)
    return device.startswith("cuda") and not experts and not looks and not has_dropout(model)


class Stepper:
    """Takes training steps on the windows of a text; on CUDA, as a captured graph where that is possible.

    Used in a ``with`` block, in which a step is ``stepper(numbers)`` with the numbers of the step's windows.

    Args:
        step: What a step is.
        windows: The text.
        alone: No other process trains the same model.
    """

    def __init__(self, step: TrainingStep, windows: TokenWindows, alone: bool = True) -> None:
        self.step, self.windows = step, windows
        self.captures = alone and windows.there is not None and can_be_captured(step.model, windows.device)
        self.captured: CapturedStep | None = None
        self.taken = 0
        self._stack = ExitStack()
        if alone and windows.device.startswith("cuda"):
            allocate_moments(step.optimizer)
        if self.captures:
            _prepare(step.optimizer)

    def __enter__(self) -> Stepper:
        if self.captures:
            self._stack.enter_context(_own_stream(self.windows.device))
        return self

    def __exit__(self, *error: object) -> None:
        self.captured = None
        self._stack.close()

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """Take a step; returns its mean cross entropy. Raises as `TrainingStep`."""
        self.taken += 1
        if self.captured is not None:
            return self.captured(numbers)
        if self.captures and self.taken == WARM_UP_STEPS + 1:
            return self._first_captured(numbers)
        return self.step(self.windows.batch(numbers))

    def _first_captured(self, numbers: np.ndarray) -> Tensor:
        """Capture the step and take it both ways; goes on with the graph only if both did the same."""
        captured = _capture(self.step, self.windows, len(numbers)) if _can_be_tried(self.step) else None
        if captured is None:
            return self.step(self.windows.batch(numbers))
        start = _snapshot(self.step)
        loss = captured(numbers)
        by_graph = _snapshot(self.step)
        _restore(self.step, start)
        usual = self.step(self.windows.batch(numbers))
        if _agree(start, by_graph, _snapshot(self.step), loss, usual):
            self.captured = captured
        return usual


def _prepare(optimizer: torch.optim.Optimizer) -> None:
    """Let `optimizer` be captured: its learning rates become tensors that a graph reads at each replay."""
    for group in optimizer.param_groups:
        group["capturable"] = True
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)


@contextmanager
def _own_stream(device: str) -> Iterator[None]:
    """Work on a stream of its own, as capturing needs; before and after, the device's usual one waits."""
    usual, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    stream.wait_stream(usual)
    with torch.cuda.stream(stream):
        yield
    usual.wait_stream(stream)


class CapturedStep:
    """Replays a `TrainingStep` on windows that begin at other places of the text.

    Raises RuntimeError on construction where the step cannot be captured; the model is then as it was.
    """

    def __init__(self, step: TrainingStep, windows: TokenWindows, rows: int) -> None:
        self.windows = windows
        self.numbers = torch.zeros(rows, dtype=torch.long, device=windows.device)
        self.graph = torch.cuda.CUDAGraph()
        step.optimizer.zero_grad(set_to_none=True)
        free_memory()  # the graph has memory of its own
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream(windows.device)):
            self.loss = step.once(windows.gather(self.numbers))

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """Take one step; returns its loss."""
        self.numbers.copy_(self.windows.on_device(numbers))
        self.graph.replay()
        return self.loss.clone()


def _held(step: TrainingStep) -> list[Tensor]:
    """Everything that a step changes: what learns, and the optimizer's state of it."""
    states = (step.optimizer.state[p] for p in step.trained)
    return [*step.trained, *(value for state in states for value in state.values() if isinstance(value, Tensor))]


def _can_be_tried(step: TrainingStep) -> bool:
    """Return true if a device has room for two more copies of all that a step changes."""
    held = _held(step)
    return held[0].device.type != "cuda" or 4 * sum(x.nbytes for x in held) < torch.cuda.mem_get_info(held[0].device)[0]


def _snapshot(step: TrainingStep) -> list[Tensor]:
    return [x.detach().clone() for x in _held(step)]


@torch.no_grad()
def _restore(step: TrainingStep, values: list[Tensor]) -> None:
    for held, value in zip(_held(step), values, strict=True):
        held.copy_(value)


def _agree(start: list[Tensor], first: list[Tensor], second: list[Tensor], *losses: Tensor) -> bool:
    """Return true if two steps from `start` had the same loss, and led to the same state but for rounding."""
    off = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(first, second, strict=True))
    moved = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(start, second, strict=True))
    return off <= _MOST_OFF**2 * moved and bool(torch.isclose(*losses, rtol=_MOST_LOSS_OFF, atol=0.0))


def _capture(step: TrainingStep, windows: TokenWindows, rows: int) -> CapturedStep | None:
    """Return the captured step, or None where memory does not suffice for it or something in it cannot be captured."""
    try:
        return CapturedStep(step, windows, rows)
    except RuntimeError as error:
        if not is_out_of_memory(error) and "captur" not in str(error).lower():
            raise
    step.optimizer.zero_grad(set_to_none=True)
    free_memory()
    return None
