"""Averages over laws: the draws of several fitted laws as those of one fit.

A fit holds the plausible laws of its runs with their Akaike weights (`scalelab.fit.averaging`). `averaged` makes one
fit of them, whose draws come from each law in proportion to its weight, and whose point estimate is the weighted mean
of the laws' losses. Everything derived from a fit, such as predictions and plans, then holds for the average as well.

Source: Burnham & Anderson 2002, Model Selection and Multimodel Inference, chapter 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalelab.errors import UsageError
from scalelab.laws import LAWS, Law, Parameter, Points, get_law
from scalelab.laws.base import VARIABLES, Array
from scalelab.units import format_percent

if TYPE_CHECKING:
    from scalelab.fit.result import FitResult, Note

_MEAN = -1  # in place of the number of a law: the weighted mean of their losses at the fitted parameters


@dataclass(frozen=True)
class LawWeight:
    """A law that was compared for an average.

    `delta` is its AICc above the best law, None if it was not compared. `weight` is its share of the average, 0 if it
    is left out for `reason`. `fit` is None for laws that are left out, and for the law of the fit that holds this,
    which comes first in its `laws`.
    """

    label: str
    law: str
    delta: float | None
    weight: float
    reason: str = ""
    fit: FitResult | None = None


class MixtureLaw(Law):
    """Several laws as one. The first parameter is the number of a law, the others are the parameters of that law.

    With the number -1 the loss is the weighted mean over the laws at their fitted parameters `centres`.
    """

    name = "averaged"
    source = "Burnham & Anderson 2002, section 4.2"

    def __init__(
        self, labels: Sequence[str], laws: Sequence[Law], weights: Sequence[float], centres: Sequence[Array]
    ) -> None:
        self.labels, self.laws, self.weights = tuple(labels), tuple(laws), tuple(weights)
        self._centres = [np.asarray(centre, dtype=float) for centre in centres]
        longest = max(len(law.parameters) for law in laws)
        names = ["law", *(f"parameter {i + 1}" for i in range(longest))]
        self.parameters = tuple(Parameter(name, "1", (0.0, 1.0), (-np.inf, np.inf), positive=False) for name in names)
        self.variables = tuple(v for v in VARIABLES if any(v in law.variables for law in laws))
        self.latex = r"\sum_i w_i L_i"

    @property
    def title(self) -> str:
        """The laws and their weights as text."""
        return f"average of {self.words}"

    @property
    def words(self) -> str:
        """The laws and their weights: ``80 % additive + 20 % parallel``."""
        return " + ".join(f"{format_percent(w)} {label}" for label, w in zip(self.labels, self.weights, strict=True))

    def loss(self, params: Array, at: Points) -> Array:
        """Return the loss of each row's law, nats per token, [..., n]."""
        which = np.rint(params[..., 0]).astype(int)
        columns = {name: np.asarray(at.value(name), dtype=float) for name in self.variables}
        shape = np.broadcast_shapes((*which.shape, 1), *(column.shape for column in columns.values()))
        which = np.broadcast_to(which[..., None], (*shape[:-1], 1))[..., 0]
        params = np.broadcast_to(params, (*shape[:-1], params.shape[-1]))
        found = np.full(shape, np.nan)
        for number in range(_MEAN, len(self.laws)):
            mine = which == number
            if mine.any():
                here = {n: v if v.ndim < 2 else np.broadcast_to(v, shape)[mine] for n, v in columns.items()}
                found[mine] = self._loss_of(number, params[mine], _points(here))
        return found

    def row(self, number: int, params: Array) -> Array:
        """Return the parameters [..., k] of one law as those of the mixture, [..., 1 + the most parameters]."""
        row = np.zeros((*params.shape[:-1], len(self.parameters)))
        row[..., 0] = number
        row[..., 1 : 1 + params.shape[-1]] = params
        return row

    def equation(self, params: Mapping[str, float], digits: int = 4) -> str:
        """Return the laws and their weights as text."""
        return self.title

    def equations(self, digits: int = 4) -> list[str]:
        """Return the equation of each law with its fitted parameters."""
        return [
            law.equation(dict(zip(law.names, centre.tolist(), strict=True)), digits)
            for law, centre in zip(self.laws, self._centres, strict=True)
        ]

    def _loss_of(self, number: int, params: Array, at: Points) -> Array:
        if number == _MEAN:
            each = zip(self.weights, self.laws, self._centres, strict=True)
            mean = sum(w * law.loss(np.broadcast_to(centre, (len(params), len(centre))), at) for w, law, centre in each)
            return np.asarray(mean)
        law = self.laws[number]
        return law.loss(params[..., 1 : 1 + len(law.parameters)], at)


def _points(columns: Mapping[str, Array]) -> Points:
    """Return points with these columns; NaN in place of N, P or D that no law needs."""
    named = dict(columns)
    empty = np.full_like(next(iter(named.values())), np.nan)
    main = [named.pop(name, empty) for name in ("N", "P", "D")]
    return Points(*main, others=named)


