"""The problem of a plan: a law, decoders, serving costs and limits, and the costs of one (N, P)."""

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
    """Limits on memory and times of a batch of requests, and on training; None means no limit."""

    memory_bytes: float | None = None
    latency_s: float | None = None
    train_flops: float | None = None
    ttft_s: float | None = None  # time to the first token
    tpot_s: float | None = None  # time per token after it


@dataclass(frozen=True)
class Candidate:
    """One decoder with P streams and its costs. `training` is in FLOPs, None if D is not known."""

    P: int
    width: float
    N: float
    memory: float  # bytes
    latency: float  # seconds of the whole request
    training: float | None
    cost: Cost

    @property
    def ttft(self) -> float:
        """Time to the first token, in seconds."""
        return self.cost.ttft_s

    @property
    def tpot(self) -> float:
        """Time per token after the first, in seconds."""
        return self.cost.tpot_s

    def metric(self, name: str) -> float | None:
        """Return a cost by its name in `METRICS`; None if it is not known."""
        return getattr(self, name)

    def spread(self, name: str) -> float:
        """Return the standard deviation of ln(real / priced) of a metric, from published measurements."""
        return {"memory": self.cost.memory_spread, "training": 0.0}.get(name, self.cost.spread)


@dataclass(frozen=True)
class Problem:
    """A fitted law, and the costs of training and serving the decoders of `shapes`.

    `D` is the number of training tokens; the share `second_stage` of them is trained with P streams, the
    rest as a plain model (1: all with streams). The memory of the device is always a limit.

    Raises `UsageError` for a law without N, and for a training limit without D.
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
            raise UsageError(f"the law {law.name!r} has no N; plan with a law of N")
        if others := {*law.variables} - {"N", "D", "P"}:
            names = ", ".join(sorted(others))
            raise UsageError(f"the law {law.name!r} also depends on {names}: fit a law of N, D and P only")
        if "D" in law.variables and self.D is None:
            raise UsageError(f"the law {law.name!r} depends on D: give `D`")
        if not 0 < self.second_stage <= 1:
            raise UsageError("must lie in (0, 1]", argument="second_stage_fraction", value=self.second_stage)
        if self.limits.train_flops is not None and self.D is None:
            raise UsageError("`train_flops` needs the number of training tokens, which the fit does not have: give `D`")

    @cached_property
    def bounds(self) -> Mapping[str, float]:
        """Limits by metric, in bytes, seconds and FLOPs."""
        held = self.at_width(MIN_WIDTH, 1).cost.device_bytes
        limits = self.limits
        given = (limits.memory_bytes, limits.latency_s, limits.ttft_s, limits.tpot_s, limits.train_flops)
        bounds = {name: value for name, value in zip(METRICS, given, strict=True) if value is not None}
        return bounds | {"memory": min(held, bounds.get("memory", held))}

    @property
    def device_binds(self) -> bool:
        """True if the memory limit is that of the device, since none or a larger one was given."""
        return self.limits.memory_bytes is None or self.bounds["memory"] < self.limits.memory_bytes

    @property
    def cut_to_device(self) -> bool:
        """True if the given memory limit is larger than the memory of the device."""
        return self.limits.memory_bytes is not None and self.device_binds

    def most_requests(self, candidate: Candidate) -> tuple[int, str | None]:
        """Return the number of requests that can be served at once within the limits, and the limit reached."""
        model = candidate.cost.architecture
        bounds = {name: value for name, value in self.bounds.items() if name != "training"}
        return most_requests(lambda work: self.price(model, work), self.workload, bounds)  # type: ignore[arg-type]

    def at_width(self, width: float, P: int) -> Candidate:
        """Return the decoder of a width with P streams, with its costs."""
        return self.candidate(self.shapes.of_width(width, P))

    def candidate(self, model: Architecture) -> Candidate:
        """Return `model` as a candidate, with its costs."""
        cost = self.price(model, self.workload)
        training = None if self.D is None else train_flops(model, self.D, self.second_stage)
        N = float(model.count_params(self.shapes.convention))
        return Candidate(model.P, model.hidden_size, N, cost.memory_bytes, cost.latency_s, training, cost)

    def used(self, candidate: Candidate) -> dict[str, float]:
        """Return the share of each limit that the candidate uses, above 1 if it exceeds the limit."""
        return {name: (candidate.metric(name) or 0.0) / bound for name, bound in self.bounds.items()}

    def broken(self, candidate: Candidate) -> list[str]:
        """Return the limits that the candidate exceeds, the worst first."""
        used = self.used(candidate)
        return sorted((name for name in used if used[name] > 1), key=lambda name: -used[name])

    def losses(self, params: Array, N: Array, P: int) -> Array:
        """Return the law's loss [...] for params [..., k] at N [...]; NaN where it is undefined at P."""
        at = [np.broadcast_to(v, params.shape[:-1])[..., None] for v in (N, float(P), self.D or np.nan)]
        with np.errstate(all="ignore"):  # far from the runs a law may overflow or be undefined
            return self.fit.law.loss(params, Points(*at))[..., 0]


def train_flops(model: Architecture, tokens: float, second_stage: float = 1.0) -> float:
    """Return the training FLOPs on `tokens`: 6 per token, parameter and stream (arXiv 2203.15556, arXiv 2505.10475).

    The streams run for the share `second_stage` of the tokens. Only parameters that multiply every token
    are included, once per stream: the backbone with the active experts. Embeddings, prefixes and
    aggregator are left out, as in 6·N·D.
    """
    passes = 1.0 + second_stage * (model.P - 1)
    return FLOPS_PER_TOKEN * model.active_backbone_params * tokens * passes


def tokens_of(fit: FitResult, D: float | None) -> float | None:
    """Return the training tokens to plan for: `D`, else that of the runs, for a law with D the largest.

    None if the runs do not have it. Raises `UsageError` if a law without D was fitted to runs of another
    D.
    """
    if "D" in fit.law.variables:
        return float(fit.data.D.max()) if D is None else D
    seen = np.unique(fit.data.D[~np.isnan(fit.data.D)]) if "D" in fit.known else np.empty(0)
    if D is not None and len(seen) and not np.any(np.abs(seen / D - 1) <= _SAME_TOKENS):
        raise UsageError(
            f"the law {fit.law.name!r} has no D and is valid for the D of its runs only, "
            f"{', '.join(map(format_count, seen))}; leave out `D`, or fit a law with D such as joint",
            argument="D",
            value=format_count(D),
        )
    if D is None and len(seen) == 1:
        return float(seen[0])
    return D
