"""The training loop: one phase of training of a model with its optimizer on token data."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch

from scalelab.errors import DivergedError, MemoryShortError
from scalelab.train.checkpoint import TrainState
from scalelab.train.data import TokenWindows, window_order
from scalelab.train.device import device_model
from scalelab.train.graphs import WARM_UP_STEPS, Stepper
from scalelab.train.loss import NEXT_TOKEN, Objective, separable_head
from scalelab.train.parallel import SINGLE_PROCESS, Parallel, decoder_layers
from scalelab.train.recipe import Recipe
from scalelab.train.step import TrainingStep, has_dropout, set_learning_rates
from scalelab.train.tokens import TokenData

Progress = Callable[[int, float, float], None]  # step, loss in nats a token, tokens a second
Observer = Callable[[TrainState], None]

CURVE_POINTS = 100
DIVERGED_NATS = 2.0  # above the first loss, that of an untrained model


@runtime_checkable
class Examples(Protocol):
    """Training data whose rows are no windows of a text."""

    def windows(self, recipe: Recipe, device: str, fixed_length: bool) -> Any:
        """Return batches with the interface of `TokenWindows`, all of the same length if `fixed_length`."""
        ...


@dataclass(frozen=True)
class Phase:
    """Plan of one phase of training.

    Attributes:
        recipe: Batches, precision and gradient clipping.
        steps: The step at which the phase ends.
        seed: Seed of the order of the data and of dropout.
        rate_factor: Maps a step, counted from 0, to its learning rate as a share of the peak.
        point_steps: Steps between two points of the loss curve.
        name: Start of every error message.
        objective: The loss.
        row_tokens: Tokens of a row of a batch on average; 0: `recipe.seq_len`.
    """

    recipe: Recipe
    steps: int
    seed: int
    rate_factor: Callable[[int], float]
    point_steps: int
    name: str
    objective: Objective = NEXT_TOKEN
    row_tokens: float = 0.0

    @property
    def step_tokens(self) -> float:
        """Tokens of one step."""
        return (self.row_tokens or self.recipe.seq_len) * self.recipe.batch_size


@dataclass(frozen=True)
class LoopOptions:
    """Settings of `optimise`.

    Attributes:
        device: Device to train on.
        compile_model: Compile the decoder layers.
        progress: Called about twice a second.
        observer: Called at each point of the curve.
        save: Called after each step.
        parallel: Processes that train the same model.
    """

    device: str = "cpu"
    compile_model: bool = False
    progress: Progress | None = None
    observer: Observer | None = None
    save: Observer | None = None
    parallel: Parallel = SINGLE_PROCESS


def optimise(
    model: Any,
    optimizer: torch.optim.Optimizer,
    data: TokenData | Examples,
    phase: Phase,
    state: TrainState,
    options: LoopOptions = LoopOptions(),
) -> None:
    """Train `model` from `state` to the end of `phase`; model, optimizer and state are updated in place.

    On CUDA the text and AdamW's moments are moved to the device first, and steps are replayed as a graph where that is
    possible. If memory runs out, the micro-batch of `state` is halved (`TrainingStep`), except on several processes,
    where the others would wait for the one that starts its step again.

    Raises:
        DivergedError: the loss became nan or infinite, or much larger than at the start.
        MemoryShortError: not even one sequence fits into memory.
    """
    recipe, device, parallel = phase.recipe, options.device, options.parallel
    alone = parallel.size == 1 and not parallel.sharded
    windows: Any
    if isinstance(data, Examples):
        windows = data.windows(recipe, device, options.compile_model)
    else:
        windows = TokenWindows(data.train(), recipe.seq_len, recipe.batch_size, device)
    forward: Any = parallel.wrap(model)
    if options.compile_model:
        compile_layers(model)
    peaks = [group["lr"] for group in optimizer.param_groups]
    if (name := device_model(device)) not in state.devices:
        state.devices.append(name)
    model.train()
    head = separable_head(model) if alone and device.startswith("cuda") else None
    splits = parallel.size == 1
    step = TrainingStep(model, optimizer, recipe, forward, head, state.micro_batch, splits, phase.name, phase.objective)
    noisy = has_dropout(model)
    warm_up = WARM_UP_STEPS + 1 if device.startswith("cuda") or options.compile_model else 0
    meter = _Meter(phase, state, options.progress, parallel, warm_up)
    order = window_order(windows.count, recipe.batch_size, phase.steps, phase.seed, state.step)
    try:
        with Stepper(step, windows, alone) as take_step, quiet_compiler():
            for batch in order:
                set_learning_rates(optimizer, peaks, phase.rate_factor(state.step))
                if noisy:  # a resumed run must draw the noise of an uninterrupted one
                    torch.manual_seed(_noise_seed(phase.seed, state.step, parallel.rank))
                loss = take_step(parallel.local_rows(batch))
                state.step, state.micro_batch = state.step + 1, step.micro_batch
                if meter.update(loss) and options.observer is not None:
                    options.observer(state)
                if options.save is not None:
                    options.save(state)
    except MemoryShortError as error:
        raise MemoryShortError(str(error), state) from None
    finally:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Suppress Dynamo's warning about the gradient of a layer's input, and inductor's about a deprecated torch.jit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.script_method.* is deprecated", DeprecationWarning)
        yield


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """Compile each decoder layer of `model` in place with a torch backend.

    All layers share the code compiled for the first, so compile time does not grow with depth.
    """
    decoder = model.get_decoder()
    if getattr(decoder, "has_prefixes", False) and not decoder.prefixes_verified:
        training = model.training
        with torch.no_grad():  # a forward pass checks each layer's attention, which compiled code would hide
            model.eval()(torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
        model.train(training)
    for layer in decoder_layers(decoder):
        layer.compile(dynamic=False, backend=backend)


def _noise_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class _Meter:
    """Recorder of the loss curve and seconds in a state, with few device synchronisations; it also reports progress."""

    def __init__(
        self, phase: Phase, state: TrainState, progress: Progress | None, parallel: Parallel, warm_up: int
    ) -> None:
        self.phase, self.state, self.progress, self.parallel = phase, state, progress, parallel
        self.warm_up = warm_up  # remaining steps of loading kernels, compiling and capturing
        self.since = self.reported_at = time.perf_counter()
        self.reported_step = state.step

    def update(self, loss: torch.Tensor) -> bool:
        """Add the loss of a step; return true if the curve got a point."""
        state = self.state
        state.pending.append(self.parallel.mean(loss))  # averaged now: a state is the same on every process
        # The first step is a separate point: the loss of the untrained model.
        point = state.step % self.phase.point_steps == 0 or state.step in (1, self.phase.steps)
        if point:
            losses = [torch.as_tensor(value, dtype=loss.dtype, device=loss.device) for value in state.pending]
            mean = float(torch.stack(losses).mean())
            state.curve.append((state.step, round(state.step * self.phase.step_tokens), mean))
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
            speed = (state.step - self.reported_step) * self.phase.step_tokens / (now - self.reported_at)
            self.progress(state.step, state.curve[-1][2], speed)
            self.reported_at, self.reported_step = now, state.step
        return point

    def _check(self, mean: float) -> None:
        step, first = self.state.step, self.state.curve[0][2]
        if not math.isfinite(mean):
            self._stop(f"the loss is not a number at step {step}")
        if mean > first + DIVERGED_NATS:
            self._stop(f"diverged: loss {mean:.2f} at step {step}, {first:.2f} at the start")

    def _stop(self, reason: str) -> NoReturn:
        raise DivergedError(f"{self.phase.name}: {reason}; try a lower lr", self.state)
