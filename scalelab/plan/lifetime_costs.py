"""Costs of a model's life: training once and serving tokens, in FLOPs, device seconds or US dollars.

Training takes 6·N·D FLOPs (arXiv 2203.15556), for every stream that runs. A served token, of a prompt or generated,
takes 2·N FLOPs per stream (arXiv 2401.00448), or its share of a request's time by the cost model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from scalelab.architecture import Architecture
from scalelab.cost.capacity import LIMITABLE
from scalelab.cost.request import TRAINING_SHARE, Cost, Device, Workload
from scalelab.errors import UsageError
from scalelab.fit.derived import FLOPS_PER_TOKEN
from scalelab.laws.base import Array
from scalelab.plan.shapes import MAX_WIDTH, MIN_WIDTH, Shapes

Unit = Literal["flops", "seconds", "money"]
UNITS: tuple[Unit, ...] = ("flops", "seconds", "money")
_FORWARD = 2.0  # FLOPs per parameter and token, arXiv 2001.08361
_HOUR = 3600.0
_GRID = 96  # widths between the smallest and the largest N; their costs are interpolated
_STEPS = 40  # of a bisection over ln width
_SEED = 0


@dataclass(frozen=True)
class Serving:
    """The decoders, the request, its price and limits on it (bytes and seconds by the names in `LIMITABLE`)."""

    shapes: Shapes
    workload: Workload
    price: Callable[[Architecture, Workload], Cost]
    device: Device
    limits: Mapping[str, float] = field(default_factory=dict)

    def cost(self, width: float, P: int) -> Cost:
        """Return the cost of a request to the decoder of a width with P streams."""
        return self.price(self.shapes.of_width(width, P), self.workload)

    def used(self, width: float, P: int) -> dict[str, float]:
        """Return the share of each limit that a decoder uses. The memory of the device is always a limit."""
        cost = self.cost(width, P)
        bounds = {**self.limits, "memory": min(cost.device_bytes, self.limits.get("memory", cost.device_bytes))}
        return {name: LIMITABLE[name](cost) / bound for name, bound in bounds.items()}

    def largest(self, P: int) -> tuple[float, str | None]:
        """Return the largest N with P streams within the limits, 0 if there is none, and the limit reached."""
        low, high = math.log(MIN_WIDTH), math.log(MAX_WIDTH)
        if max((used := self.used(MIN_WIDTH, P)).values()) > 1:
            return 0.0, max(used, key=lambda name: used[name])
        if max(self.used(MAX_WIDTH, P).values()) <= 1:
            return math.inf, None
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if max(self.used(math.exp(middle), P).values()) <= 1 else (low, middle)
        used = self.used(math.exp(high), P)
        return self.shapes.n_params(math.exp(low), P), max(used, key=lambda name: used[name])

    def width_of(self, N: float, P: int) -> float:
        """Return the width whose N is nearest."""
        least, most = (self.shapes.n_params(width, P) for width in (MIN_WIDTH, MAX_WIDTH))
        return self.shapes.width_of(min(max(N, least), most), P) or MIN_WIDTH

    def device_seconds(self, width: float, P: int) -> float:
        """Return the device seconds of one token, of a prompt or generated."""
        tokens = self.workload.batch * (self.workload.tokens_in + self.workload.tokens_out)
        return self.cost(width, P).latency_s * self.device.tensor_parallel / tokens


@dataclass(frozen=True)
class LifetimeCosts:
    """Costs of training and serving in one unit.

    Attributes:
        unit: "flops", "seconds" of devices, or "money" in US dollars.
        second_stage: Share of the training tokens for which streams run, after a plain first stage.
        serving: Decoders, request and price; None for FLOPs without limits.
        attention: Add the attention of a request to the FLOPs of a served token.
        train_on: Device for training.
        utilisation: Share of the 16-bit peak that training reaches.
    """

    unit: Unit = "flops"
    second_stage: float = 1.0
    serving: Serving | None = None
    attention: bool = False
    train_on: Device = field(default_factory=Device)
    utilisation: float = TRAINING_SHARE

    def __post_init__(self) -> None:
        for name, value in (("second_stage_fraction", self.second_stage), ("train_utilisation", self.utilisation)):
            if not 0 < value <= 1:
                raise UsageError("must lie in (0, 1]", argument=name, value=value)
        if self.unit != "flops" and self.serving is None:
            raise ValueError("seconds and money need the model that serves")
        if self.unit == "money":
            self.hour(self.train_on, "train_price_per_hour")
            self.hour(self._served.device, "price_per_hour")

    @property
    def capped(self) -> bool:
        """True if the limits of serving apply."""
        return self.serving is not None and (self.unit != "flops" or bool(self.serving.limits))

    @property
    def _served(self) -> Serving:
        assert self.serving is not None
        return self.serving

    @staticmethod
    def hour(device: Device, argument: str = "price_per_hour") -> float:
        """Return the US dollars per hour of one device. Raises `UsageError` with `argument` if there is no price."""
        price = device.found().price_per_hour if device.price_per_hour is None else device.price_per_hour
        if price is None:
            raise UsageError(f"the device {device.gpu} has no price per hour: give `{argument}`, in US dollars")
        return price

    @property
    def per_flop(self) -> float:
        """Cost of one training FLOP."""
        if self.unit == "flops":
            return 1.0
        seconds = 1 / (self.train_on.found().peak("bf16") * self.utilisation)
        return seconds if self.unit == "seconds" else seconds * self.hour(self.train_on) / _HOUR

    def train(self, N: Array, D: Array, P: int) -> Array:
        """Return the cost of training, in the shape of N and D."""
        passes = 1 + self.second_stage * (P - 1)
        return self.per_flop * FLOPS_PER_TOKEN * passes * N * D

    def serve(self, P: int, N: Array) -> Callable[[Array], Array]:
        """Return the cost of one served token as a function of N, for sizes in the range of `N`."""
        if self.unit == "flops" and not self.attention:
            return lambda size: _FORWARD * P * size
        serving = self._served
        low, high = (serving.width_of(float(end), P) for end in (N.min(), N.max()))
        widths = np.geomspace(low, high * (1 + 1e-9), _GRID)
        ln_N = np.log([serving.shapes.n_params(float(w), P) for w in widths])
        ln_cost = np.log([self._per_token(float(w), P) for w in widths])
        return lambda size: np.exp(np.interp(np.log(size), ln_N, ln_cost))

    def factors(self, P: int, N: float, draws: int) -> Array:
        """Return factors [draws] on the cost of serving, by the published errors of the cost model; 1 for FLOPs."""
        if self.unit == "flops":
            return np.ones(draws)
        cost = self._served.cost(self._served.width_of(N, P), P)
        speed, rows = np.random.default_rng(_SEED).standard_normal((2, draws))
        return np.exp(cost.spread * speed + cost.streams_spread * rows)

    def _per_token(self, width: float, P: int) -> float:
        serving = self._served
        if self.unit == "flops":
            model, work = serving.shapes.of_width(width, P), serving.workload
            # Scores and their sum, 2 FLOPs each, over half of the request's tokens on average.
            context = (work.tokens_in + work.tokens_out) / 2
            attention = 2 * _FORWARD * model.num_layers * model.hidden_size * context
            return P * (_FORWARD * serving.shapes.n_params(width, P) + attention)
        seconds = serving.device_seconds(width, P)
        return seconds if self.unit == "seconds" else seconds * self.hour(serving.device) / _HOUR
