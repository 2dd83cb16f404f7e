"""The data of a fit: N, P, D, loss and weight of each run, in sorted order."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scalelab.conventions import CONVENTIONS
from scalelab.errors import DataError
from scalelab.laws import Law, Points
from scalelab.laws.base import Array, Variable
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: dict[Variable, str] = {
    "N": "n_params",
    "P": "n_streams",
    "D": "n_tokens",
    "C": "train_flops",
    "U": "n_tokens_unique",
    "X": "n_experts",
    "R": "n_loops",
    "lr": "peak_lr",
    "B": "batch_size",
}
_ALWAYS: tuple[Variable, ...] = ("N", "P", "D")  # read even if the law does not need them


@dataclass(frozen=True, eq=False)
class FitData:
    """Rows of a fit, sorted, so that the order of a table does not change it. Arrays are [n].

    Where a table lacks them, P is 1, and N and D are NaN; `known` lists the variables it has.
    `size` is the backbone's N if recorded: the same for all P of one architecture.
    """

    N: Array
    P: Array
    D: Array
    loss: Array
    weight: Array
    size: Array
    known: tuple[Variable, ...]
    others: Mapping[str, Array] = field(default_factory=dict)  # variables except N, P and D
    run: np.ndarray | None = None  # run number of each row if a run has several rows; int [n]

    @classmethod
    def of_rows(
        cls,
        rows: Iterable[Sequence[float | None]],
        known: tuple[Variable, ...],
        others: Mapping[str, Sequence[float]],
        run: Sequence[int] | None,
    ) -> FitData:
        """Return the data for `rows` of N, P, D, loss, weight and size, with None for a missing value."""
        columns = np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=float).T
        more = {name: np.array(values) for name, values in others.items()}
        return cls(*columns, known=known, others=more, run=None if run is None else np.array(run))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FitData) and (self.digest, self.known) == (other.digest, other.known)

    @cached_property
    def rows(self) -> tuple[tuple[float | None, ...], ...]:
        """N, P, D, loss, weight and size of each row; None for a missing value."""
        columns = [a.tolist() for a in (self.N, self.P, self.D, self.loss, self.weight, self.size)]
        return tuple(tuple(None if np.isnan(v) else v for v in row) for row in zip(*columns, strict=True))

    @cached_property
    def points(self) -> Points:
        """The points of the rows, at which a law is evaluated."""
        return Points(self.N, self.P, self.D, others=self.others)

    @cached_property
    def config(self) -> np.ndarray:
        """Number of each row's unit of evidence, int [n]: its configuration, or its run if runs have several rows."""
        if self.run is not None:
            return np.unique(self.run, return_inverse=True)[1].ravel()
        return self.configuration

    @cached_property
    def configuration(self) -> np.ndarray:
        """Number of each row's configuration, int [n]: repeated seeds have the same values of all variables."""
        table = np.stack([np.nan_to_num(a) for a in (self.N, self.P, self.D, *self.others.values())], axis=1)
        return np.unique(table, axis=0, return_inverse=True)[1].ravel()

    @cached_property
    def n_configs(self) -> int:
        """Number of units of evidence in `config`."""
        return int(self.config.max()) + 1

    @cached_property
    def digest(self) -> str:
        """Hash of the runs, which identifies the data of a saved fit."""
        text = repr([a.tolist() for a in (self.N, self.P, np.nan_to_num(self.D), self.loss, self.weight)])
        if self.others or self.run is not None:
            more = {name: values.tolist() for name, values in self.others.items()}
            text += repr([more, None if self.run is None else self.run.tolist()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def values(self, variable: Variable) -> Array:
        """Return the values of a variable, [n]."""
        return self.points.value(variable)

    def varies(self, variable: Variable) -> bool:
        """Return true if a variable has more than one value."""
        return variable in self.known and len(np.unique(self.values(variable))) > 1

    def levels(self, variable: Variable) -> Array:
        """Return the distinct values of a variable, ascending; of N those of the backbones, the same for all P."""
        return np.unique(self.size if variable == "N" else self.values(variable))

    def too_few(self, law: Law, fixed: Container[str]) -> dict[Variable, list[str]]:
        """Return the variables with too few values, each with the free parameters that depend on it.

        A law with a floor and m parameters of a variable needs m + 1 values of it.
        """
        found: dict[Variable, list[str]] = {}
        for variable in self.known:
            names = [p.name for p in law.parameters if p.needs == variable and p.name not in fixed]
            if names and len(self.levels(variable)) <= len(names):
                found[variable] = names
        return found

    def means(self) -> FitData:
        """Return one row per configuration: the geometric mean of its losses, with the sum of their weights."""
        weight = np.bincount(self.configuration, self.weight).astype(float)
        loss = np.exp(np.bincount(self.configuration, self.weight * np.log(self.loss)) / weight)
        kept = self.subset(np.unique(self.configuration, return_index=True)[1])
        return replace(kept, loss=loss, weight=weight)

    def best(self) -> FitData:
        """Return the row with the lowest loss of each configuration."""
        order = np.lexsort((self.loss, self.configuration))
        first = np.unique(self.configuration[order], return_index=True)[1]
        return self.subset(np.sort(order[first]))

    def subset(self, keep: np.ndarray) -> FitData:
        """Return the rows in `keep`: bool [n], or indices."""
        columns = (a[keep] for a in (self.N, self.P, self.D, self.loss, self.weight, self.size))
        others = {name: values[keep] for name, values in self.others.items()}
        return FitData(*columns, known=self.known, others=others, run=None if self.run is None else self.run[keep])


def fit_data(
    records: pd.DataFrame,
    convention: str = "paper",
    title: str = "records",
    variables: Collection[Variable] = _ALWAYS,
) -> FitData:
    """Return N, P, D and the other `variables` of a law from `records`; `convention` is one of `CONVENTIONS`.

    Raises:
        DataError: a column has values in some records only.
    """
    import pandas as pd

    columns: dict[Variable, str] = {**COLUMNS, "N": CONVENTIONS[convention].column}
    values: dict[Variable, Array] = {}
    known: list[Variable] = []
    for variable, column in columns.items():
        if variable not in (*_ALWAYS, *variables):
            continue
        have = records[column].notna() if column in records else pd.Series(False, index=records.index)
        if have.all():
            known.append(variable)
            values[variable] = records[column].to_numpy(dtype=float)
        elif variable == "N" and "N" in variables and (have.any() or convention != "paper"):
            hint = "; use `count='paper'`" if convention != "paper" else ""
            raise DataError(f"{title}: {plural(int((~have).sum()), 'record')} without {column!r}{hint}")
        elif have.any() and variable in variables:
            raise DataError(
                f"{title}: {int((~have).sum())} of {plural(len(have), 'record')} without {column!r}: fill it in for "
                f"all, or leave these out with `where='{column} > 0'`"
            )
        else:
            values[variable] = np.full(len(records), 1.0 if variable == "P" else np.nan)
    others = {name: column for name, column in values.items() if name not in _ALWAYS and name in known}
    weight = records["weight"].fillna(1.0).to_numpy(dtype=float) if "weight" in records else np.ones(len(records))
    backbone = records["n_params_backbone"] if "n_params_backbone" in records else pd.Series(np.nan, records.index)
    size = backbone.fillna(pd.Series(values["N"], records.index)).to_numpy(dtype=float)
    run = np.zeros(len(records))
    if "run" in records and records["run"].notna().all():
        run = pd.factorize(records["run"])[0].astype(float)
    main = (values["N"], values["P"], values["D"], records["loss"].to_numpy(dtype=float), weight, size, run)
    rows = np.stack([*main, *others.values()])
    rows = rows[:, np.lexsort(rows[::-1])]
    several = len(np.unique(rows[6])) > 1 and len(np.unique(rows[6])) < rows.shape[1]
    return FitData(
        *rows[:6],
        known=tuple(known),
        others=dict(zip(others, rows[7:], strict=True)),
        run=rows[6].astype(int) if several else None,
    )
