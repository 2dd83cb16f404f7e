"""Config of a run: everything that determines its loss, and the key that identifies it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any

from scalelab.architecture import FAMILY, LADDER, Architecture
from scalelab.errors import UsageError
from scalelab.later_options import with_later_options, without_later_options

LR_WIDTH, LR_TOKENS = 64, 1e6  # hidden size and D at which the peak rate is `Recipe.lr`
SCHEDULES = ("linear", "wsd", "constant")


@dataclass(frozen=True)
class Recipe:
    """Training recipe: everything except size, streams, tokens and seed.

    `lr` is the peak learning rate at hidden size 64; other widths use lr·(64/hidden)^lr_exponent. With a linear
    schedule and no plain stage, runs beyond D = 1M use (1M/D)^lr_tokens_exponent of that. So one value serves a grid
    over N and D. The schedule is ``linear`` (warm-up over a fraction of all steps, then decay to zero), ``wsd``
    (warm-up, stable, decay; all D of a sweep share one stable phase) or ``constant``; see `scalelab.train.phases`.
    docs/LOG.md explains why the stream options differ from the paper's at this scale.
    """

    seq_len: int = 64
    batch_size: int = 8  # sequences per step
    lr: float = 1e-2
    lr_exponent: float = 1.0
    lr_tokens_exponent: float = 0.25  # of a linear schedule; 0.12 to 0.35 by docs/findings.md
    schedule: str = "linear"
    warmup_fraction: float = 0.05  # of a linear schedule
    warmup_tokens: int = 51_200  # of the other schedules, where it must not depend on D
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
    decorrelation: float = 0.0  # weight of the streams' similarity in the training loss, see `scalelab.train.loss`
    # Validation
    val_tokens: int = 131_072
    dtype: str = "auto"  # fp32, bf16 (autocast over fp32 weights), or auto for one of them

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
        for name in ("weight_decay", "aggregator_lr_scale", "lr_exponent", "lr_tokens_exponent", "decorrelation"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        if self.dtype not in ("auto", "fp32", "bf16"):
            raise UsageError(f"dtype must be auto, fp32 or bf16, not {self.dtype!r}")


@dataclass(frozen=True)
class TextSource:
    """Corpus and tokenizer of a run; digests are of their content, so a moved folder is the same corpus."""

    corpus: str
    corpus_digest: str
    tokenizer: str
    tokenizer_digest: str


@dataclass(frozen=True)
class RunConfig:
    """One resolved run. Equal configs have equal keys and, on a CPU, equal losses.

    On CUDA, losses agree within the tolerances of docs/gpu.md, since kernels sum in no fixed order unless the run is
    deterministic. The first `plain_tokens` of `n_tokens` train only the backbone; then the P streams start.

    With a `backbone`, the folder of an existing model, only streams and low-rank matrices are trained.
    """

    architecture: Architecture
    n_tokens: int  # D, a whole number of steps
    seed: int
    text: TextSource
    recipe: Recipe = field(default_factory=Recipe)
    plain_tokens: int = 0  # a whole number of steps
    ladder: int = LADDER  # from which the shape was chosen, see `scalelab.architecture`
    backbone: str = ""  # of a frozen model
    backbone_digest: str = ""  # of its files, so a moved folder is the same model
    lora_rank: int = 0  # of LoRA matrices for the linear layers of the backbone

    def __post_init__(self) -> None:
        if not 0 <= self.plain_tokens < self.n_tokens:
            raise UsageError(
                f"plain_tokens {self.plain_tokens} must be less than D {self.n_tokens}: the streams train on the rest"
            )

    @property
    def frozen(self) -> bool:
        """True if the run starts from an existing model, of which only streams and low-rank matrices are trained."""
        return bool(self.backbone_digest)

    @property
    def peak_lr(self) -> float:
        """Peak learning rate at this width and D."""
        width = (LR_WIDTH / self.architecture.hidden_size) ** self.recipe.lr_exponent
        return self.recipe.lr * width * max(1.0, self.n_tokens / LR_TOKENS) ** -self.tokens_exponent

    @property
    def tokens_exponent(self) -> float:
        """The recipe's `lr_tokens_exponent`; 0 where all D share a stable phase or a plain stage."""
        shared = self.recipe.schedule != "linear" or self.plain_tokens > 0
        return 0.0 if shared else self.recipe.lr_tokens_exponent

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return self.recipe.seq_len * self.recipe.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.n_tokens // self.step_tokens

    def to_json(self) -> str:
        """Return the config as JSON, with the name of the backbone's folder instead of its path."""
        values = self._values(self.tokens_exponent) | {"backbone": PurePath(self.backbone).name}
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Return the config that `to_json` wrote, in this or an earlier version.

        Raises:
            KeyError, TypeError, ValueError: It is not such a config.
        """
        values = with_later_options(json.loads(text))
        values["architecture"] = Architecture(**values["architecture"])
        values["recipe"] = Recipe(**values["recipe"])
        values["text"] = TextSource(**values["text"])
        return cls(**values)

    @property
    def key(self) -> str:
        """Unique key of the record: 16 hex digits of the config's SHA-256.

        It depends on the content of the text, not on its name, so a renamed folder is the same corpus.
        """
        return _digest(self.identity())

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the loss, as plain values."""
        exponent = self.tokens_exponent if self.n_tokens > LR_TOKENS else 0.0  # it changes nothing below
        config = without_later_options(self._values(exponent))
        config["text"] = [self.text.corpus_digest, self.text.tokenizer_digest]
        config.pop("backbone", None)
        return config

    @property
    def setup(self) -> str:
        """Digest of everything that must be equal to compare losses over N, P, D and seeds."""
        names = ("prefix_tokens", "tied_embeddings", "aggregation", "single_prefix", *FAMILY)
        shared: dict[str, Any] = {name: getattr(self.architecture, name) for name in names}
        if self.frozen:  # P = 1 always has a prefix
            shared["single_prefix"] = False
        config = {
            "recipe": self._values(self.tokens_exponent)["recipe"],
            "architecture": shared,
            "plain_tokens": self.plain_tokens,
            "ladder": self.ladder,
            "backbone_digest": self.backbone_digest,
            "lora_rank": self.lora_rank,
        }
        return _digest(without_later_options(config))[:8]

    def _values(self, tokens_exponent: float) -> dict[str, Any]:
        return asdict(replace(self, recipe=replace(self.recipe, lr_tokens_exponent=tokens_exponent)))


def whole_steps(n_tokens: float, recipe: Recipe) -> int:
    """Round `n_tokens` to a whole number of steps, at least one."""
    step = recipe.seq_len * recipe.batch_size
    return max(1, round(n_tokens / step)) * step


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
