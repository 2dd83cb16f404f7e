"""Training of one run: its phases in order, from the latest checkpoint on disk, and evaluation at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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
from scalelab.train.evaluate import Evaluation, evaluate, rows_at_once
from scalelab.train.frozen import backbone_only
from scalelab.train.loop import CURVE_POINTS, LoopOptions, Observer, Phase, Progress, optimise
from scalelab.train.loss import next_token
from scalelab.train.memory import fitting_micro_batch, free_memory, is_out_of_memory, translate_oom
from scalelab.train.numerics import Numerics
from scalelab.train.optimizer import make_optimizer
from scalelab.train.phases import learning_rate_factor, phase_key, phases
from scalelab.train.recipe import RunConfig
from scalelab.train.tokens import TokenData

_STABLE_POINT_STEPS = 10  # per point of the curve, in a phase whose states must not depend on its length


@dataclass(frozen=True)
class Options:
    """Settings of training that do not change the loss.

    Attributes:
        device: Device to train on.
        compile_model: Compile the decoder layers.
        checkpoints: Folder for checkpoints. The state is saved there about every `save_every_s` seconds and at the end
            of a phase; a run starts from the latest one, its own or one of a shared phase. The loss is the same as
            without.
        save_every_s: Seconds of training between checkpoints.
        progress: Called about twice a second.
        observer: Called at each point of the curve.
        numerics: Determinism and precision.
        micro_batch: Sequences per forward pass; 0: as many as fit into memory.
    """

    device: str = "cpu"
    compile_model: bool = False
    checkpoints: Path | None = None
    save_every_s: float = 300.0
    progress: Progress | None = None
    observer: Observer | None = None
    numerics: Numerics = field(default_factory=Numerics)
    micro_batch: int = 0


DEFAULT = Options()


@dataclass(frozen=True)
class TrainResult:
    """Result of one run. Rows of `curve` are (step, n_tokens, mean training loss since the last row)."""

    evaluation: Evaluation
    curve: list[tuple[int, int, float]]
    seconds: float  # of training, without evaluation, over all attempts
    model: nn.Module
    micro_batch: int  # sequences per forward pass
    devices: list[str]  # more than one if the run was resumed on another device
    warm_up_seconds: float = 0.0  # of `seconds`, in which kernels were loaded, compiled and captured
    warm_up_steps: int = 0
    base: Evaluation | None = None  # of the frozen backbone alone


def train_run(config: RunConfig, data: TokenData, options: Options = DEFAULT) -> TrainResult:
    """Train and evaluate one run.

    Raises:
        DivergedError: the loss became nan or infinite, or much larger than at the start.
        MemoryShortError: not even one sequence fits into memory.
    """
    # Building, training and evaluating can all run out of memory.
    with options.numerics.applied(), translate_oom(f"run {config.key}", "try a smaller N or P"):
        return _train_run(config, data, options)


def _train_run(config: RunConfig, data: TokenData, options: Options) -> TrainResult:
    recipe = config.recipe
    # Before training: a text that is too short fails at once.
    validation = validation_windows(data.validation(), data.validation_starts(), recipe.seq_len, recipe.val_tokens)
    model, state = train_phases(config, data, options)
    rows = rows_at_once(options.device, config.architecture.P, recipe.seq_len)
    if state.micro_batch < recipe.batch_size:
        rows = min(rows, state.micro_batch)
    how = (validation, options.device, recipe.dtype == "bf16", max(1, rows))
    evaluation = _evaluate(model, *how)
    if not math.isfinite(evaluation.loss):
        raise DivergedError(f"run {config.key}: the validation loss is not a number; try a lower lr", state)
    return TrainResult(
        evaluation,
        state.curve,
        state.seconds,
        model,
        state.micro_batch,
        state.devices,
        state.warm_up_seconds,
        state.warm_up_steps,
        _evaluate_backbone(model, *how) if config.frozen else None,
    )


def _evaluate_backbone(model: Any, *how: Any) -> Evaluation:
    with backbone_only(model):
        return _evaluate(model, *how)


def _evaluate(model: Any, validation: tuple[np.ndarray, np.ndarray], device: str, bf16: bool, rows: int) -> Evaluation:
    """Run `evaluate` with `rows` windows at once, or as many as fit into memory."""
    while True:
        try:
            return evaluate(model, *validation, device, bf16, rows)
        except Exception as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        rows //= 2
        free_memory()


def train_phases(config: RunConfig, data: TokenData, options: Options = DEFAULT) -> tuple[Any, TrainState]:
    """Train the phases of `config` and return its model and state, without evaluation; see `train_run`."""
    model, optimizer = _new_model(config, data, options.device)
    plan, state = phases(config), TrainState()
    if options.checkpoints is not None:
        # Latest phase first: any of its checkpoints is further on than those of the phases before it.
        folders = [(options.checkpoints / phase_key(phase), phase.steps) for phase in reversed(plan)]
        found = (load_newest(folder, steps, model, optimizer) for folder, steps in folders)
        state = next((s for s in found if s is not None), state)
    for phase in plan:
        if state.step >= phase.steps:
            continue
        same_model = phase.architecture.has_prefixes == config.architecture.has_prefixes
        phase_model, phase_optimizer = (model, optimizer) if same_model else _new_model(phase, data, options.device)
        save: Observer | None = None
        if options.checkpoints is not None:
            folder = options.checkpoints / phase_key(phase)
            if not same_model:
                state = load_newest(folder, phase.steps, phase_model, phase_optimizer) or TrainState()
            ends_shared = phase is not config or phase.recipe.schedule == "constant"
            end = phase.steps if ends_shared else None
            save = Saver(folder, phase_model, phase_optimizer, options.save_every_s, end)
        state.micro_batch = options.micro_batch or state.micro_batch or fitting_micro_batch(phase, options.device)
        optimise(
            phase_model,
            phase_optimizer,
            data,
            _plan(phase, f"run {config.key}"),
            state,
            LoopOptions(options.device, options.compile_model, options.progress, options.observer, save),
        )
        if not same_model:  # a phase without streams: the streams start with its weights
            _copy_state(phase_model, phase_optimizer, model, optimizer)
    return model, state


def _plan(phase: RunConfig, name: str) -> Phase:
    every = _STABLE_POINT_STEPS if phase.recipe.schedule == "constant" else max(1, phase.steps // CURVE_POINTS)
    factor, objective = partial(learning_rate_factor, config=phase), next_token(phase.recipe.decorrelation)
    return Phase(phase.recipe, phase.steps, phase.seed, factor, every, name, objective)


def _new_model(config: RunConfig, data: TokenData, device: str) -> tuple[Any, torch.optim.Optimizer]:
    model = build_model(config, data, device)
    return model, make_optimizer(model, config.recipe, config.peak_lr)


@torch.no_grad()
def _copy_state(
    source: nn.Module, source_optimizer: torch.optim.Optimizer, target: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Copy weights and moments of the parameters that both models have, by name."""
    known = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in known:
            parameter.copy_(known[name])
            optimizer.state[parameter] = {k: v.clone() for k, v in source_optimizer.state[known[name]].items()}
