"""How long runs will take here: a few real steps of each shape, and extrapolation where they would cost much."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from scalelab.architecture import Architecture
from scalelab.errors import ScalelabError
from scalelab.train.build import build_model
from scalelab.train.cost import evaluation_flops, step_flops, train_memory_bytes
from scalelab.train.device import measured_peak_flops, one_thread, synchronize
from scalelab.train.evaluate import evaluate
from scalelab.train.optimizer import make_optimizer
from scalelab.train.recipe import RunConfig
from scalelab.train.step import TrainingStep
from scalelab.train.trajectory import legs

_WARM_UP_STEPS = 2
_LEAST_STEPS, _MOST_STEPS = 3, 20
_VALIDATION_WINDOWS = 64
_BUILD_S = 0.15  # of a small model
_STEP_S = 0.005  # of a step, however small the model
_MOST_BYTES = 2 * 2**30  # of a model that is built only to be timed
_EFFICIENCY = 0.5  # of the peak, where nothing could be timed


@dataclass(frozen=True)
class StepShape:
    """What the time of a step depends on."""

    architecture: Architecture
    seq_len: int
    batch_size: int
    dtype: str

    @property
    def flops(self) -> float:
        return step_flops(self.architecture, self.seq_len, self.batch_size)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a training step and of a validated token; `timed` or extrapolated by operations."""

    step_s: float
    validation_token_s: float
    timed: bool


class TimeEstimates:
    """Seconds of runs, from the times of their steps."""

    def __init__(self, steps: dict[StepShape, StepTime]) -> None:
        self.steps = steps

    def train_s(self, config: RunConfig, first: int = 0) -> float:
        """Of training all its legs, from step `first` on."""
        total = 0.0
        for leg in legs(config):
            total += max(0, leg.steps - first) * self.steps[_shape(leg)].step_s
            first = max(first, leg.steps)
        return total

    def validation_s(self, config: RunConfig) -> float:
        """Of the validation at the end."""
        return self.steps[_shape(config)].validation_token_s * config.recipe.val_tokens

    def timed(self, config: RunConfig) -> bool:
        """Whether steps of all its legs were really timed."""
        return all(self.steps[_shape(leg)].timed for leg in legs(config))


def estimate_times(configs: Iterable[RunConfig], device: str = "cpu", budget_s: float = 20.0) -> TimeEstimates:
    """Time steps of every distinct shape of `configs` on `device`, on one thread, in about `budget_s` seconds.

    From small to large each is given an equal share of what is left of the budget. One that would take
    more than that and more than a quarter of what is left, and one of more than 2 GiB, is extrapolated
    by its operations from the nearest that was timed; without any, from half of the device's peak. Not
    counted: reading data, checkpoints, compilation, starting processes. Draws nothing from the
    global generators.

    On CPU the seconds are the processor's: what a run takes on a core of its own, also where the cores
    are busy while this is measured.
    """
    of_shape = {_shape(leg): leg for config in configs for leg in legs(config)}
    shapes = sorted(of_shape, key=lambda shape: shape.flops)
    steps: dict[StepShape, StepTime] = {}
    ends = time.perf_counter() + budget_s
    with one_thread():
        for i, shape in enumerate(shapes):
            left = ends - time.perf_counter()
            share = left / (len(shapes) - i)
            small = train_memory_bytes(of_shape[shape]) <= _MOST_BYTES
            if small and _dearest_s(shape, steps, device) <= max(share, left / 4):
                steps[shape] = _time(of_shape[shape], device, share)
    timed = dict(steps)
    for shape in shapes:
        if shape not in steps:
            steps[shape] = _extrapolate(of_shape[shape], timed, device)
    return TimeEstimates(steps)


def _shape(config: RunConfig) -> StepShape:
    shape, recipe = config.architecture, config.recipe
    if shape.P == 1:  # then these two mean nothing
        shape = replace(shape, prefix_tokens=0, aggregation="dynamic")
    return StepShape(shape, recipe.seq_len, recipe.batch_size, recipe.dtype)


def _dearest_s(shape: StepShape, timed: dict[StepShape, StepTime], device: str) -> float:
    """Seconds that timing `shape` will take by what is known; not less than the truth, rather more."""
    rate = _peak_flops(device, shape.dtype) * _EFFICIENCY / 2
    step_s = _STEP_S + shape.flops / rate
    if timed:
        last = max(timed, key=lambda s: s.flops)
        step_s = timed[last].step_s * shape.flops / last.flops
    # Of random weights a million a hundredth of a second, twice.
    build_s = _BUILD_S + 0.02e-6 * shape.architecture.total_params
    windows = _VALIDATION_WINDOWS / (3 * shape.batch_size)
    return build_s + (1 + _LEAST_STEPS + windows) * step_s


def _peak_flops(device: str, dtype: str) -> float:
    peak = measured_peak_flops(device, dtype)
    if peak is None:
        raise ScalelabError(
            f"{device}: no memory left to measure its speed; end what uses it, or choose another device"
        )
    return peak


def _extrapolate(config: RunConfig, timed: dict[StepShape, StepTime], device: str) -> StepTime:
    shape = _shape(config)
    if timed:
        near = min(timed, key=lambda s: abs(math.log(s.flops / shape.flops)))
        rate = near.flops / timed[near].step_s
    else:
        rate = _EFFICIENCY * _peak_flops(device, shape.dtype)
    validation_s = evaluation_flops(config) / config.recipe.val_tokens / rate
    return StepTime(shape.flops / rate, validation_s, timed=False)


def _time(config: RunConfig, device: str, share_s: float) -> StepTime:
    """The median of a few steps, and one batch of validation, on random tokens."""
    recipe, ends = config.recipe, time.perf_counter() + share_s
    tokens = np.random.default_rng(0).integers(
        0, config.architecture.vocab_size, (max(_VALIDATION_WINDOWS, recipe.batch_size), recipe.seq_len + 1)
    )
    model = build_model(config).to(device)
    step = TrainingStep(model, make_optimizer(model, recipe, config.peak_lr), recipe)
    batch = torch.from_numpy(tokens[: recipe.batch_size]).to(device)
    model.train()
    seconds: list[float] = []
    validation_s = 0.0
    while len(seconds) < _WARM_UP_STEPS + _MOST_STEPS:
        seconds.append(_seconds_of_step(step, batch, device))
        if len(seconds) == _WARM_UP_STEPS:
            validation_s = _validation_token_s(model, tokens[:_VALIDATION_WINDOWS], config, device)
        if len(seconds) >= _LEAST_STEPS and time.perf_counter() >= ends:
            break
    return StepTime(statistics.median(seconds[_WARM_UP_STEPS:]), validation_s, timed=True)


def _seconds_of_step(step: TrainingStep, batch: torch.Tensor, device: str) -> float:
    started = _now(device)
    step(batch)
    return _now(device) - started


def _validation_token_s(model: Any, windows: np.ndarray, config: RunConfig, device: str) -> float:
    started = _now(device)
    evaluation = evaluate(model, windows, np.arange(len(windows)), device, config.recipe.dtype == "bf16")
    return (_now(device) - started) / evaluation.n_tokens


def _now(device: str) -> float:
    synchronize(device)
    return time.process_time() if device == "cpu" else time.perf_counter()
