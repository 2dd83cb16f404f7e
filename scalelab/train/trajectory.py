"""What runs share: the legs of a training trajectory, and the learning rate along it.

A run is one to three legs, each a `RunConfig` whose end is the start of the next: plain training at a constant
rate (where streams begin later), training at a constant rate (``wsd``), and the rest. A leg at a
constant rate does not depend on how long it goes on, so runs over D, or over P after a plain
stage, pass through the same states: they are trained once and branch.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields, replace

from scalelab.train.recipe import Recipe, RunConfig

# What a run without streams does not depend on.
_STREAM_OPTIONS = ("smooth", "prefix_key_std", "prefix_value_std", "prefix_lr_scale", "aggregator_lr_scale")
_DEFAULTS = {field.name: field.default for field in fields(Recipe)}


def plain_steps(config: RunConfig) -> int:
    return config.plain_tokens // config.step_tokens


def decay_start(config: RunConfig) -> int:
    """The step from which the learning rate falls; `config.steps` if it never does."""
    recipe = config.recipe
    if recipe.schedule == "constant":
        return config.steps
    if recipe.schedule == "linear":
        return plain_steps(config)
    return max(plain_steps(config), config.steps - max(1, round(recipe.decay_fraction * config.steps)))


def learning_rate_factor(step: int, config: RunConfig) -> float:
    """Share of the peak learning rate at `step`, counted from 0; it would be 0 one step after the last.

    A linear schedule without a plain stage warms up over `warmup_fraction` of all steps and decays
    linearly from there. Every other one warms up over `warmup_tokens`, whatever D, stays constant, and
    from `decay_start` on decays linearly, or for ``wsd`` as 1 − √t (Hägele et al. 2024,
    arXiv 2405.18392: better than linear for short decays).
    """
    recipe, steps = config.recipe, config.steps
    if recipe.schedule == "linear" and not config.plain_tokens:
        return linear_factor(step, steps, recipe.warmup_fraction)
    ramp = min(1.0, (step + 1) * config.step_tokens / recipe.warmup_tokens)
    start = decay_start(config)
    if step < start:
        return ramp
    gone = (step - start) / (steps - start)
    return ramp * (1 - math.sqrt(gone) if recipe.schedule == "wsd" else 1 - gone)


def linear_factor(step: int, steps: int, warmup_fraction: float) -> float:
    """Linear warm-up to 1, then linear decay, reaching 0 one step after the last."""
    warmup = max(1, round(steps * warmup_fraction))
    return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)


def legs(config: RunConfig) -> list[RunConfig]:
    """The legs of `config`, itself the last; `steps` of each says where it ends."""
    result = []
    if config.plain_tokens:
        result.append(_constant(_without_streams(config), config.plain_tokens))
    stable = decay_start(config)
    if config.recipe.schedule == "wsd" and stable > plain_steps(config):
        result.append(_constant(config, stable * config.step_tokens))
    return [*result, config]


def _constant(config: RunConfig, n_tokens: int) -> RunConfig:
    if config.architecture.P == 1:
        config = _without_streams(config)
    names = ("schedule", "warmup_fraction", "decay_fraction", "val_tokens")
    recipe = replace(config.recipe, **{name: _DEFAULTS[name] for name in names} | {"schedule": "constant"})
    return replace(config, n_tokens=n_tokens, recipe=recipe)


def _without_streams(config: RunConfig) -> RunConfig:
    shape = replace(config.architecture, P=1, prefix_tokens=1, aggregation="dynamic")  # whatever they are
    recipe = replace(config.recipe, **{name: _DEFAULTS[name] for name in _STREAM_OPTIONS})
    return replace(config, architecture=shape, recipe=recipe, plain_tokens=0)


def trajectory(leg: RunConfig) -> str:
    """Names the states that `leg` passes through: 16 hex digits.

    Legs at a constant rate that differ only in how long they go on have the same name.
    """
    if leg.recipe.schedule != "constant":
        return leg.key
    identity = {name: value for name, value in leg.identity().items() if name != "n_tokens"}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
