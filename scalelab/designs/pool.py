"""The pool of a design: known runs and candidates in one table, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scalelab.errors import UsageError
from scalelab.fit.data import COLUMNS, FitData
from scalelab.laws.base import VARIABLES, Array, Points, Variable

_MOST = 20_000  # candidates


@dataclass(frozen=True, eq=False)
class Pool:
    """Known runs, then candidates.

    `data` has a row for each; the losses of candidates are placeholders that only set scales. `prices` are those of the
    candidates, and `asked` the N for which a sweep trains them, if it differs from their N, [c] each.
    """

    data: FitData
    n_known: int
    prices: Array
    asked: Array | None = None

    @property
    def candidates(self) -> Points:
        """The points of the candidates."""
        return self.data.points.subset(np.arange(self.n_known, len(self.data.loss)))

    @cached_property
    def size(self) -> Array:
        """Product of N, P and D of each row, as far as known: errors about a law fall with it, [n]."""
        logs = [self.data.points.ln(v) for v in ("N", "P", "D", "C") if v in self.data.known]
        return np.exp(np.sum(logs, axis=0)) if logs else np.ones(len(self.data.loss))

    @cached_property
    def coordinates(self) -> Array:
        """Logarithms of the variables that vary among the candidates, each scaled to [0, 1], [c, v]."""
        at = self.candidates
        logs = [at.ln(v) for v in self.data.known if np.ptp(at.ln(v)) > 0]
        return np.stack([(x - x.min()) / np.ptp(x) for x in logs], axis=1) if logs else np.zeros((len(at.N), 1))


def make_pool(
    known: FitData | None, candidates: Mapping[str, Array], prices: Array, asked: Array | None = None
) -> Pool:
    """Return the pool of known runs, if any, and of candidates given by variable, [c] each.

    Raises:
        UsageError: The candidates lack a variable of the known runs, or there are too many.
    """
    count = len(prices)
    if count > _MOST:
        raise UsageError(
            f"there are {count:,} candidates, more than {_MOST:,}: give fewer values", argument="candidates"
        )
    names: Sequence[Variable] = [v for v in VARIABLES if v in candidates]
    if known is not None:
        lacking: list[Variable] = [v for v in known.known if v not in candidates and known.varies(v)]
        if lacking:
            raise UsageError(
                f"the candidates have no column {COLUMNS[lacking[0]]!r}, which varies among the known runs",
                argument="candidates",
            )
        names = [v for v in names if v in known.known or v == "P"]
    columns: dict[str, Array] = {}
    for v in VARIABLES:
        before = np.empty(0) if known is None else known.values(v) if v in known.known else _default(v, len(known.loss))
        after = candidates[v] if v in names else _default(v, count)
        columns[v] = np.concatenate([before, after])
    loss = np.full(count, 1.0 if known is None else float(np.exp(np.log(known.loss).mean())))
    weight = np.ones(count)
    if known is not None:
        loss, weight = np.concatenate([known.loss, loss]), np.concatenate([known.weight, weight])
    others = {v: columns[v] for v in names if v not in ("N", "P", "D")}
    main = [columns[v] for v in ("N", "P", "D")]
    data = FitData(*main, loss=loss, weight=weight, size=columns["N"], known=tuple(names), others=others)
    return Pool(data, 0 if known is None else len(known.loss), prices, asked)


def _default(variable: str, count: int) -> Array:
    return np.full(count, 1.0 if variable == "P" else np.nan)
