"""Runs of an analysis: N, P, D, loss and training FLOPs, with repeated seeds averaged, and their training budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from scalelab.conventions import CONVENTIONS
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.fit.derived import FLOPS_PER_TOKEN
from scalelab.laws.base import Array
from scalelab.units import format_number, plural

if TYPE_CHECKING:
    import pandas as pd

Basis = Literal["6NDP", "recorded"]  # how training FLOPs are counted
GAP = 0.1  # in ln FLOPs, between two budgets that count as different
WIDEST = 0.25  # in ln FLOPs, of the runs of one budget
NEAR = 0.15  # in ln FLOPs, of a run from a budget that is given


@dataclass(frozen=True, eq=False)
class Runs:
    """Configurations with the geometric mean of their seeds' losses. Arrays are [n]."""

    N: Array
    P: Array
    D: Array
    loss: Array
    weight: Array  # number of seeds, times their weights
    flops: Array  # of training, by `basis`
    basis: Basis

    def __len__(self) -> int:
        return len(self.loss)


def runs_of(records: pd.DataFrame, convention: str, title: str, basis: Basis | None = None) -> Runs:
    """Return the configurations in `records`.

    Training FLOPs are 6·N·D·P with the parameters of the backbone that a token uses, or those recorded. By default
    they are those recorded if only these form budgets.

    Raises:
        DataError: a column is missing, or has values in some records only.
    """
    column = CONVENTIONS[convention].column
    for name in (column, "n_tokens", *(["train_flops"] if basis == "recorded" else [])):
        missing = int(records[name].isna().sum()) if name in records else len(records)
        if missing:
            raise DataError(
                f"{title}: {missing} of {plural(len(records), 'record')} without {name!r}; map a column to it with "
                "`columns`"
            )
    N, D, loss = (records[name].to_numpy(dtype=float) for name in (column, "n_tokens", "loss"))
    P = records["n_streams"].fillna(1).to_numpy(dtype=float) if "n_streams" in records else np.ones(len(records))
    weight = records["weight"].fillna(1.0).to_numpy(dtype=float) if "weight" in records else np.ones(len(records))
    counted = FLOPS_PER_TOKEN * used_params(records, N) * D * P
    recorded = records["train_flops"].to_numpy(dtype=float) if "train_flops" in records else np.full(len(N), np.nan)
    if basis is None:
        known = bool(np.isfinite(recorded).all())
        basis = "recorded" if known and _misfit(recorded) < _misfit(counted) else "6NDP"
    flops = recorded if basis == "recorded" else counted
    index, inverse = np.unique(np.stack([N, P, D], axis=1), axis=0, return_inverse=True)
    inverse = inverse.ravel()
    total = np.bincount(inverse, weight).astype(float)
    mean = {k: np.bincount(inverse, weight * np.log(v)) / total for k, v in {"loss": loss, "flops": flops}.items()}
    N, P, D = index.T
    return Runs(N, P, D, np.exp(mean["loss"]), total, np.exp(mean["flops"]), basis)


def used_params(records: pd.DataFrame, N: Array) -> Array:
    """Return the parameters of the backbone that process one token, [n]."""
    used = N.copy()
    for name in ("n_params_backbone", "n_params_active"):
        if name in records:
            own = records[name].to_numpy(dtype=float)
            applies = np.isfinite(own) & ((own < N) | (name == "n_params_backbone"))
            used = np.where(applies, np.minimum(own, used), used)
    return used


def _misfit(flops: Array) -> float:
    """Return the share of runs that are in no budget, plus the spread of the budgets that there are."""
    labels, budgets = find_budgets(flops)
    inside = labels >= 0
    if not inside.any():
        return 1.0
    spread = np.log(flops[inside]) - np.log(budgets[labels[inside]])
    alone = np.bincount(labels[inside], minlength=len(budgets))[labels[inside]] < 3
    return float((~inside).mean() + (alone.sum() / len(flops)) + np.sqrt((spread**2).mean()))


def find_budgets(flops: Array) -> tuple[np.ndarray, Array]:
    """Return the number of each run's budget, int [n], and the budgets, ascending.

    Runs are sorted by ln FLOPs and split at gaps of more than `GAP`; a cluster that spans more than `WIDEST` is no
    budget, and its runs have the number −1.
    """
    order = np.argsort(flops, kind="stable")
    logs = np.log(flops[order])
    labels = np.empty(len(flops), dtype=int)
    budgets: list[float] = []
    for piece in np.split(np.arange(len(flops)), np.flatnonzero(np.diff(logs) > GAP) + 1):
        own = logs[piece]
        if own[-1] - own[0] > WIDEST:
            labels[order[piece]] = -1
            continue
        labels[order[piece]] = len(budgets)
        budgets.append(float(np.exp(own.mean())))
    return labels, np.array(budgets)


def given_budgets(flops: Array, budgets: Sequence[float]) -> tuple[np.ndarray, Array]:
    """Return the number of the budget within `NEAR` of each run, int [n], −1 for none, and the budgets, ascending.

    Raises:
        UsageError: two budgets are too close to tell their runs apart.
        ScalelabError: no run is near a budget.
    """
    known = np.array(sorted(budgets), dtype=float)
    close = np.flatnonzero(np.diff(np.log(known)) <= 2 * NEAR)
    if len(close):
        low, high = known[close[0] : close[0] + 2].tolist()
        reason = f"{format_number(low)} and {format_number(high)} are closer than a factor of {np.exp(2 * NEAR):.2f}"
        raise UsageError(f"{reason}; leave one out", argument="budgets")
    far = np.abs(np.log(flops)[:, None] - np.log(known))
    labels = np.where(far.min(axis=1) <= NEAR, far.argmin(axis=1), -1)
    if (labels < 0).all():
        raise ScalelabError(
            f"no run is within {np.expm1(NEAR):.0%} of a given budget; the runs have "
            f"{format_number(flops.min(), 3)} to {format_number(flops.max(), 3)} FLOPs"
        )
    return labels, known
