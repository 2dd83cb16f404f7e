"""Estimates of training time on this machine, from a few real steps of each shape or by extrapolation."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalelab.architecture import Architecture
from scalelab.errors import ScalelabError
from scalelab.train.build import build_model
from scalelab.train.convert import DRAWS, TRIAL_TOKENS
from scalelab.train.cost import evaluation_flops, step_flops, train_memory_bytes
from scalelab.train.data import TokenWindows
from scalelab.train.device import device_memory_bytes, measured_peak_flops, one_thread, synchronize
from scalelab.train.evaluate import evaluate, rows_at_once
from scalelab.train.graphs import WARM_UP_STEPS, Stepper
from scalelab.train.loss import separable_head
from scalelab.train.memory import fitting_micro_batch
from scalelab.train.optimizer import make_optimizer
from scalelab.train.phases import phases
from scalelab.train.recipe import RunConfig
from scalelab.train.step import TrainingStep

_WARM_UP_STEPS = 2
_MIN_STEPS, _MAX_STEPS = 3, 20
_VALIDATION_WINDOWS = 64
_BUILD_S = 0.15  # to build a small model
_STEP_S = 0.005  # lower bound of a step
_MAX_BYTES = 2 * 2**30  # of a model that is built only for timing
_EFFICIENCY = 0.5  # share of the peak speed, if nothing could be timed


@dataclass(frozen=True)
class StepShape:
    """Everything that the time of a step depends on."""

    architecture: Architecture
    seq_len: int
    batch_size: int
    dtype: str
    backbone: str = ""  # digest of a frozen model
    lora_rank: int = 0

    @property
    def flops(self) -> float:
        """Operations of one step."""
        return step_flops(self.architecture, self.seq_len, self.batch_size)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a training step and of one token of validation, timed or extrapolated by operations."""

    step_s: float
    validation_token_s: float
    timed: bool


class TimeEstimates:
    """Estimated seconds of runs, from the times of their steps."""

    def __init__(self, steps: dict[StepShape, StepTime]) -> None:
        self.steps = steps

    def train_s(self, config: RunConfig, first: int = 0) -> float:
        """Return the seconds of training all phases of `config` from step `first` on."""
        total = 0.0
        for phase in phases(config):
            total += max(0, phase.steps - first) * self.steps[_shape(phase)].step_s
            first = max(first, phase.steps)
        return total

    def validation_s(self, config: RunConfig) -> float:
        """Return the seconds of the validation; with a frozen backbone also of its own and of the trials of starts."""
        tokens = float(config.recipe.val_tokens)
        if config.frozen:
            tokens += tokens / config.architecture.P + (DRAWS * TRIAL_TOKENS if config.architecture.has_prefixes else 0)
        return self.steps[_shape(config)].validation_token_s * tokens

    def timed(self, config: RunConfig) -> bool:
        """Return true if steps of all phases of `config` were timed, not extrapolated."""
        return all(self.steps[_shape(phase)].timed for phase in phases(config))


def estimate_times(configs: Iterable[RunConfig], device: str = "cpu", budget_s: float = 20.0) -> TimeEstimates:
    """Time steps of every distinct shape of `configs` on `device`, on one thread, in about `budget_s` seconds.

    Shapes are timed from small to large, each within an equal share of the remaining budget. A shape is extrapolated if
    it would take more than its share and more than a quarter of the remaining budget, or if its model needs more than
    2 GiB (a third of the memory of a GPU). Extrapolation is by operations: from the nearest timed shape, on a GPU from
    the fastest; if none was timed, from half of the device's peak speed. On a GPU no step takes less than the fastest
    timed one.

    Reading data, checkpoints, compilation and the start of processes are not included. Global random generators are
    not used. On a CPU the seconds are processor time, the time of a run on a core without other load.
    """
    configs_by_shape = {_shape(phase): phase for config in configs for phase in phases(config)}
    shapes = sorted(configs_by_shape, key=lambda shape: shape.flops)
    steps: dict[StepShape, StepTime] = {}
    ends = time.perf_counter() + budget_s
    max_bytes = _MAX_BYTES if device == "cpu" else device_memory_bytes(device) / 3
    with one_thread():
        for i, shape in enumerate(shapes):
            left = ends - time.perf_counter()
            share = left / (len(shapes) - i)
            small = train_memory_bytes(configs_by_shape[shape], device=device) <= max_bytes
            if small and _upper_bound_s(shape, steps, device) <= max(share, left / 4):
                steps[shape] = _time(configs_by_shape[shape], device, share)
    timed = dict(steps)
    for shape in shapes:
        if shape not in steps:
            steps[shape] = _extrapolate(configs_by_shape[shape], timed, device)
    return TimeEstimates(steps)


