"""What the data cannot carry: notes that stand beside the numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scalelab.fit.result import Note
from scalelab.laws.base import Array, Law, Points
from scalelab.units import format_count

MIN_N_SPAN = 4.0
MIN_AGREEMENT = 0.05


def data_notes(points: Points, n_free: int) -> Iterator[Note]:
    """Notes that follow from which runs there are."""
    runs = len(points.N)
    configs = len(np.unique(np.stack([points.N, points.P]), axis=1).T)
    if configs < 3 * n_free:
        yield Note(
            "few_runs",
            f"{configs} different (N, P) for {n_free} parameters: intervals from so few are rough; "
            f"{3 * n_free} or more would be better",
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


def result_notes(
    law: Law, params: Array, draws: Array, fixed: tuple[str, ...], agreement: float, smallest_loss: float
) -> Iterator[Note]:
    """Notes that follow from how the fit came out. `draws` [b, k], `params` [k]."""
    index = {p.name: i for i, p in enumerate(law.parameters)}
    for parameter in law.parameters:
        value = params[index[parameter.name]]
        ends = [end for end in parameter.bounds if np.isclose(value, end, rtol=1e-6, atol=0)]
        if ends and parameter.name not in fixed:
            yield Note("at_bound", f"{parameter.name} ended at its bound {ends[0]:g}: the data do not determine it")
    if agreement < MIN_AGREEMENT:
        yield Note(
            "starts_disagree", f"only {agreement:.1%} of the starts found this optimum; there may be a better one"
        )
    if "k" in index and "k" not in fixed:
        low, high = np.quantile(draws[:, index["k"]], [0.025, 0.975])
        if low <= 0 <= high:
            yield Note(
                "k_unresolved",
                f"the interval of k [{low:.3g}, {high:.3g}] holds 0: these runs show no sure effect of P",
            )
        elif high < 0:
            yield Note(
                "k_negative",
                f"k is below 0 [{low:.3g}, {high:.3g}]: in these runs streams made the loss worse for their N",
            )
    if "E" in index:
        E = draws[:, index["E"]]
        low, high = np.quantile(E, [0.025, 0.975])
        if (high - low) > 0.5 * smallest_loss:
            yield Note(
                "E_unresolved",
                f"the interval of E [{low:.3g}, {high:.3g}] is more than half the smallest loss {smallest_loss:.3g}: "
                "the loss floor cannot be told from these sizes, and predictions far beyond them mean little",
            )
