"""One run: its legs trained one after the other, from the latest state on disk, and the end evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scalelab.errors import DivergedError
from scalelab.train.build import build_model
from scalelab.train.checkpoint import Saver, TrainState, load_newest
from scalelab.train.data import validation_windows
from scalelab.train.evaluate import MOST_ROWS, Evaluation, evaluate
from scalelab.train.loop import CURVE_POINTS, Course, Observer, Progress, optimise
from scalelab.train.memory import free_memory, is_out_of_memory, memory_told
from scalelab.train.optimizer import make_optimizer
from scalelab.train.recipe import RunConfig
from scalelab.train.tokens import TokenData
from scalelab.train.trajectory import learning_rate_factor, legs, trajectory

_STABLE_POINT = 10  # steps a point of the curve, on a leg whose length must not show


@dataclass(frozen=True)
class Options:
    """How a run is carried out, whatever its loss.

    With `checkpoints` its state is saved there about every `save_every_s` seconds and where a leg ends, and it
    begins at the latest state found, its own or one that it shares with others: the loss is the same
    as without. `progress` is called about twice a second, `observer` at each point of the curve.
    """

    device: str = "cpu"
    compile_model: bool = False
    checkpoints: Path | None = None
    save_every_s: float = 300.0
    progress: Progress | None = None
    observer: Observer | None = None


DEFAULT = Options()


@dataclass(frozen=True)
class TrainResult:
    """What one run measured. `curve` rows are (step, n_tokens, mean training loss since the last)."""

    evaluation: Evaluation
    curve: list[tuple[int, int, float]]
    seconds: float  # of training, without evaluation, over all attempts
    model: nn.Module
    micro_batch: int  # sequences at once
    devices: list[str]  # on which it was trained, more than one if it was resumed on another


def train_run(config: RunConfig, data: TokenData, options: Options = DEFAULT) -> TrainResult:
    """Train and evaluate one run.

    Raises `DivergedError` where the loss stops being a number or runs away, `MemoryShortError` if
    not even one sequence fits.
    """
    with memory_told(f"run {config.key}", "try a smaller N or P"):  # in building, training, evaluation
        return _train_run(config, data, options)


def _train_run(config: RunConfig, data: TokenData, options: Options) -> TrainResult:
    recipe = config.recipe
    # Before training, not after it: a text that is too short is told at once.
    validation = validation_windows(data.validation(), data.validation_starts(), recipe.seq_len, recipe.val_tokens)
    model, state = train_legs(config, data, options)
    # As many rows of the model as with P = 1; fewer where training had to do with fewer.
    rows = MOST_ROWS // config.architecture.P
    if state.micro_batch < recipe.batch_size:
        rows = min(rows, state.micro_batch)
    evaluation = _evaluate(model, validation, options.device, recipe.dtype == "bf16", max(1, rows))
    if not math.isfinite(evaluation.loss):
        raise DivergedError(f"run {config.key}: the validation loss is not a number; try a lower lr", state)
    return TrainResult(evaluation, state.curve, state.seconds, model, state.micro_batch, state.devices)


def _evaluate(model: Any, validation: tuple[np.ndarray, np.ndarray], device: str, bf16: bool, rows: int) -> Evaluation:
    """`evaluate` with `rows` windows at once, or as many as memory holds."""
    while True:
        try:
            return evaluate(model, *validation, device, bf16, rows)
        except Exception as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        rows //= 2
        free_memory()


def train_legs(config: RunConfig, data: TokenData, options: Options = DEFAULT) -> tuple[Any, TrainState]:
    """The trained model of `config` and its state, without evaluation. See `train_run`."""
    model, optimizer = _begin(config, options.device)
    path, state = legs(config), TrainState()
    if options.checkpoints is not None:
        # The latest leg first: what it has is further on than what any before it has.
        folders = [(options.checkpoints / trajectory(leg), leg.steps) for leg in reversed(path)]
        found = (load_newest(folder, steps, model, optimizer) for folder, steps in folders)
        state = next((s for s in found if s is not None), state)
    for leg in path:
        if state.step >= leg.steps:
            continue
        own = leg.architecture.P == config.architecture.P
        leg_model, leg_optimizer = (model, optimizer) if own else _begin(leg, options.device)
        save: Observer | None = None
        if options.checkpoints is not None:
            folder = options.checkpoints / trajectory(leg)
            if not own:
                state = load_newest(folder, leg.steps, leg_model, leg_optimizer) or TrainState()
            ends_shared = leg is not config or leg.recipe.schedule == "constant"
            save = Saver(folder, leg_model, leg_optimizer, options.save_every_s, leg.steps if ends_shared else None)
        every = _STABLE_POINT if leg.recipe.schedule == "constant" else max(1, leg.steps // CURVE_POINTS)
        factor = partial(learning_rate_factor, config=leg)
        course = Course(leg.recipe, leg.steps, leg.seed, factor, every, f"run {config.key}")
        optimise(
            leg_model,
            leg_optimizer,
            data,
            course,
            state,
            options.device,
            options.compile_model,
            options.progress,
            options.observer,
            save,
        )
        if not own:  # a plain stage, with whose weights the streams begin
            _hand_over(leg_model, leg_optimizer, model, optimizer)
    return model, state


def _begin(config: RunConfig, device: str) -> tuple[Any, torch.optim.Optimizer]:
    model = build_model(config).to(device)
    return model, make_optimizer(model, config.recipe, config.peak_lr)


@torch.no_grad()
def _hand_over(
    source: nn.Module, source_optimizer: torch.optim.Optimizer, target: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Weights and moments of the parameters that both have, by name."""
    given = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in given:
            parameter.copy_(given[name])
            optimizer.state[parameter] = {k: v.clone() for k, v in source_optimizer.state[given[name]].items()}
