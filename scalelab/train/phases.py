"""Phases of a run, and the learning rate in each of them.

A run has one to three phases, each a `RunConfig` that ends where the next one starts: training without streams at a
constant rate (if streams start later), training at a constant rate (``wsd``), and the rest. A phase at a constant rate
does not depend on its own length. So runs that differ in D, or in P after a phase without streams, pass through the
same states: these phases are trained once and then branch.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields, replace

from scalelab.train.recipe import Recipe, RunConfig

# Options that do not affect a run without streams.
_STREAM_OPTIONS = (
    "smooth",
    "prefix_key_std",
    "prefix_value_std",
    "prefix_lr_scale",
    "aggregator_lr_scale",
    "decorrelation",
)
_DEFAULTS = {field.name: field.default for field in fields(Recipe)}


def plain_steps(config: RunConfig) -> int:
    """Return the number of steps before the streams start."""
    return config.plain_tokens // config.step_tokens


def decay_start(config: RunConfig) -> int:
    """Return the step at which the learning rate starts to decay; `config.steps` if it never does."""
    recipe = config.recipe
    if recipe.schedule == "constant":
        return config.steps
    if recipe.schedule == "linear":
        return plain_steps(config)
    return max(plain_steps(config), config.steps - max(1, round(recipe.decay_fraction * config.steps)))


def learning_rate_factor(step: int, config: RunConfig) -> float:
    """Return the learning rate at `step`, counted from 0, as a share of its peak.

    A linear schedule without a phase before the streams warms up over `warmup_fraction` of all steps and then decays
    linearly. Every other schedule warms up over `warmup_tokens`, independent of D, and stays constant until
    `decay_start`. From there it decays linearly or, for ``wsd``, as 1 − √t (Hägele et al. 2024, arXiv 2405.18392:
    better than linear for short decays). The rate would reach 0 one step after the last.
    """
    recipe, steps = config.recipe, config.steps
    if recipe.schedule == "linear" and not config.plain_tokens:
        return linear_factor(step, steps, recipe.warmup_fraction)
    warmup = min(1.0, (step + 1) * config.step_tokens / recipe.warmup_tokens)
    start = decay_start(config)
    if step < start:
        return warmup
    progress = (step - start) / (steps - start)
    return warmup * (1 - math.sqrt(progress) if recipe.schedule == "wsd" else 1 - progress)


def linear_factor(step: int, steps: int, warmup_fraction: float) -> float:
    """Return the factor of linear warm-up to 1 and linear decay, which reaches 0 one step after the last."""
    warmup = max(1, round(steps * warmup_fraction))
    return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)


def phases(config: RunConfig) -> list[RunConfig]:
    """Return the phases of `config`, the last of which is `config`; each ends at its own `steps`."""
    result = []
    if config.plain_tokens:
        result.append(_constant(_without_streams(config), config.plain_tokens))
    stable = decay_start(config)
    if config.recipe.schedule == "wsd" and stable > plain_steps(config):
        result.append(_constant(config, stable * config.step_tokens))
    return [*result, config]


def _constant(config: RunConfig, n_tokens: int) -> RunConfig:
    if not config.architecture.has_prefixes:
        config = _without_streams(config)
    names = ("schedule", "warmup_fraction", "decay_fraction", "val_tokens")
    recipe = replace(config.recipe, **{name: _DEFAULTS[name] for name in names} | {"schedule": "constant"})
    return replace(config, n_tokens=n_tokens, recipe=recipe)


def _without_streams(config: RunConfig) -> RunConfig:
    shape = replace(config.architecture, P=1, prefix_tokens=1, aggregation="dynamic", single_prefix=False)
    recipe = replace(config.recipe, **{name: _DEFAULTS[name] for name in _STREAM_OPTIONS})
    return replace(config, architecture=shape, recipe=recipe, plain_tokens=0)


def phase_key(phase: RunConfig) -> str:
    """Return the key, 16 hex digits, of the states that `phase` passes through.

    Phases at a constant rate that differ only in length have the same key.
    """
    if phase.recipe.schedule != "constant":
        return phase.key
    identity = {name: value for name, value in phase.identity().items() if name != "n_tokens"}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
