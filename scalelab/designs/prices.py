"""Budgets and prices of runs: training FLOPs, seconds as measured on earlier runs, or a share of a finished table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.derived import FLOPS_PER_TOKEN
from scalelab.laws.base import Array
from scalelab.units import format_number, format_seconds, parse_count, parse_duration

Unit = Literal["FLOPs", "seconds", "share", "price"]
_FLOPS = re.compile(r"^\s*(.+?)\s*FLOPs?\s*$", re.IGNORECASE)
_SHARE = re.compile(r"^\s*([0-9.]+)\s*%\s*$")
_LEAST_TIMED = 3  # runs with recorded times


@dataclass(frozen=True)
class Budget:
    """An amount of FLOPs or seconds, a share of the price of all runs, or an amount in the unit of given prices."""

    amount: float
    unit: Unit

    def text(self, amount: float | None = None) -> str:
        """Return an amount, by default the budget, with its unit."""
        value = self.amount if amount is None else amount
        if self.unit == "seconds":
            return format_seconds(value)
        return f"{format_number(value, 3)} FLOPs" if self.unit == "FLOPs" else format_number(value, 4)

    def written(self) -> str:
        """Return the budget as `parse_budget` reads it."""
        return f"{self.amount:.6g}s" if self.unit == "seconds" else f"{self.amount:.6g}FLOP"


def parse_budget(value: Any) -> Budget:
    """Return a budget from text such as ``2h``, ``1e15FLOP`` or ``5%``, or from a number of FLOPs.

    Raises:
        UsageError: The value is not a budget.
    """
    if isinstance(value, Budget):
        return value
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return Budget(parse_count(value), "FLOPs")
        text = str(value)
        if (match := _SHARE.match(text)) and 0 < float(match[1]) <= 100:
            return Budget(float(match[1]) / 100, "share")
        if match := _FLOPS.match(text):
            return Budget(parse_count(match[1]), "FLOPs")
        return Budget(parse_duration(text), "seconds")
    except UsageError:
        raise UsageError(
            f"{value!r} is not a budget: give FLOPs such as 1e15FLOP, compute time such as 2h, or a share such as 5%",
            argument="budget",
        ) from None


def flops_of(N: Array, P: Array, D: Array | None) -> Array:
    """Return the price of runs in training FLOPs, 6·N·D·P, or in proportion to N·P at one D, [c]."""
    return FLOPS_PER_TOKEN * N * P * (1.0 if D is None else D)


def seconds_model(N: Array, P: Array, D: Array, seconds: Array) -> Array:
    """Return coefficients of the seconds a token by 1, N, P and N·P, none negative, from measured runs, [n] each.

    Raises:
        ScalelabError: Too few runs have a recorded time.
    """
    from scipy.optimize import nnls

    good = np.isfinite(seconds) & (seconds > 0) & np.isfinite(D)
    if good.sum() < _LEAST_TIMED:
        raise ScalelabError(
            f"{int(good.sum())} of the runs have 'train_seconds'; a budget in time needs {_LEAST_TIMED}: give FLOPs, "
            "such as 1e15FLOP"
        )
    rate = seconds[good] / D[good]
    terms = _terms(N[good], P[good]) / rate[:, None]  # relative errors count
    return nnls(terms, np.ones(len(rate)))[0]


def seconds_of(coefficients: Array, N: Array, P: Array, D: Array) -> Array:
    """Return the seconds of runs by a model of `seconds_model`, [c]."""
    return _terms(N, P) @ coefficients * D


def _terms(N: Array, P: Array) -> Array:
    return np.stack([np.ones_like(N), N, P, N * P], axis=1)
