"""What the data cannot carry: notes that stand beside the numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from scalelab.fit.result import LEVEL, Note, tails
from scalelab.fit.solver import Optimum
from scalelab.laws.base import Array, Law, Points
from scalelab.units import format_count

MIN_N_SPAN = 4.0
MANY = 4  # different (N, P) a parameter: simulated intervals hold about what they say (docs/LOG.md)
MIN_AGREEMENT = 0.05
MAX_GRADIENT = 1e-3
PERFECT = 1e-20  # an objective of rounding errors alone, whose gradient means nothing
OUTLIER = 10.0  # residuals in robust standard deviations
MAX_STREAM_SHARE = 0.05


def count_configs(points: Points) -> int:
    """How many different (N, P) there are."""
    return len(np.unique(np.stack([points.N, points.P]), axis=1).T)


def data_notes(points: Points, n_free: int) -> Iterator[Note]:
    """Notes that follow from which runs there are."""
    runs, configs = len(points.N), count_configs(points)
    if runs <= n_free:
        yield Note(
            "no_freedom",
            f"{runs} runs for {n_free} parameters: the law passes through them whatever the truth is, "
            "so R² means nothing and there are no intervals; add runs",
        )
    elif configs < MANY * n_free:
        yield Note(
            "few_runs",
            f"{configs} different (N, P) for {n_free} parameters: intervals from so few are rough, those of E "
            f"and A too narrow; {MANY * n_free} or more would be better",
        )
    levels = np.unique(points.P)
    if len(levels) == 1:
        yield Note("one_P", f"only P = {levels[0]:g} was run: k cannot be estimated and is left at 0")
    span = points.N.max() / points.N.min()
    if span < MIN_N_SPAN:
        yield Note(
            "narrow_N",
            f"N spans a factor of {span:.2g} ({format_count(points.N.min())} to "
            f"{format_count(points.N.max())}), less than {MIN_N_SPAN:g}: E and α cannot be told apart well",
        )
    if runs > configs:
        yield Note("repeats", f"{runs} runs at {configs} different (N, P): repeated seeds count as runs of their own")


def outlier_notes(points: Points, residuals: Array) -> Iterator[Note]:
    """A note for runs far off the law: the fit resists them, the bootstrap intervals do not."""
    spread = 1.4826 * float(np.median(np.abs(residuals)))
    for i in np.flatnonzero(np.abs(residuals) > max(OUTLIER * spread, 1e-4)):
        yield Note(
            "outlier",
            f"the run at N {format_count(points.N[i])}, P {points.P[i]:g} lies {np.expm1(-residuals[i]):+.1%} off the "
            "law, far more than the others: intervals with it in are not to be trusted; look at that run",
        )


def count_notes(records: pd.DataFrame, convention: str) -> Iterator[Note]:
    """A note if N holds so many stream parameters that it is no longer the backbone's size."""
    share = (records["n_params"] / records["n_params_backbone"] - 1).max()
    if convention == "paper" and share > MAX_STREAM_SHARE:
        yield Note(
            "streams_in_N",
            f"the streams' own parameters add up to {share:.0%} to N here (1 % in the paper), which this way of "
            "counting sets against P; --count backbone leaves them out",
        )


def optimum_notes(law: Law, params: Array, fixed: tuple[str, ...], optimum: Optimum) -> Iterator[Note]:
    """Notes that follow from where the optimiser ended. `params` [k]."""
    for parameter, value in zip(law.parameters, params, strict=True):
        ends = [end for end in parameter.bounds if np.isclose(value, end, rtol=1e-6, atol=0)]
        if ends and parameter.name not in fixed:
            yield Note("at_bound", f"{parameter.name} ended at its bound {ends[0]:g}: the data do not determine it")
    if optimum.agreement < MIN_AGREEMENT:
        share = f"{optimum.agreement:.1%}"
        yield Note("starts_disagree", f"only {share} of the starts found this optimum; there may be a better one")
    if optimum.gradient_norm > MAX_GRADIENT and optimum.value > PERFECT:
        yield Note("not_converged", f"the objective still falls here (scaled gradient {optimum.gradient_norm:.1e})")


def interval_notes(law: Law, draws: Array, fixed: tuple[str, ...], smallest_loss: float) -> Iterator[Note]:
    """Notes that follow from the intervals. `draws` [b, k]; none without draws."""
    index = {p.name: i for i, p in enumerate(law.parameters) if p.name not in fixed}
    if not len(draws):
        return
    if "k" in index:
        low, high = np.quantile(draws[:, index["k"]], tails(LEVEL))
        ends = f"[{low:.3g}, {high:.3g}]"
        if low <= 0 <= high:
            yield Note("k_unresolved", f"the interval of k {ends} holds 0: these runs show no sure effect of P")
        elif high < 0:
            yield Note("k_negative", f"k is below 0 {ends}: in these runs streams made the loss worse for their N")
    if "E" in index:
        low, high = np.quantile(draws[:, index["E"]], tails(LEVEL))
        if high - low > 0.5 * smallest_loss:
            yield Note(
                "E_unresolved",
                f"the interval of E [{low:.3g}, {high:.3g}] is more than half the smallest loss {smallest_loss:.3g}: "
                "the loss floor cannot be told from these sizes, and predictions far beyond them mean little",
            )
