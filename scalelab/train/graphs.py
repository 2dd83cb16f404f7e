"""Training steps as CUDA graphs, which start hundreds of kernels with one call.

A step of a small model runs a thousand kernels of a few microseconds, and starting each from Python takes longer than
running it. The first steps run as usual, then one is captured, and later steps are replayed on new tokens.
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

# Tolerances between the captured and the usual step: of the update, relative to its length, and of the loss. Kernels
# sum in another order, and AdamW turns small gradients of either sign into updates of the same size.
_UPDATE_TOLERANCE, _LOSS_TOLERANCE = 0.25, 1e-2
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # in configs
WARM_UP_STEPS = 3  # real steps before the capture, in which libraries load kernels and code is compiled


def can_be_captured(model: Any, device: str) -> bool:
    """Return true if each step of `model` on `device` runs the same kernels on the same memory.

    It does not with experts, which are chosen on the host, with dropout, whose noise is seeded there at each step, and
    with decoders that check for packed sequences on the host.
    """
    experts = any(getattr(model.config, name, None) for name in _EXPERT_KEYS)
    checks_packing = not getattr(model.get_decoder(), "accepts_mask_dict", False)
    return device.startswith("cuda") and not experts and not checks_packing and not has_dropout(model)


class Stepper:
    """Runner of training steps on the windows of a text, on CUDA as a captured graph where possible.

    It is used in a ``with`` block, in which ``stepper(numbers)`` trains on the windows with these numbers.

    Args:
        step: The training step.
        windows: Windows of the training text.
        alone: No other process trains the same model.
    """

    def __init__(self, step: TrainingStep, windows: TokenWindows, alone: bool = True) -> None:
        self.step, self.windows = step, windows
        self.captures = alone and windows.device_tokens is not None and can_be_captured(step.model, windows.device)
        self.captured: CapturedStep | None = None
        self.steps_taken = 0
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
        """Take a step and return its mean cross entropy. Raises `MemoryShortError`, like `TrainingStep`."""
        self.steps_taken += 1
        if self.captured is not None:
            return self.captured(numbers)
        if self.captures and self.steps_taken == WARM_UP_STEPS + 1:
            return self._try_capture(numbers)
        return self.step(self.windows.batch(numbers))

    def _try_capture(self, numbers: np.ndarray) -> Tensor:
        """Capture the step and take it both ways; keep the graph only if both agree."""
        captured = _capture(self.step, self.windows, len(numbers)) if _has_room(self.step) else None
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
    """Make `optimizer` capturable: its learning rates become tensors that a graph reads at each replay."""
    for group in optimizer.param_groups:
        group["capturable"] = True
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)


@contextmanager
def _own_stream(device: str) -> Iterator[None]:
    """Work on a separate stream, as capturing requires, synchronised with the device's usual one."""
    usual, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    stream.wait_stream(usual)
    with torch.cuda.stream(stream):
        yield
    usual.wait_stream(stream)


class CapturedStep:
    """CUDA graph of a `TrainingStep` that can be replayed on other windows of the text.

    Raises:
        RuntimeError: the step cannot be captured; the model is unchanged.
    """

    def __init__(self, step: TrainingStep, windows: TokenWindows, rows: int) -> None:
        self.windows = windows
        self.numbers = torch.zeros(rows, dtype=torch.long, device=windows.device)
        self.graph = torch.cuda.CUDAGraph()
        step.optimizer.zero_grad(set_to_none=True)
        free_memory()  # the graph allocates its own memory
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream(windows.device)):
            self.loss = step.without_retry(windows.gather(self.numbers))

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """Take one step and return its loss."""
        self.numbers.copy_(self.windows.on_device(numbers))
        self.graph.replay()
        return self.loss.clone()


def _changed_tensors(step: TrainingStep) -> list[Tensor]:
    """Return everything that a step changes: trained parameters and their optimizer state."""
    states = (step.optimizer.state[p] for p in step.trained)
    return [*step.trained, *(value for state in states for value in state.values() if isinstance(value, Tensor))]


def _has_room(step: TrainingStep) -> bool:
    """Return true if the device has room for two more copies of all tensors that a step changes."""
    held = _changed_tensors(step)
    return held[0].device.type != "cuda" or 4 * sum(x.nbytes for x in held) < torch.cuda.mem_get_info(held[0].device)[0]


def _snapshot(step: TrainingStep) -> list[Tensor]:
    return [x.detach().clone() for x in _changed_tensors(step)]


@torch.no_grad()
def _restore(step: TrainingStep, values: list[Tensor]) -> None:
    for held, value in zip(_changed_tensors(step), values, strict=True):
        held.copy_(value)


def _agree(start: list[Tensor], first: list[Tensor], second: list[Tensor], *losses: Tensor) -> bool:
    """Return true if two steps from `start` led to the same loss and state up to rounding."""
    off = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(first, second, strict=True))
    moved = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(start, second, strict=True))
    return off <= _UPDATE_TOLERANCE**2 * moved and bool(torch.isclose(*losses, rtol=_LOSS_TOLERANCE, atol=0.0))


def _capture(step: TrainingStep, windows: TokenWindows, rows: int) -> CapturedStep | None:
    """Return the captured step; None if memory runs out or the step cannot be captured."""
    try:
        return CapturedStep(step, windows, rows)
    except RuntimeError as error:
        if not is_out_of_memory(error) and "captur" not in str(error).lower():
            raise
    step.optimizer.zero_grad(set_to_none=True)
    free_memory()
    return None
