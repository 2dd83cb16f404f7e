"""The decoders that a plan chooses from: one for each real-valued width, so that N is continuous."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from scalelab.architecture import WIDTH_PER_LAYER, Architecture
from scalelab.cost.equal_loss import RealWidth, widened, with_hidden_size

MIN_WIDTH, MAX_WIDTH = 16.0, 2.0**18  # widths outside this range are not served
_STEPS = 60  # of a bisection over ln width, to machine precision
_BUILDABLE = 128  # the widths of the paper are multiples of it
_NEXT = 4  # candidates, since rounding may exceed a limit

SHAPES = ("paper", "ladder")


@dataclass(frozen=True)
class Shapes:
    """Decoders of any width with the heads, experts, vocabulary, prefixes and MLP ratio of `base`.

    All have the depth of `base`; with `deepening`, narrow ones have fewer layers, one per 24 of width and
    at least 2, as in sweeps. N is counted by `convention`.
    """

    base: Architecture
    deepening: bool = False
    convention: str = "paper"

    def of_width(self, width: float, P: int) -> RealWidth:
        """Return the decoder of a width with P streams."""
        family = self.base.with_streams(P)
        if self.deepening:
            family = replace(widened(family, width), num_layers=self._layers(width))  # type: ignore[arg-type]  # real
        return widened(family, width)

    def _layers(self, width: float) -> float:
        if not self.deepening:
            return self.base.num_layers
        return min(float(self.base.num_layers), max(2.0, width / WIDTH_PER_LAYER))

    def n_params(self, width: float, P: int) -> float:
        """Return the N of the decoder of a width with P streams."""
        return float(self.of_width(width, P).count_params(self.convention))

    def width_of(self, n_params: float, P: int) -> float | None:
        """Return the width whose N is `n_params`; None if it is outside the range of widths."""
        low, high = math.log(MIN_WIDTH), math.log(MAX_WIDTH)
        if not self.n_params(MIN_WIDTH, P) < n_params <= self.n_params(MAX_WIDTH, P):
            return MIN_WIDTH if n_params == self.n_params(MIN_WIDTH, P) else None
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.n_params(math.exp(middle), P) <= n_params else (low, middle)
        return math.exp(low)

    def buildable(self, width: float, P: int, wider: bool = False) -> Iterator[Architecture]:
        """Yield the next few decoders that can be built, downwards from `width`, or upwards if `wider`, nearest first.

        Widths are multiples of 128 (of 32 if narrow), with an even number of dimensions per head for rotary position
        embeddings; numbers of layers and MLP widths are integers.
        """
        steps = [math.lcm(m, 2 * self.base.num_heads) for m in (_BUILDABLE, _BUILDABLE // 4)]
        step = steps[0] if width >= 8 * steps[0] else steps[1]
        first = math.ceil(width / step) if wider else math.floor(width / step)
        for i in range(_NEXT):
            hidden = step * (first + i if wider else first - i)
            if hidden > 0:
                layers = (math.ceil if wider else math.floor)(self._layers(hidden))
                yield replace(with_hidden_size(self.base, hidden), num_layers=layers, P=P)
