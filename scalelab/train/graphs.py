"""A training step as a CUDA graph: hundreds of kernels started by one call.

A step of a small model is a thousand kernels of a few microseconds, and starting each from Python takes longer than
running it. The first steps run as usual, then one is captured, and every later one is replayed on new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalelab.train.data import TokenWindows
from scalelab.train.memory import free_memory, is_out_of_memory
from scalelab.train.step import TrainingStep, has_dropout

WARM_UP_STEPS = 3  # real steps, in which libraries load kernels and compiled code is made


def can_be_captured(model: Any, device: str) -> bool:
    """Whether a step of `model` on `device` has the same kernels on the same memory each time.

    Experts are chosen on the host, and dropout's noise is seeded there at each step.
    """
    experts = any("experts" in name and value for name, value in vars(model.config).items())
    return device.startswith("cuda") and not experts and not has_dropout(model)


def prepare(optimizer: torch.optim.Optimizer) -> None:
    """Let `optimizer` be captured: its learning rates become tensors that a graph reads at each replay."""
    for group in optimizer.param_groups:
        group["capturable"] = True
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)


@contextmanager
def own_stream(device: str) -> Iterator[None]:
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
        self.starts = torch.zeros(rows, dtype=torch.long, device=windows.device)
        self.graph = torch.cuda.CUDAGraph()
        step.optimizer.zero_grad(set_to_none=True)
        free_memory()  # the graph has memory of its own
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream(windows.device)):
            self.loss = step.once(windows.gather(self.starts))

    def __call__(self, starts: np.ndarray) -> Tensor:
        """Take one step; returns its loss."""
        self.starts.copy_(self.windows.on_device(starts), non_blocking=True)
        self.graph.replay()
        return self.loss.clone()


def capture(step: TrainingStep, windows: TokenWindows, rows: int) -> CapturedStep | None:
    """Return the captured step, or None where memory does not suffice for it or something in it cannot be captured."""
    try:
        return CapturedStep(step, windows, rows)
    except RuntimeError as error:
        step.optimizer.zero_grad(set_to_none=True)
        free_memory()
        if is_out_of_memory(error) or "captur" in str(error).lower():
            return None
        raise
