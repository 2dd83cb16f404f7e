"""The training loop: a model, its optimizer and the data in, the same model further on out."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch

from scalelab.errors import DivergedError, MemoryShortError
from scalelab.train.checkpoint import TrainState
from scalelab.train.data import TokenWindows, training_starts
from scalelab.train.device import device_model
from scalelab.train.graphs import WARM_UP_STEPS, Stepper
from scalelab.train.loss import separable_head
from scalelab.train.parallel import ALONE, Parallel, decoder_layers
from scalelab.train.recipe import Recipe
from scalelab.train.step import TrainingStep, has_dropout, set_rates
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

    `observer` is called at every point of the curve, `save` after every step. On CUDA the text, moments and, where
    that is possible, the whole step as a graph are put on the device first. Where memory does not suffice the
    micro-batch of `state` is halved (`TrainingStep`); not so on several processes (`parallel`), of which one that
    starts anew would wait for the others. Raises `DivergedError` and `MemoryShortError` beginning with the course's
    name.
    """
    recipe, alone = course.recipe, parallel.size == 1 and not parallel.sharded
    windows = TokenWindows(data.train(), recipe.seq_len, recipe.batch_size, device)
    forward: Any = parallel.replicated(model)
    if compile_model:
        compile_layers(model)
    peaks = [group["lr"] for group in optimizer.param_groups]
    if (name := device_model(device)) not in state.devices:
        state.devices.append(name)
    model.train()
    head = separable_head(model) if alone and device.startswith("cuda") else None
    step = TrainingStep(model, optimizer, recipe, forward, head, state.micro_batch, parallel.size == 1, course.name)
    noisy = has_dropout(model)
    warm_up = WARM_UP_STEPS + 1 if device.startswith("cuda") or compile_model else 0
    meter = _Meter(course, state, progress, parallel, warm_up)
    numbers = training_starts(windows.count, recipe.batch_size, course.steps, course.seed, state.step)
    try:
        with Stepper(step, windows, alone) as take_step, quiet_compiler():
            for batch in numbers:
                set_rates(optimizer, peaks, course.factor(state.step))
                if noisy:  # so that a run that was cut goes on with the noise it would have had
                    torch.manual_seed(_noise_seed(course.seed, state.step, parallel.rank))
                loss = take_step(parallel.rows(batch))
                state.step, state.micro_batch = state.step + 1, step.micro_batch
                if meter.update(loss) and observer is not None:
                    observer(state)
                if save is not None:
                    save(state)
    except MemoryShortError as error:
        raise MemoryShortError(str(error), state) from None
    finally:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Keep back what Dynamo says of a layer's input, whose gradient it looks for in vain, and inductor of old torch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.script_method.* is deprecated", DeprecationWarning)
        yield


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """Compile each decoder layer of `model` in place, by a backend of torch.

    Layers are alike, so one is compiled and the others use its code, whose time does not grow with depth.
    """
    decoder = model.get_decoder()
    if getattr(decoder, "has_prefixes", False) and not decoder.prefixes_verified:
        training = model.training
        with torch.no_grad():  # looks at each layer's attention, which compiled code would hide
            model.eval()(torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
        model.train(training)
    for layer in decoder_layers(decoder):
        layer.compile(dynamic=False, backend=backend)


def _noise_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class _Meter:
    """Collects the loss curve and seconds into a state, and reports progress, with few looks at the device."""

    def __init__(
        self, course: Course, state: TrainState, progress: Progress | None, parallel: Parallel, warm_up: int
    ) -> None:
        self.course, self.state, self.progress, self.parallel = course, state, progress, parallel
        self.warm_up = warm_up  # steps left that load kernels, compile, and are captured
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
        if self.warm_up == 1 and loss.device.type == "cuda":
            torch.cuda.synchronize(loss.device)
        now = time.perf_counter()
        state.seconds += now - self.since
        if self.warm_up:
            state.warm_up_seconds += now - self.since
            state.warm_up_steps += 1
            self.warm_up -= 1
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
