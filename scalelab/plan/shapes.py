"""The decoders that a plan chooses among: one for each real-valued width, so that N is continuous."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scalelab.architecture import Architecture
from scalelab.cost.equal_loss import RealWidth, count, widened

MIN_WIDTH, MAX_WIDTH = 16.0, 2.0**18  # nobody serves less or more
_STEPS = 60  # of a bisection over the logarithm of a width: to the last digits
_WIDTH_PER_LAYER = 24.0  # of `scalelab.architecture`'s size dial
_BUILDABLE = 128  # the paper's widths are multiples of it

SHAPES = ("paper", "ladder")


@dataclass(frozen=True)
class Shapes:
    """Decoders like `base` of any width: its heads, experts, vocabulary, prefixes and MLP ratio.

    All have the depth of `base`; with `deepening` narrow ones have fewer layers, a layer for each 24 of
    width and at least 2, as the size dial of sweeps has them. N is counted by `convention`.
    """

    base: Architecture
    deepening: bool = False
    convention: str = "paper"

    def of_width(self, width: float, P: int) -> RealWidth:
        family = self.base.with_streams(P)
        if self.deepening:
            layers = min(float(family.num_layers), max(2.0, width / _WIDTH_PER_LAYER))
            family = replace(widened(family, width), num_layers=layers)  # type: ignore[arg-type]  # a real number
        return widened(family, width)

    def n_params(self, width: float, P: int) -> float:
        return float(count(self.of_width(width, P), self.convention))

    def width_of(self, n_params: float, P: int) -> float | None:
        """The width whose N is `n_params`; None where no width is that small or large."""
        low, high = math.log(MIN_WIDTH), math.log(MAX_WIDTH)
        if not self.n_params(MIN_WIDTH, P) <= n_params <= self.n_params(MAX_WIDTH, P):
            return None
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.n_params(math.exp(middle), P) <= n_params else (low, middle)
        return math.exp(low)

    def buildable_below(self, width: float) -> tuple[int, int] | None:
        """The next width from `width` down that is a multiple of 128, of narrow ones of 32, and that number.

        None where there is none.
        """
        multiple = _BUILDABLE if width >= 8 * _BUILDABLE else _BUILDABLE // 4
        below = multiple * int(width // multiple)
        return (below, multiple) if below else None
