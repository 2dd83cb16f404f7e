"""The numbers a fit sees: N, P, D, loss and weight of each run, in an order of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scalelab.errors import DataError
from scalelab.laws import Law, Points
from scalelab.laws.base import Array, Variable

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: dict[Variable, str] = {"N": "n_params", "P": "n_streams", "D": "n_tokens"}


@dataclass(frozen=True)
class Convention:
    """A way to count N: the record's column, and what it counts."""

    column: str
    meaning: str


CONVENTIONS = {
    "paper": Convention("n_params", "non-embedding parameters with streams"),
    "backbone": Convention("n_params_backbone", "non-embedding parameters without streams"),
    "total": Convention("n_params_total", "all parameters"),
}


@dataclass(frozen=True)
class FitData:
    """Runs, sorted, so that the order of a table cannot change a fit. Arrays are [n].

    P is 1 and D is NaN where a table does not know them; `known` says which variables it knows.
    `size` is the backbone's N where it is recorded: the same for all P of one architecture.
    """

    N: Array
    P: Array
    D: Array
    loss: Array
    weight: Array
    size: Array
    known: tuple[Variable, ...]

    @cached_property
    def points(self) -> Points:
        return Points(self.N, self.P, self.D)

    @cached_property
    def config(self) -> np.ndarray:
        """The number of each run's configuration: runs of the same N, P and D share it; int [n]."""
        table = np.stack([self.N, self.P, np.nan_to_num(self.D)], axis=1)
        return np.unique(table, axis=0, return_inverse=True)[1].ravel()

    @cached_property
    def n_configs(self) -> int:
        return int(self.config.max()) + 1

    @cached_property
    def digest(self) -> str:
        """A hash of the runs, to tell later what a saved fit was fitted to."""
        text = repr([a.tolist() for a in (self.N, self.P, np.nan_to_num(self.D), self.loss, self.weight)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def values(self, variable: Variable) -> Array:
        return {"N": self.N, "P": self.P, "D": self.D}[variable]

    def varies(self, variable: Variable) -> bool:
        return variable in self.known and len(np.unique(self.values(variable))) > 1

    def levels(self, variable: Variable) -> Array:
        """The different values of a variable, ascending; of N the backbones, which P does not change."""
        return np.unique(self.size if variable == "N" else self.values(variable))

    def too_few(self, law: Law, fixed: Container[str]) -> dict[Variable, list[str]]:
        """Variables with too few values for the free parameters that depend on them, and those parameters.

        A law with m parameters for a variable, and a floor, needs m + 1 of its values.
        """
        found: dict[Variable, list[str]] = {}
        for variable in COLUMNS:
            names = [p.name for p in law.parameters if p.needs == variable and p.name not in fixed]
            if names and len(self.levels(variable)) <= len(names):
                found[variable] = names
        return found

    def means(self) -> FitData:
        """One run a configuration: the geometric mean of its losses, with the sum of their weights."""
        weight = np.bincount(self.config, self.weight).astype(float)
        loss = np.exp(np.bincount(self.config, self.weight * np.log(self.loss)) / weight)
        first = np.unique(self.config, return_index=True)[1]
        return FitData(self.N[first], self.P[first], self.D[first], loss, weight, self.size[first], known=self.known)

    def subset(self, keep: np.ndarray) -> FitData:
        """The runs where `keep` [n] is true."""
        columns = (a[keep] for a in (self.N, self.P, self.D, self.loss, self.weight, self.size))
        return FitData(*columns, known=self.known)


def fit_data(records: pd.DataFrame, convention: str = "paper", title: str = "records") -> FitData:
    """The runs of `records`, N counted by one of `CONVENTIONS`.

    Raises `DataError` naming the column where some records know a value and others do not.
    """
    import pandas as pd

    columns: dict[Variable, str] = {**COLUMNS, "N": CONVENTIONS[convention].column}
    values: dict[Variable, Array] = {}
    known: list[Variable] = []
    variable: Variable
    for variable, column in columns.items():
        have = records[column].notna() if column in records else pd.Series(False, index=records.index)
        if have.all():
            known.append(variable)
            values[variable] = records[column].to_numpy(dtype=float)
        elif variable == "N":
            hint = "; use `count='paper'`" if convention != "paper" else ""
            raise DataError(f"{title}: {int((~have).sum())} records have no {column!r}{hint}")
        elif have.any():
            raise DataError(
                f"{title}: {int((~have).sum())} of {len(have)} records have no {column!r}: give it to all, or leave "
                f"these out with `where='{column} > 0'`"
            )
        else:
            values[variable] = np.full(len(records), 1.0 if variable == "P" else np.nan)
    weight = records["weight"].fillna(1.0).to_numpy(dtype=float) if "weight" in records else np.ones(len(records))
    backbone = records["n_params_backbone"] if "n_params_backbone" in records else pd.Series(np.nan, records.index)
    size = backbone.fillna(pd.Series(values["N"], records.index)).to_numpy(dtype=float)
    rows = np.stack([values["N"], values["P"], values["D"], records["loss"].to_numpy(dtype=float), weight, size])
    rows = rows[:, np.lexsort(rows[::-1])]
    return FitData(*rows, known=tuple(known))
