"""Ensembles: several runs of the same shape, with different seeds or learning rates, trained together.

A small model leaves most of a GPU idle and takes the host as many calls as a large one. Here the weights of K models
are stacked along a first axis, and every call works on all of them. Each model has its own batches, learning rate,
gradient clipping and moments, so its losses are those of a separate run up to rounding.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from scalelab.errors import DivergedError, UsageError
from scalelab.train.build import build_model, training_options
from scalelab.train.checkpoint import TrainState
from scalelab.train.data import TokenWindows, validation_windows, window_order
from scalelab.train.device import device_model
from scalelab.train.evaluate import evaluate, rows_at_once
from scalelab.train.loop import CURVE_POINTS, DIVERGED_NATS
from scalelab.train.optimizer import make_optimizer
from scalelab.train.phases import learning_rate_factor, phases
from scalelab.train.recipe import Recipe, RunConfig
from scalelab.train.tokens import TokenData
from scalelab.train.trainer import DEFAULT, Options, TrainResult

_ADAM_EPS = 1e-8


def can_train_together(configs: Sequence[RunConfig]) -> bool:
    """Return true if `configs` are new models with one phase and plain loss that differ in seed and rate only."""
    kinds = {(c.architecture, c.n_tokens, c.plain_tokens, c.text, _without_rate(c.recipe)) for c in configs}
    plain_loss = not (configs[0].architecture.num_experts or configs[0].recipe.decorrelation)
    all_new = not any(config.frozen for config in configs)
    return len(kinds) == 1 and len(phases(configs[0])) == 1 and plain_loss and all_new


def _without_rate(recipe: Recipe) -> Recipe:
    return Recipe(**{**vars(recipe), "lr": 1.0})


def train_ensemble(
    configs: Sequence[RunConfig], data: TokenData, options: Options = DEFAULT
) -> list[TrainResult | DivergedError]:
    """Train and evaluate all of `configs` together; return their results in the same order.

    The `seconds` of a result are an equal share of the whole. No checkpoints are saved, and `options.observer` is not
    called.

    Raises:
        UsageError: the configs differ in more than seed and learning rate, have another loss, or have several phases.
        torch.OutOfMemoryError: the models do not fit into memory together.
    """
    if not can_train_together(configs):
        raise UsageError(
            "only dense runs that differ in nothing but seed and learning rate, and train without decorrelation and "
            "without a frozen backbone, can be trained together",
            argument="configs",
        )
    recipe = configs[0].recipe
    validation = validation_windows(data.validation(), data.validation_starts(), recipe.seq_len, recipe.val_tokens)
    with options.numerics.applied():
        ensemble = Ensemble(configs, data, options.device)
        curves, seconds = _optimise(ensemble, configs, options)
        results: list[TrainResult | DivergedError] = []
        for k, config in enumerate(configs):
            state = TrainState(config.steps, curves[k], [], seconds / len(configs), recipe.batch_size)
            state.devices.append(device_model(options.device))
            results.append(_outcome(ensemble, k, config, state, validation, options.device))
    return results


def _outcome(
    ensemble: Ensemble, k: int, config: RunConfig, state: TrainState, validation: Any, device: str
) -> TrainResult | DivergedError:
    """Return the result of model `k`, or the error of its divergence."""
    name, losses = f"run {config.key}", [loss for _, _, loss in state.curve]
    if not all(map(math.isfinite, losses)):
        return DivergedError(f"{name}: the loss is not a number; try a lower lr", state)
    if max(losses) > losses[0] + DIVERGED_NATS:
        return DivergedError(f"{name}: diverged: loss {max(losses):.2f}; try a lower lr", state)
    model, recipe = ensemble.model(k), config.recipe
    rows = rows_at_once(device, config.architecture.P, recipe.seq_len)
    evaluation = evaluate(model, validation[0], validation[1], device, recipe.dtype == "bf16", rows)
    if not math.isfinite(evaluation.loss):
        return DivergedError(f"{name}: the validation loss is not a number; try a lower lr", state)
    return TrainResult(evaluation, state.curve, state.seconds, model, state.micro_batch, state.devices)


class Ensemble:
    """K models with stacked weights, their batches, and a training step of all of them."""

    def __init__(self, configs: Sequence[RunConfig], data: TokenData, device: str) -> None:
        recipe = configs[0].recipe
        self.recipe, self.device, self.count = recipe, device, len(configs)
        models = [build_model(config, device=device).train() for config in configs]
        self.base = models[0]
        _check_prefixes_once(self.base)
        self.optimizer = StackedAdamW(models, configs)
        self.parameters, self.buffers = self.optimizer.parameters, stack_module_state(models)[1]
        self.windows = TokenWindows(data.train(), recipe.seq_len, recipe.batch_size, device)

    def step(self, numbers: np.ndarray, factor: float) -> Tensor:
        """Take a step of all models on windows `numbers` [K, batch]; returns their mean cross entropies [K]."""
        batch = self.windows.batch(numbers.reshape(-1))
        losses = vmap(self._loss, randomness="different")(
            self.parameters, self.buffers, batch.view(self.count, -1, batch.shape[1])
        )
        losses.sum().backward()
        self.optimizer.clip(self.recipe.grad_clip)
        self.optimizer.step(factor)
        return losses.detach()

    def _loss(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Tensor) -> Tensor:
        kind = batch.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.recipe.dtype == "bf16", cache_enabled=False):
            given = {"use_cache": False} | training_options(self.base)
            logits = functional_call(self.base, (parameters, buffers), (batch[:, :-1],), given).logits
        return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())

    def model(self, k: int) -> Any:
        """Return model `k` as a separate module."""
        alone = copy.deepcopy(self.base)
        with torch.no_grad():
            for name, parameter in alone.named_parameters():
                parameter.copy_(self.parameters[name][k])
        return alone


@torch.no_grad()
def _check_prefixes_once(model: Any) -> None:
    """Run the check that every layer uses its prefix; under `vmap` it would run at each step."""
    model.eval()(torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
    model.train()


class StackedAdamW:
    """AdamW for stacked weights [K, …], with a learning rate and a gradient norm for each of the K models.

    Weight decay and the relative rates of parameters are those of `optimizer.make_optimizer`.
    """

    def __init__(self, models: Sequence[nn.Module], configs: Sequence[RunConfig]) -> None:
        recipe = configs[0].recipe
        self.betas, self.steps = (recipe.beta1, recipe.beta2), 0
        self.parameters = {n: p.detach().requires_grad_() for n, p in stack_module_state(list(models))[0].items()}
        names = {id(p): name for name, p in models[0].named_parameters()}
        device = next(iter(self.parameters.values())).device
        self.groups: list[tuple[list[Tensor], Tensor, float]] = []  # parameters, peak rates [K], decay
        for group in make_optimizer(models[0], recipe, 1.0).param_groups:
            held = [self.parameters[names[id(p)]] for p in group["params"]]
            peaks = torch.tensor([c.peak_lr * group["lr"] for c in configs], device=device)
            self.groups.append((held, peaks, group["weight_decay"]))
        self.moments = {id(p): (torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters.values()}

    @torch.no_grad()
    def clip(self, max_norm: float) -> None:
        """Scale each model's gradients to a norm of at most `max_norm`."""
        norms = [torch.linalg.vector_norm(p.grad.flatten(1), dim=1) for p in self.parameters.values()]
        scale = (max_norm / (torch.linalg.vector_norm(torch.stack(norms), dim=0) + 1e-6)).clamp(max=1.0)
        for p in self.parameters.values():
            p.grad.mul_(_along(scale, p))

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update all parameters at `factor` times their peak rates, and free the gradients."""
        self.steps += 1
        beta1, beta2 = self.betas
        for held, peaks, decay in self.groups:
            rates = peaks * factor
            for p in held:
                mean, square = self.moments[id(p)]
                slope = p.grad if p.grad is not None else torch.zeros_like(p)
                mean.lerp_(slope, 1 - beta1)
                square.mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
                scale = square.sqrt().div_(math.sqrt(1 - beta2**self.steps)).add_(_ADAM_EPS)
                p.mul_(_along(1 - rates * decay, p))
                p.sub_(_along(rates / (1 - beta1**self.steps), p) * (mean / scale))
                p.grad = None


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `values` [K] to broadcast along the first axis of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _optimise(
    ensemble: Ensemble, configs: Sequence[RunConfig], options: Options
) -> tuple[list[list[tuple[int, int, float]]], float]:
    """Train to the end; return each model's curve, as `loop.optimise` records it, and the seconds in total."""
    first, steps = configs[0], configs[0].steps
    every = max(1, steps // CURVE_POINTS)
    orders = [window_order(ensemble.windows.count, first.recipe.batch_size, steps, config.seed) for config in configs]
    curves: list[list[tuple[int, int, float]]] = [[] for _ in configs]
    pending: list[Tensor] = []
    started = reported_at = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "There is a performance drop", UserWarning
        )  # attention on a CPU is not batched
        for step in range(1, steps + 1):
            numbers = np.stack([next(order) for order in orders])
            pending.append(ensemble.step(numbers, learning_rate_factor(step - 1, first)))
            if step % every == 0 or step in (1, steps):
                for curve, loss in zip(curves, torch.stack(pending).mean(0).tolist(), strict=True):
                    curve.append((step, step * first.step_tokens, loss))
                pending.clear()
                now = time.perf_counter()
                if options.progress is not None and now - reported_at > 0.5:
                    mean = sum(curve[-1][2] for curve in curves) / len(curves)
                    options.progress(step, mean, len(configs) * step * first.step_tokens / (now - started))
                    reported_at = now
    return curves, time.perf_counter() - started