def averaged(fit: FitResult, law: str | None = None) -> FitResult:
    """Return the average over the laws of `fit` as one fit, or the fit of one law alone.

    Args:
        fit: A fit with its `laws`. One without other laws is its own average.
        law: Name of one of the laws, such as "additive" or "additive, c = 1/2".

    Raises:
        UsageError: the fit does not hold that law.
    """
    if law is not None:
        return _alone(fit, law)
    members = [entry for entry in fit.laws if entry.weight > 0]
    fits = [entry.fit or replace(fit, laws=()) for entry in members]
    if len(members) < 2:
        return fits[0] if fits else fit
    total = max(fit.options.draws if f.draws else 0 for f in fits)
    mixed = MixtureLaw(
        [entry.label for entry in members],
        [f.law for f in fits],
        [entry.weight for entry in members],
        [np.array(f.params) for f in fits],
    )
    counts = apportion([entry.weight for entry in members], total)
    draws = [
        mixed.row(i, np.array(f.draws)[np.arange(count) % len(f.draws)])
        for i, (f, count) in enumerate(zip(fits, counts, strict=True))
        if count and f.draws
    ]
    params = mixed.row(_MEAN, np.zeros(0))
    with np.errstate(all="ignore"):
        fitted = mixed.loss(params, fit.data.points)
    squares = [fit.data.weight @ (fit.data.loss - value) ** 2 for value in (fitted, np.average(fit.data.loss))]
    return replace(
        fit,
        law=mixed,
        status="converged",
        params=tuple(params.tolist()),
        fixed=(),
        r_squared=float(1 - squares[0] / squares[1]),
        log_residuals=tuple(np.log(fitted / fit.data.loss).tolist()),
        covariance=(),
        draws=tuple(map(tuple, np.concatenate(draws).tolist())) if draws else (),
        notes=_notes(fits),
        laws=(),
    )


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Return whole numbers that add up to `total`, in proportion to `weights` (largest remainders)."""
    exact = np.array(weights) / np.sum(weights) * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()


def open_fit(path: str | Path, law: str | Law | None = None) -> FitResult:
    """Load a saved fit, and return the average over its laws, or the fit of one `law` alone.

    `law` may be a law of your own, or `file.py:NAME`, if the fit is of that law.

    Raises:
        UsageError: there is no such file, or the fit does not hold that law.
        DataError: the file is not a saved fit.
    """
    from scalelab.fit.saved import load_fit

    if isinstance(law, str) and ":" in law and law not in LAWS:
        law = get_law(law)
    if isinstance(law, Law) and LAWS.get(law.name) is not law:
        return averaged(load_fit(path, law), law.name)
    return averaged(load_fit(path), law.name if isinstance(law, Law) else law)


def choose(fit: FitResult, law: str | Law | None) -> FitResult:
    """Return the average over the laws of a fit in memory, or the fit of one `law` alone."""
    return averaged(fit, law.name if isinstance(law, Law) else law)


def laws_of(fit: FitResult) -> tuple[Law, ...]:
    """Return the laws behind a fit: those of an average, else its own."""
    return fit.law.laws if isinstance(fit.law, MixtureLaw) else (fit.law,)


def draws_of_laws(fit: FitResult) -> dict[str, np.ndarray]:
    """Return for each law of an average which draws are its own, bool [draws]; empty for a fit of one law."""
    if not isinstance(fit.law, MixtureLaw) or not fit.draws:
        return {}
    which = np.array(fit.draws)[:, 0]
    return {label: which == i for i, label in enumerate(fit.law.labels)}


def law_share(fit: FitResult, values: Array) -> float | None:
    """Return the share of the variance of `values` [draws] that is between the laws of an average.

    By the law of total variance: the variance of the laws' means over the whole variance. None for a fit of one law,
    and if a value is infinite or all are the same.
    """
    masks = [mask & ~np.isnan(values) for mask in draws_of_laws(fit).values()]
    known = values[~np.isnan(values)]
    if not masks or not len(known) or not np.isfinite(known).all() or np.ptp(known) == 0:
        return None
    between = sum(mask.sum() * (values[mask].mean() - known.mean()) ** 2 for mask in masks if mask.any())
    return float(between / len(known) / known.var())


def share_text(share: float | None) -> str:
    """Return the share of a variance that is between laws as text; "none" if it is not known."""
    return "none" if share is None else "<1 %" if share < 0.005 else format_percent(share)


def _alone(fit: FitResult, law: str) -> FitResult:
    held = {entry.label: entry.fit for entry in fit.laws[1:] if entry.fit is not None}
    if law in (fit.law.name, *(entry.label for entry in fit.laws[:1])):
        return replace(fit, laws=())
    found = held.get(law)
    named = [f for f in held.values() if f.law.name == law]
    found = found or (named[0] if len(named) == 1 else None)
    if found is not None:
        return found
    reasons = [entry.reason for entry in fit.laws if law in (entry.label, entry.law) and entry.reason]
    because = f" ({reasons[0]})" if reasons else ""
    names = " and ".join(repr(name) for name in (fit.law.name, *held))
    raise UsageError(
        f"this fit of {fit.group} holds {names} and not {law!r}{because}; choose one of these, or fit that law alone",
        argument="law",
        value=law,
    )


def _notes(fits: Sequence[FitResult]) -> tuple[Note, ...]:
    """Return the notes of all fits without duplicates: those on the runs are the same in all of them."""
    return tuple({(note.code, note.message): note for f in fits for note in f.notes}.values())
