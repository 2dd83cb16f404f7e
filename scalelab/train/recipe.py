"""What a run is: the resolved config that decides its loss, and the key that names it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from scalelab.architecture import LADDER, Architecture
from scalelab.errors import UsageError

LR_WIDTH = 64  # the hidden size that `Recipe.lr` is for
SCHEDULES = ("linear", "wsd", "constant")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Everything but its size, streams, tokens and seed.

    `lr` is the peak for hidden size 64; other widths train at lr·(64/hidden)^lr_exponent, so that one
    number serves a grid over N. Its schedule is ``linear`` (warm-up over a fraction of all steps, then
    decay to zero), ``wsd`` (warm-up, stable, decay: all D of a sweep share one stable phase) or
    ``constant``: `scalelab.train.trajectory`. The stream options, and why they differ from the
    paper's at this scale: docs/LOG.md.
    """

    seq_len: int = 64
    batch_size: int = 8  # sequences a step
    lr: float = 1e-2
    lr_exponent: float = 1.0
    schedule: str = "linear"
    warmup_fraction: float = 0.05  # of a linear schedule
    warmup_tokens: int = 51_200  # of the others, where it must not depend on D
    decay_fraction: float = 0.2  # of a wsd schedule
    weight_decay: float = 0.1  # on matrices only
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0
    init_gain: float = 1.0  # weights start at N(0, (gain/√hidden)²); 0.02 at hidden 2500
    # Streams; measured on paired seeds: docs/LOG.md, "Which recipe lets streams pay at small N?"
    smooth: float = 0.01  # ε of the aggregator
    prefix_key_std: float = 1.0
    prefix_value_std: float = 0.3
    prefix_lr_scale: float = 3.0
    aggregator_lr_scale: float = 0.1
    # Validation
    val_tokens: int = 131_072
    dtype: str = "auto"  # fp32, or bf16: autocast over fp32 weights; auto becomes one of them

    def __post_init__(self) -> None:
        for name in (
            *("seq_len", "batch_size", "lr", "val_tokens", "grad_clip"),
            *("init_gain", "prefix_key_std", "prefix_value_std", "prefix_lr_scale", "warmup_tokens"),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} must be positive, not {value}")
        for name in ("warmup_fraction", "beta1", "beta2", "smooth"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        if not 0 < self.decay_fraction <= 1:
            raise UsageError(f"decay_fraction must lie in (0, 1], not {self.decay_fraction}")
        for name in ("weight_decay", "aggregator_lr_scale", "lr_exponent"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        if self.dtype not in ("auto", "fp32", "bf16"):
            raise UsageError(f"dtype must be auto, fp32 or bf16, not {self.dtype!r}")


@dataclass(frozen=True)
class TextSource:
    """Which text, as which tokens. Digests are of the content, so a moved folder is the same."""

    corpus: str
    corpus_digest: str
    tokenizer: str
    tokenizer_digest: str


@dataclass(frozen=True)
class RunConfig:
    """One resolved run. Equal configs have equal keys and, on a CPU, equal losses.

    On CUDA losses agree to the tolerances of docs/gpu.md: its kernels add in no fixed order unless a run is
    deterministic. Of the `n_tokens` the first `plain_tokens` train the backbone alone; the P streams begin then.
    """

    architecture: Architecture
    n_tokens: int  # D, a whole number of steps
    seed: int
    text: TextSource
    recipe: Recipe = field(default_factory=Recipe)
    plain_tokens: int = 0  # a whole number of steps
    ladder: int = LADDER  # of `scalelab.architecture`, from which the shape was chosen

    def __post_init__(self) -> None:
        if not 0 <= self.plain_tokens < self.n_tokens:
            raise UsageError(
                f"plain_tokens {self.plain_tokens} must be less than D {self.n_tokens}: streams train on the rest"
            )

    @property
    def peak_lr(self) -> float:
        return self.recipe.lr * (LR_WIDTH / self.architecture.hidden_size) ** self.recipe.lr_exponent

    @property
    def step_tokens(self) -> int:
        return self.recipe.seq_len * self.recipe.batch_size

    @property
    def steps(self) -> int:
        return self.n_tokens // self.step_tokens

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def key(self) -> str:
        """The record's unique key: 16 hex digits of the config's SHA-256.

        The text counts by content, not by name, so a renamed folder is the same corpus.
        """
        return _digest(self.identity())

    def identity(self) -> dict[str, Any]:
        """What decides the loss, as plain values."""
        config = _without_later_options(asdict(self))
        config["text"] = [self.text.corpus_digest, self.text.tokenizer_digest]
        return config

    @property
    def setup(self) -> str:
        """Names all that must agree before losses may be compared over N, P, D and seeds."""
        names = ("prefix_tokens", "tied_embeddings", "aggregation", "num_experts", "experts_per_token")
        shared: dict[str, Any] = {name: getattr(self.architecture, name) for name in names}
        config = {
            "recipe": asdict(self.recipe),
            "architecture": shared,
            "plain_tokens": self.plain_tokens,
            "ladder": self.ladder,
        }
        return _digest(_without_later_options(config))[:8]


def whole_steps(n_tokens: float, recipe: Recipe) -> int:
    """`n_tokens` rounded to a whole number of steps, at least one."""
    step = recipe.seq_len * recipe.batch_size
    return max(1, round(n_tokens / step)) * step


# Options that came after records had been made: with these values a run is what it was before.
_LATER_RECIPE = {
    "prefix_lr_scale": 1.0,
    "lr_exponent": 1.0,
    "schedule": "linear",
    "warmup_tokens": 51_200,
    "decay_fraction": 0.2,
}
_LATER_SHAPE = {"aggregation": "dynamic", "num_experts": 0, "experts_per_token": 2}
_LATER_OPTIONS = {"recipe": _LATER_RECIPE, "architecture": _LATER_SHAPE}
_LATER_TOP = {"plain_tokens": 0, "ladder": 1}


def _without_later_options(config: dict[str, Any]) -> dict[str, Any]:
    """`config` without options at the values of `_LATER_OPTIONS`, so that old keys stay good."""

    def kept(values: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in values.items() if k not in later or v != later[k]}

    return kept(config, _LATER_TOP) | {part: kept(config[part], later) for part, later in _LATER_OPTIONS.items()}


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
