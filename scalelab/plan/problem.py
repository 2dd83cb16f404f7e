"""The problem of a plan: a law, decoders, costs of serving and limits; and what one (N, P) costs under them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scalelab.architecture import Architecture
from scalelab.cost.capacity import most_requests
from scalelab.cost.request import Cost, Workload
from scalelab.errors import UsageError
from scalelab.fit.derived import FLOPS_PER_TOKEN
from scalelab.fit.result import FitResult
from scalelab.laws import Points
from scalelab.laws.base import Array
from scalelab.plan.shapes import MIN_WIDTH, Shapes
from scalelab.units import format_count

METRICS = ("memory", "latency", "ttft", "tpot", "training")
_SAME_TOKENS = 5e-4


@dataclass(frozen=True)
class Limits:
    """Limits on the memory and times of a request batch, and on training; None is no limit."""

    memory_bytes: float | None = None
    latency_s: float | None = None
    train_flops: float | None = None
    ttft_s: float | None = None  # to the first token
    tpot_s: float | None = None  # for each token after it


@dataclass(frozen=True)
class Candidate:
    """One decoder with P streams and what it costs. `training` is FLOPs, None where D is not known."""

    P: int
    width: float
    N: float
    memory: float  # bytes
    latency: float  # seconds of the whole request
    training: float | None
    cost: Cost

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.cost.ttft_s

    @property
    def tpot(self) -> float:
        """Seconds for each token after the first."""
        return self.cost.tpot_s

    def metric(self, name: str) -> float | None:
        return getattr(self, name)

    def spread(self, name: str) -> float:
        """Return the standard deviation of ln(real / priced) of a metric, by published errors."""
        return {"memory": self.cost.memory_spread, "training": 0.0}.get(name, self.cost.spread)


@dataclass(frozen=True)
class Problem:
    """A law (`fit`) and what it costs to train and to serve the decoders of `shapes`.

    `D` is training tokens, of all of them a share `second_stage` with P streams and the rest as a plain
    model (1: streams throughout). The memory of the device is a limit even where none is given.

    Raises `UsageError` for a law without N, and for a training limit where D is not known.
    """

    fit: FitResult
    shapes: Shapes
    workload: Workload
    price: Callable[[Architecture, Workload], Cost]
    limits: Limits = Limits()
    D: float | None = None
    second_stage: float = 1.0

    def __post_init__(self) -> None:
        law = self.fit.law
        if "N" not in law.variables:
            raise UsageError(f"the law {law.name!r} does not know N, so there is nothing to plan with it")
        if "D" in law.variables and self.D is None:
            raise UsageError(f"the law {law.name!r} depends on D: give `D`")
        if not 0 < self.second_stage <= 1:
            raise UsageError("must lie in (0, 1]", argument="second_stage_fraction", value=self.second_stage)
        if self.limits.train_flops is not None and self.D is None:
            raise UsageError("`train_flops` needs the number of training tokens, which the fit does not know: give `D`")

    @cached_property
    def bounds(self) -> Mapping[str, float]:
        """The limit of each metric that has one: bytes, seconds, FLOPs."""
        held = self.at_width(MIN_WIDTH, 1).cost.device_bytes
        limits = self.limits
        given = (limits.memory_bytes, limits.latency_s, limits.ttft_s, limits.tpot_s, limits.train_flops)
        bounds = {name: value for name, value in zip(METRICS, given, strict=True) if value is not None}
        return bounds | {"memory": min(held, bounds.get("memory", held))}

    @property
    def device_binds(self) -> bool:
        """True where the memory limit is the device's own, since none or a larger one was given."""
        return self.limits.memory_bytes is None or self.bounds["memory"] < self.limits.memory_bytes

    @property
    def cut_to_device(self) -> bool:
        """Return whether a memory limit was given that is larger than what the device has."""
        return self.limits.memory_bytes is not None and self.device_binds

    def most_requests(self, candidate: Candidate) -> tuple[int, str | None]:
        """Return how many such requests the candidate serves at once within the limits, and what stops more."""
        model = candidate.cost.architecture
        bounds = {name: value for name, value in self.bounds.items() if name != "training"}
        return most_requests(lambda work: self.price(model, work), self.workload, bounds)  # type: ignore[arg-type]

    def at_width(self, width: float, P: int) -> Candidate:
        return self.candidate(self.shapes.of_width(width, P))

    def candidate(self, model: Architecture) -> Candidate:
        """`model` and what it costs."""
        cost = self.price(model, self.workload)
        training = None if self.D is None else train_flops(model, self.D, self.second_stage)
        N = float(model.count_params(self.shapes.convention))
        return Candidate(model.P, model.hidden_size, N, cost.memory_bytes, cost.latency_s, training, cost)

    def used(self, candidate: Candidate) -> dict[str, float]:
        """Return the share of each limit that the candidate uses: above 1 it breaks it."""
        return {name: (candidate.metric(name) or 0.0) / bound for name, bound in self.bounds.items()}

    def broken(self, candidate: Candidate) -> list[str]:
        """The limits that the candidate breaks, the worst first."""
        used = self.used(candidate)
        return sorted((name for name in used if used[name] > 1), key=lambda name: -used[name])

    def losses(self, params: Array, N: Array, P: int) -> Array:
        """The law's loss of params [..., k] at N [...]; NaN where it ends before P."""
        at = [np.broadcast_to(v, params.shape[:-1])[..., None] for v in (N, float(P), self.D or np.nan)]
        with np.errstate(all="ignore"):  # far out a law may overflow, or end
            return self.fit.law.loss(params, Points(*at))[..., 0]


def train_flops(model: Architecture, tokens: float, second_stage: float = 1.0) -> float:
    """FLOPs to train `model` on `tokens`: 6 a token, parameter and stream (arXiv 2203.15556, arXiv 2505.10475).

    The streams run for the share `second_stage` of the tokens. Of N only what every token is multiplied
    with counts, once a stream, hence the backbone and of experts those in use; embeddings, prefixes and
    aggregator are left out, as they are from 6·N·D.
    """
    passes = 1.0 + second_stage * (model.P - 1)
    return FLOPS_PER_TOKEN * model.active_backbone_params * tokens * passes


def tokens_of(fit: FitResult, D: float | None) -> float | None:
    """Training tokens to plan for: `D`, else the runs' own, the most of them for a law that knows D.

    None where the runs do not know it. Raises `UsageError` for another D than the runs' where the law
    holds for theirs only.
    """
    if "D" in fit.law.variables:
        return float(fit.data.D.max()) if D is None else D
    seen = np.unique(fit.data.D[~np.isnan(fit.data.D)]) if "D" in fit.known else np.empty(0)
    if D is not None and len(seen) and not np.any(np.abs(seen / D - 1) <= _SAME_TOKENS):
        raise UsageError(
            f"the law {fit.law.name!r} does not know D, it holds for the runs' own "
            f"{', '.join(map(format_count, seen))}; leave `D` out, or fit a law with D such as joint",
            argument="D",
            value=format_count(D),
        )
    if D is None and len(seen) == 1:
        return float(seen[0])
    return D
