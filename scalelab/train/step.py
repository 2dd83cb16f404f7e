"""One optimizer step: gradients of a batch in micro-batches, clipping, and the update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scalelab.errors import MemoryShortError
from scalelab.train.loss import NEXT_TOKEN, Objective
from scalelab.train.memory import free_memory, is_out_of_memory
from scalelab.train.recipe import Recipe


class TrainingStep:
    """Training step of `model` on one batch per call.

    Args:
        model: A causal language model in training mode.
        optimizer: Optimizer of the trained parameters of `model`.
        recipe: Precision and gradient clipping.
        forward: Called in place of `model`, if given.
        head: From `loss.separable_head`, or None.
        micro_batch: Sequences per forward pass; 0 is the whole batch. It is halved if memory runs out, which changes
            the sum of gradients only by rounding (with experts a little more: their balancing loss is a product of
            means).
        splits: Allow a smaller micro-batch; false for processes that wait for each other.
        name: Start of every error message.
        objective: The loss.
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        forward: Any = None,
        head: Tensor | None = None,
        micro_batch: int = 0,
        splits: bool = True,
        name: str = "training",
        objective: Objective = NEXT_TOKEN,
    ) -> None:
        self.model, self.optimizer, self.head = model, optimizer, head
        self.forward = model if forward is None else forward
        self.bf16, self.grad_clip = recipe.dtype == "bf16", recipe.grad_clip
        self.micro_batch, self.splits, self.name, self.objective = micro_batch, splits, name, objective
        self.trained = [p for p in model.parameters() if p.requires_grad]

    def __call__(self, batch: Any) -> Tensor:
        """Take a step on `batch`, token ids [b, seq_len + 1] of text, and return its loss: in nats per token of text.

        Raises:
            MemoryShortError: not even one sequence fits into memory.
        """
        self.micro_batch = self.micro_batch or len(batch)
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._gradients(batch)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self.splits:
                    advice = "out of memory; try a smaller `batch_size`, more processes, or FSDP"
                    raise MemoryShortError(f"{self.name}: {advice}") from None
                if self.micro_batch == 1:
                    advice = "out of memory with one sequence at a time; try a smaller N or P"
                    raise MemoryShortError(f"{self.name}: {advice}") from None
            # Outside of `except`, where the error no longer keeps tensors of its frames alive.
            self.micro_batch = (self.micro_batch + 1) // 2
            self.optimizer.zero_grad(set_to_none=True)
            free_memory()
        self._update()
        return loss

    def without_retry(self, batch: Any) -> Tensor:
        """Take a step in micro-batches that are known to fit; this is the form that a graph captures."""
        loss = self._gradients(batch)
        self._update()
        return loss

    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self.trained, self.grad_clip)
        self.optimizer.step()

    def _gradients(self, batch: Any) -> Tensor:
        """Accumulate gradients of the mean loss over `batch` and return that loss."""
        total = torch.zeros((), device=batch.device)
        for part in batch.split(self.micro_batch):
            share = self.objective.share(part, batch)
            objective, loss = self.objective(self.forward, self.model, part, self.bf16, self.head)
            (objective * share).backward()
            total += loss.detach() * share
        return total


def has_dropout(model: Any) -> bool:
    """Return true if the model uses dropout in training."""
    return any("drop" in name and isinstance(value, float) and value for name, value in vars(model.config).items())


def allocate_moments(optimizer: torch.optim.Optimizer) -> None:
    """Allocate AdamW's moments before the first step, so that memory use is the same in every step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in optimizer.state:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def set_learning_rates(optimizer: torch.optim.Optimizer, peaks: list[float], factor: float) -> None:
    """Set each group's learning rate to `factor` times its peak, in place if it is a tensor."""
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(peak * factor)
        else:
            group["lr"] = peak * factor