def _shape(config: RunConfig) -> StepShape:
    shape, recipe = config.architecture, config.recipe
    if not shape.has_prefixes:  # then these options have no effect
        shape = replace(shape, prefix_tokens=0, aggregation="dynamic")
    return StepShape(shape, recipe.seq_len, recipe.batch_size, recipe.dtype, config.backbone_digest, config.lora_rank)


def _upper_bound_s(shape: StepShape, timed: dict[StepShape, StepTime], device: str) -> float:
    """Return an upper bound on the seconds that timing `shape` will take."""
    rate = _peak_flops(device, shape.dtype) * _EFFICIENCY / 2
    step_s = _STEP_S + shape.flops / rate
    if timed:
        last = max(timed, key=lambda s: s.flops)
        step_s = timed[last].step_s * shape.flops / last.flops
    # Drawing a million random weights takes a hundredth of a second, and they are drawn twice.
    build_s = _BUILD_S + 0.02e-6 * shape.architecture.total_params
    windows = _VALIDATION_WINDOWS / (3 * shape.batch_size)
    return build_s + (1 + _MIN_STEPS + windows) * step_s


def _peak_flops(device: str, dtype: str) -> float:
    peak = measured_peak_flops(device, dtype)
    if peak is None:
        raise ScalelabError(
            f"{device}: not enough free memory to measure its speed; stop other processes or choose another device"
        )
    return peak


def _extrapolate(config: RunConfig, timed: dict[StepShape, StepTime], device: str) -> StepTime:
    shape = _shape(config)
    if timed:
        near = min(timed, key=lambda s: abs(math.log(s.flops / shape.flops)))
        rates = {s: s.flops / time.step_s for s, time in timed.items()}
        # With small models a GPU waits for the host, so their rate does not apply to large ones.
        rate = rates[near] if device == "cpu" else max(rates.values())
    else:
        rate = _EFFICIENCY * _peak_flops(device, shape.dtype)
    min_s = 0.0 if device == "cpu" or not timed else min(time.step_s for time in timed.values())
    validation_s = evaluation_flops(config) / config.recipe.val_tokens / rate
    return StepTime(max(min_s, shape.flops / rate), validation_s, timed=False)


def _time(config: RunConfig, device: str, share_s: float) -> StepTime:
    """Time a few steps, of which the median counts, and one batch of validation, on random tokens."""
    recipe, ends = config.recipe, time.perf_counter() + share_s
    count = max(_VALIDATION_WINDOWS, recipe.batch_size) * recipe.seq_len + 1
    tokens = np.random.default_rng(0).integers(0, config.architecture.vocab_size, count)
    windows = TokenWindows(tokens, recipe.seq_len, recipe.batch_size, device)
    model = build_model(config, device=device).train()
    head = separable_head(model) if device.startswith("cuda") else None
    micro_batch = fitting_micro_batch(config, device)
    step = TrainingStep(model, make_optimizer(model, recipe, config.peak_lr), recipe, None, head, micro_batch)
    warm_up = _WARM_UP_STEPS if device == "cpu" else WARM_UP_STEPS + 1
    numbers = np.arange(recipe.batch_size)
    seconds: list[float] = []
    with Stepper(step, windows) as take_step:
        while len(seconds) < warm_up + _MAX_STEPS:
            started = _now(device)
            take_step(numbers)
            seconds.append(_now(device) - started)
            if len(seconds) > warm_up and time.perf_counter() >= ends:
                break
    rows = windows.batch(np.arange(_VALIDATION_WINDOWS)).cpu().numpy()
    return StepTime(statistics.median(seconds[warm_up:]), _validation_token_s(model, rows, config, device), timed=True)


def _validation_token_s(model: Any, windows: np.ndarray, config: RunConfig, device: str) -> float:
    started = _now(device)
    rows = rows_at_once(device, config.architecture.P, config.recipe.seq_len)
    evaluation = evaluate(model, windows, np.arange(len(windows)), device, config.recipe.dtype == "bf16", rows)
    return (_now(device) - started) / evaluation.n_tokens


def _now(device: str) -> float:
    synchronize(device)
    return time.process_time() if device == "cpu" else time.perf_counter()
