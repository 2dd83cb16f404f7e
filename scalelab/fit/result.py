"""The fitted law: a frozen object that predicts, saves itself, and reloads to the same digits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalelab import __version__
from scalelab.errors import DataError
from scalelab.laws import Law, ParallelLaw, Points
from scalelab.laws.base import Array
from scalelab.records.store import whole_file

LAWS: dict[str, type] = {ParallelLaw.name: ParallelLaw}
LEVEL = 0.95


@dataclass(frozen=True)
class Note:
    """Something the reader must know before believing the numbers."""

    code: str
    message: str


@dataclass(frozen=True)
class FitResult:
    """A law fitted to one group of records.

    `params`, and `draws` row by row, follow the order of the law's parameters; a parameter in
    `fixed` was not fitted. Objective, R² (of losses, unweighted) and residuals (ln predicted −
    ln observed) are at `params`.
    """

    law: str
    group: str
    convention: str  # how N is counted: a name of `CONVENTIONS`
    params: tuple[float, ...]
    fixed: tuple[str, ...]
    objective: float
    r_squared: float
    n_runs: int
    agreement: float
    N_range: tuple[float, float]
    P_levels: tuple[int, ...]
    residuals: tuple[float, ...]
    runs: tuple[tuple[float, float, float], ...]  # N, P, loss
    draws: tuple[tuple[float, ...], ...]
    notes: tuple[Note, ...]
    version: str = __version__

    @property
    def law_object(self) -> Law:
        return LAWS[self.law]()

    @property
    def values(self) -> dict[str, float]:
        """Parameters by name."""
        names = [p.name for p in self.law_object.parameters]
        return dict(zip(names, self.params, strict=True))

    def interval(self, name: str, level: float = LEVEL) -> tuple[float, float] | None:
        """Percentile bootstrap interval of a parameter; None if it was not fitted or cannot have one."""
        if name in self.fixed or not self.draws:
            return None
        index = [p.name for p in self.law_object.parameters].index(name)
        low, high = np.quantile(np.array(self.draws)[:, index], tails(level))
        return float(low), float(high)

    def predict(self, N: Array | float, P: Array | float) -> Array:
        """Predicted loss in nats a token, shape of N and P broadcast."""
        return self._evaluate(np.array(self.params), N, P)

    def band(self, N: Array | float, P: Array | float, level: float = LEVEL) -> tuple[Array, Array]:
        """Bootstrap interval of the law's loss at each point: of the mean, without run noise.

        Infinitely wide where the fit has no draws (as many parameters as runs).
        """
        if not self.draws:
            shape = np.broadcast(np.asarray(N), np.asarray(P)).shape
            return np.full(shape, -np.inf), np.full(shape, np.inf)
        losses = self._evaluate(np.array(self.draws), N, P)
        low, high = np.nanquantile(losses, tails(level), axis=0)
        return low, high

    def save(self, path: Path) -> None:
        """Write the fit as JSON, whole or not at all."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"
        with whole_file(path) as file:
            file.write(text.encode())

    def _evaluate(self, params: Array, N: Array | float, P: Array | float) -> Array:
        N, P = np.broadcast_arrays(np.asarray(N, dtype=float), np.asarray(P, dtype=float))
        losses = self.law_object.loss(params, Points(N.ravel(), P.ravel()))
        return losses.reshape((*params.shape[:-1], *N.shape))


def load_fit(path: str | Path) -> FitResult:
    """A saved fit. Raises `DataError` naming the file if it is none."""
    path = Path(path)
    try:
        saved: dict[str, Any] = json.loads(path.read_text(), parse_constant=_refuse)
        notes = tuple(Note(**note) for note in saved.pop("notes"))
        frozen: dict[str, Any] = {name: _tuples(value) for name, value in saved.items()}
        fit = FitResult(**frozen, notes=notes)
        if fit.law not in LAWS:
            raise ValueError(f"unknown law {fit.law!r}")
        if len(fit.values) != len(fit.params) or any(len(row) != len(fit.params) for row in fit.draws):
            raise ValueError("wrong number of parameters")
        return fit
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a saved fit ({error})") from None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} stands in it")


def _tuples(value: object) -> object:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]
