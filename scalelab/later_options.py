"""Options of a run's configuration that were added after the first records, with values at which they change nothing.

A configuration without such an option is that of a run with this value, and has the same key.
"""

from __future__ import annotations

from typing import Any

LATER_OPTIONS: dict[str, dict[str, Any]] = {
    "recipe": {
        "prefix_lr_scale": 1.0,
        "lr_exponent": 1.0,
        "lr_tokens_exponent": 0.0,
        "schedule": "linear",
        "warmup_tokens": 51_200,
        "decay_fraction": 0.2,
        "decorrelation": 0.0,
    },
    "architecture": {
        "aggregation": "dynamic",
        "num_experts": 0,
        "experts_per_token": 2,
        "qkv_bias": True,
        "loops": 1,
        "single_prefix": False,
    },
}
LATER_TOP: dict[str, Any] = {"plain_tokens": 0, "ladder": 1, "backbone": "", "backbone_digest": "", "lora_rank": 0}


def with_later_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration with the options that it is too old for."""
    parts = {name: {**later, **config[name]} for name, later in LATER_OPTIONS.items() if name in config}
    return {**LATER_TOP, **config, **parts}


def without_later_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without options at their values here, so that keys of old records stay valid."""

    def kept(values: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in values.items() if k not in later or v != later[k]}

    return kept(config, LATER_TOP) | {part: kept(config[part], later) for part, later in LATER_OPTIONS.items()}
