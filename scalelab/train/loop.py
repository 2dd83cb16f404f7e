"""The training loop: one resolved config in, one result out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scalelab.errors import ScalelabError
from scalelab.train.build import build_model
from scalelab.train.data import training_batches, validation_windows
from scalelab.train.evaluate import Evaluation, evaluate
from scalelab.train.recipe import Recipe, RunConfig
from scalelab.train.tokens import TokenData

Progress = Callable[[int, float, float], None]  # step, loss in nats a token, tokens a second

_CURVE_POINTS = 100


@dataclass(frozen=True)
class TrainResult:
    """What one run measured. `curve` rows are (step, n_tokens, mean training loss since the last)."""

    evaluation: Evaluation
    curve: list[tuple[int, int, float]]
    seconds: float  # of training, without evaluation
    model: nn.Module


def stream_groups(model: Any) -> dict[int, str]:
    """{id of parameter: "prefix" or "mixture"} of the streams in use."""
    mixture = model.get_decoder().mixture
    mixing = {id(p) for p in mixture.parameters()} if mixture is not None else set()
    return {id(p): "mixture" if id(p) in mixing else "prefix" for _, p in model.stream_parameters()}


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.AdamW:
    """AdamW over what requires gradients; matrices of the backbone decay, streams have rates of their own."""
    scales = {"prefix": recipe.prefix_lr_scale, "mixture": recipe.aggregator_lr_scale}
    kinds = stream_groups(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        kind = kinds.get(id(parameter))
        decay = recipe.weight_decay if kind is None and parameter.ndim == 2 else 0.0
        groups.setdefault((scales.get(kind or "", 1.0), decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": lr * s, "weight_decay": d} for (s, d), p in groups.items()],
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )


def learning_rate_factor(step: int, steps: int, warmup_fraction: float) -> float:
    """Linear warm-up to 1, then linear decay, reaching 0 one step after the last."""
    warmup = max(1, round(steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


def train_run(
    config: RunConfig,
    data: TokenData,
    device: str = "cpu",
    compile_model: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train and evaluate one run.

    `progress` is called about twice a second. Raises `ScalelabError` if the loss stops being
    a number: a diverged run has no loss to record.
    """
    recipe = config.recipe
    model = build_model(config).to(device)
    # Before training, not after it: a text that is too short is told at once.
    validation, documents = validation_windows(
        data.validation(), data.validation_starts(), recipe.seq_len, recipe.val_tokens
    )
    optimizer = make_optimizer(model, recipe, config.peak_lr)
    name = f"run {config.key}"
    curve, seconds = optimise(
        model, optimizer, data, recipe, config.steps, config.seed, device, compile_model, name, progress
    )
    evaluation = evaluate(model, validation, documents, device, recipe.dtype == "bf16")
    if not math.isfinite(evaluation.loss):
        raise ScalelabError(f"{name}: the validation loss is not a number; try a lower --lr")
    return TrainResult(evaluation, curve, seconds, model)


def optimise(
    model: Any,
    optimizer: torch.optim.Optimizer,
    data: TokenData,
    recipe: Recipe,
    steps: int,
    seed: int,
    device: str,
    compile_model: bool,
    name: str,
    progress: Progress | None,
) -> tuple[list[tuple[int, int, float]], float]:
    """`steps` steps on `data` in the order of `seed`: the loss curve, and seconds.

    Raises `ScalelabError` beginning with `name` if the loss stops being a number.
    """
    factor = learning_rate_factor
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps, recipe.warmup_fraction))
    forward: Any = torch.compile(model) if compile_model else model
    trained = [p for p in model.parameters() if p.requires_grad]
    meter = _Meter(name, recipe, steps, progress)
    model.train()
    started = time.perf_counter()
    batches = training_batches(data.train(), recipe.seq_len, recipe.batch_size, steps, seed)
    for step, windows in enumerate(batches, 1):
        batch = torch.from_numpy(windows).to(device, non_blocking=True)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=recipe.dtype == "bf16"):
            logits = forward(batch[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, recipe.grad_clip)
        optimizer.step()
        schedule.step()
        meter.update(step, loss.detach())
    return meter.curve, time.perf_counter() - started


class _Meter:
    """Collects the loss curve and reports progress, reading the loss off the device rarely."""

    def __init__(self, name: str, recipe: Recipe, steps: int, progress: Progress | None) -> None:
        self.name, self.steps, self.progress = name, steps, progress
        self.every = max(1, steps // _CURVE_POINTS)
        self.curve: list[tuple[int, int, float]] = []
        self.pending: list[torch.Tensor] = []
        self.tokens_a_step = recipe.seq_len * recipe.batch_size
        self.reported_at, self.reported_step = time.perf_counter(), 0

    def update(self, step: int, loss: torch.Tensor) -> None:
        self.pending.append(loss)
        if step % self.every == 0 or step == self.steps:
            mean = float(torch.stack(self.pending).mean())
            if not np.isfinite(mean):
                raise ScalelabError(f"{self.name}: the loss stopped being a number by step {step}; try a lower --lr")
            self.curve.append((step, step * self.tokens_a_step, mean))
            self.pending.clear()
        now = time.perf_counter()
        if self.progress is not None and self.curve and now - self.reported_at > 0.5:
            speed = (step - self.reported_step) * self.tokens_a_step / (now - self.reported_at)
            self.progress(step, self.curve[-1][2], speed)
            self.reported_at, self.reported_step = now, step
