"""The training loop: a model, its optimizer and the data in, the same model further on out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scalelab.errors import DivergedError, MemoryShortError
from scalelab.train.build import extra_loss, training_options
from scalelab.train.checkpoint import TrainState
from scalelab.train.data import training_batches
from scalelab.train.device import device_model
from scalelab.train.memory import free_memory, is_out_of_memory
from scalelab.train.parallel import ALONE, Parallel
from scalelab.train.recipe import Recipe
from scalelab.train.tokens import TokenData

Progress = Callable[[int, float, float], None]  # step, loss in nats a token, tokens a second
Observer = Callable[[TrainState], None]

CURVE_POINTS = 100
DIVERGED_NATS = 2.0  # above the first loss: a model that knows nothing does not get that bad


@dataclass(frozen=True)
class Course:
    """What a stretch of training is: to which step, at which learning rate, on which order of the data.

    `factor` is the share of the peak learning rate at a step, counted from 0. The curve gets a point
    every `every` steps. Errors begin with `name`.
    """

    recipe: Recipe
    steps: int
    seed: int
    factor: Callable[[int], float]
    every: int
    name: str

    @property
    def step_tokens(self) -> int:
        return self.recipe.seq_len * self.recipe.batch_size


def optimise(
    model: Any,
    optimizer: torch.optim.Optimizer,
    data: TokenData,
    course: Course,
    state: TrainState,
    device: str,
    compile_model: bool,
    progress: Progress | None,
    observer: Observer | None = None,
    save: Observer | None = None,
    parallel: Parallel = ALONE,
) -> None:
    """Take `model` from `state` to the end of `course`; both move along.

    `observer` is called at every point of the curve, `save` after every step. Where memory does not suffice the
    batch is split into ever smaller micro-batches with the same sum of gradients (with experts nearly the same: their
    balancing loss is a product of means); not so on several processes (`parallel`), of which one that starts
    anew would wait for the others. Raises `DivergedError` and `MemoryShortError` beginning with the course's name.
    """
    recipe = course.recipe
    forward: Any = parallel.replicated(model)
    if compile_model:
        forward = torch.compile(forward)
    trained = [p for p in model.parameters() if p.requires_grad]
    peaks = [group["lr"] for group in optimizer.param_groups]
    state.micro_batch = state.micro_batch or recipe.batch_size
    if (name := device_model(device)) not in state.devices:
        state.devices.append(name)
    meter = _Meter(course, state, progress, parallel)
    model.train()
    noisy = _has_dropout(model)
    batches = training_batches(data.train(), recipe.seq_len, recipe.batch_size, course.steps, course.seed, state.step)
    try:
        for windows in batches:
            factor = course.factor(state.step)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            if noisy:  # so that a run that was cut goes on with the noise it would have had
                torch.manual_seed(_noise_seed(course.seed, state.step, parallel.rank))
            batch = torch.from_numpy(parallel.rows(windows)).to(device, non_blocking=True)
            loss = _gradients(forward, model, optimizer, batch, recipe.dtype == "bf16", state, course.name, parallel)
            nn.utils.clip_grad_norm_(trained, recipe.grad_clip)
            optimizer.step()
            state.step += 1
            if meter.update(loss) and observer is not None:
                observer(state)
            if save is not None:
                save(state)
    finally:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak


def _has_dropout(model: Any) -> bool:
    return any("drop" in name and isinstance(value, float) and value for name, value in vars(model.config).items())


def _noise_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _gradients(
    forward: Any,
    model: Any,
    optimizer: torch.optim.Optimizer,
    batch: torch.Tensor,
    bf16: bool,
    state: TrainState,
    name: str,
    parallel: Parallel,
) -> torch.Tensor:
    """Gradients of the mean loss over `batch` [b, seq_len + 1], in micro-batches that fit; returns that loss."""
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            return _accumulate(forward, model, batch, bf16, state.micro_batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if parallel.size > 1:
                advice = "out of memory; try a smaller `batch_size`, more processes, or FSDP"
                raise MemoryShortError(f"{name}: {advice}", state) from None
            if state.micro_batch == 1:
                advice = "out of memory with one sequence at a time; try a smaller N or P"
                raise MemoryShortError(f"{name}: {advice}", state) from None
        # Out here the error, and with it what its frames hold, is gone.
        state.micro_batch = (state.micro_batch + 1) // 2
        optimizer.zero_grad(set_to_none=True)
        free_memory()


def _accumulate(forward: Any, model: Any, batch: torch.Tensor, bf16: bool, rows: int) -> torch.Tensor:
    total = torch.zeros((), device=batch.device)
    for part in batch.split(rows):
        share = len(part) / len(batch)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
            outputs = forward(part[:, :-1], use_cache=False, **training_options(model))
        loss = F.cross_entropy(outputs.logits.float().flatten(0, 1), part[:, 1:].flatten()) * share
        balance = extra_loss(model, outputs)
        (loss if balance is None else loss + balance * share).backward()
        total += loss.detach()
    return total


class _Meter:
    """Collects the loss curve and seconds into a state, and reports progress, with few looks at the device."""

    def __init__(self, course: Course, state: TrainState, progress: Progress | None, parallel: Parallel) -> None:
        self.course, self.state, self.progress, self.parallel = course, state, progress, parallel
        self.since = self.reported_at = time.perf_counter()
        self.reported_step = state.step

    def update(self, loss: torch.Tensor) -> bool:
        """Take the loss of a step; true where the curve got a point."""
        state = self.state
        state.pending.append(self.parallel.mean(loss))  # at once, so that a state is the same on every process
        # The first step is a point of its own: it is what a model knows that has learned nothing.
        point = state.step % self.course.every == 0 or state.step in (1, self.course.steps)
        if point:
            losses = [torch.as_tensor(value, dtype=loss.dtype, device=loss.device) for value in state.pending]
            mean = float(torch.stack(losses).mean())
            state.curve.append((state.step, state.step * self.course.step_tokens, mean))
            state.pending.clear()
            self._check(mean)
        now = time.perf_counter()
        state.seconds += now - self.since
        self.since = now
        if self.progress is not None and state.curve and now - self.reported_at > 0.5:
            speed = (state.step - self.reported_step) * self.course.step_tokens / (now - self.reported_at)
            self.progress(state.step, state.curve[-1][2], speed)
            self.reported_at, self.reported_step = now, state.step
        return point

    def _check(self, mean: float) -> None:
        step, first = self.state.step, self.state.curve[0][2]
        if not math.isfinite(mean):
            self._stop(f"the loss stopped being a number by step {step}")
        if mean > first + DIVERGED_NATS:
            self._stop(f"diverged, a loss of {mean:.2f} at step {step} after {first:.2f} at first")

    def _stop(self, reason: str) -> NoReturn:
        raise DivergedError(f"{self.course.name}: {reason}; try a lower lr", self.state)
