"""Fit of the constants in `scalelab.cost.runtime` to published measurements, also with each source held out.

Residuals are ln(predicted / measured) with soft L1 loss beyond 0.15. Every constant has a prior: for classes, the
fractions and launch times published with the measurements, or those of NVIDIA's aiconfigurator. Constants without
measurements stay at their prior.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from benchmarks.published_data import Row, predict
from scalelab.cost import runtime
from scalelab.cost.runtime import CLASSES, KERNEL_FLOPS, ROW_COSTS

_SHARE_SD, _GAP_SD, _ROWS_SD = 0.1, 0.5, 0.7  # of the prior, in ln
_SCALE = 0.15

# Priors. Fractions of bandwidth and of FLOP/s by class; gaps in µs by class and runtime.
MEMORY = {
    "datacentre": 0.80,
    "workstation": 0.84,
    "geforce": 0.84,
    "amd": 0.80,
    "embedded": 0.80,
    "apple": 0.80,
    "cpu": 0.70,
    "phone": 0.70,
}
FLOPS = {
    "datacentre": 0.75,
    "workstation": 0.70,
    "geforce": 0.87,
    "amd": 0.50,
    "embedded": 0.50,
    "apple": 0.70,
    "cpu": 0.65,
    "phone": 0.65,
}
GAPS = {
    ("datacentre", "graphs"): 4.0,
    ("datacentre", "vllm"): 10.0,
    ("datacentre", "llama.cpp"): 5.0,
    ("workstation", ""): 4.0,
    ("geforce", ""): 4.0,
    ("amd", ""): 4.0,
    ("embedded", ""): 8.0,
    ("apple", ""): 9.0,
    ("phone", ""): 15.0,
}
# Rise of the cost of a product with each step to more rows; the first is one row over a plain read.
ROWS = {
    "float": ((2, 0.05), (4, 0.05), (8, 0.05), (16, 0.1), (32, 0.1)),
    "fused": ((1, 0.1), (32, 0.1)),
    "blocks": ((1, 0.1), (2, 0.1), (4, 0.2), (8, 0.3), (16, 0.2), (64, 0.2)),
}
LEFT = {"blocks": 0.9}

Constants = Mapping[tuple[str, ...], float]


def prior() -> dict[tuple[str, ...], tuple[float, float]]:
    """Return (value, standard deviation of its logarithm) of each constant by its name."""
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    found |= {("memory", kind): (value, _SHARE_SD) for kind, value in MEMORY.items()}
    found |= {("flops", kind): (value, _SHARE_SD) for kind, value in FLOPS.items()}
    found |= {("narrow_flops", "datacentre"): (0.70, _SHARE_SD)}
    found |= {("gap", *key): (value, _GAP_SD) for key, value in GAPS.items()}
    found |= {("rows", name, str(at)): (step, _ROWS_SD) for name, pairs in ROWS.items() for at, step in pairs}
    found |= {("routing",): (0.9, _SHARE_SD)}
    found |= {("left", name): (share, _SHARE_SD) for name, share in LEFT.items()}
    return found


@contextmanager
def using(constants: Constants) -> Iterator[None]:
    """Price with these constants."""
    before, costs, left, routing = dict(CLASSES), dict(ROW_COSTS), dict(KERNEL_FLOPS), runtime.ROUTING_EXPONENT
    try:
        for kind in MEMORY:
            changes = {name: min(1.0, constants[name, kind]) for name in ("memory", "flops", "narrow_flops")
                       if (name, kind) in constants}  # fmt: skip
            gaps = {key[2]: value * 1e-6 for key, value in constants.items() if key[:2] == ("gap", kind)}
            own = gaps.pop("", gaps.get(CLASSES[kind].runtime, CLASSES[kind].gap_s))
            CLASSES[kind] = replace(CLASSES[kind], **changes, gap_s=own, gaps=gaps)
        for name in ROWS:
            ROW_COSTS[name] = row_costs(constants, name)
        KERNEL_FLOPS.update({name: min(1.0, constants["left", name]) for name in LEFT})
        runtime.ROUTING_EXPONENT = min(1.0, constants["routing",])
        yield
    finally:
        CLASSES.update(before)
        ROW_COSTS.update(costs)
        KERNEL_FLOPS.update(left)
        runtime.ROUTING_EXPONENT = routing


def row_costs(constants: Constants, name: str) -> tuple[tuple[float, float], ...]:
    """Return the pairs of `scalelab.cost.runtime.ROW_COSTS` that these steps add up to."""
    pairs, cost = ([] if ROWS[name][0][0] == 1 else [(1.0, 1.0)]), 1.0
    for at, _ in ROWS[name]:
        cost *= 1 + constants["rows", name, str(at)]
        pairs.append((float(at), cost))
    return tuple(pairs)


def fit(rows: Sequence[Row]) -> dict[tuple[str, ...], float]:
    """Return the constants that fit `rows` of speeds best."""
    known = prior()
    names = list(known)
    used = [row for row in rows if row.quantity != "memory"]
    middle = np.log([value for value, _ in known.values()])
    spread = np.array([sd for _, sd in known.values()])

    def residuals(x: np.ndarray) -> np.ndarray:
        with using(dict(zip(names, np.exp(middle + spread * x), strict=True))):
            errors = np.array([math.log((predict(row) or math.nan) / row.measured) for row in used])
        # Soft L1 of the errors is written out here, so that residuals of the prior stay squared.
        robust = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + (errors / _SCALE) ** 2) - 1))
        return np.concatenate([robust, x])

    found = least_squares(residuals, np.zeros(len(names)), method="trf", diff_step=1e-3, max_nfev=12)
    return dict(zip(names, np.exp(middle + spread * found.x).tolist(), strict=True))


@dataclass(frozen=True)
class Scored:
    """A row, and what is predicted of it."""

    row: Row
    predicted: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.row.measured


def left_out(rows: Sequence[Row]) -> list[Scored]:
    """Return every row of speeds as predicted by constants that were fitted without its source."""
    scored = []
    for source in sorted({row.source for row in rows if row.quantity != "memory"}):
        with using(fit([row for row in rows if row.source != source])):
            scored += [
                Scored(row, predict(row) or math.nan)
                for row in rows
                if row.source == source and row.quantity != "memory"
            ]
    return scored
