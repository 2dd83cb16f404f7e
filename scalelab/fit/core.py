"""Fit a law to one group of records."""

from __future__ import annotations

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit.bootstrap import DRAWS, residual_bootstrap
from scalelab.fit.groups import Group, n_values
from scalelab.fit.notes import count_configs, count_notes, data_notes, interval_notes, optimum_notes, outlier_notes
from scalelab.fit.objective import DELTA, Objective
from scalelab.fit.result import FitResult
from scalelab.fit.solver import STARTS, minimise
from scalelab.laws import Law, ParallelLaw, Points


def fit_group(
    group: Group,
    law: Law | None = None,
    convention: str = "paper",
    delta: float = DELTA,
    starts: int = STARTS,
    draws: int = DRAWS,
    seed: int = 0,
) -> FitResult:
    """Fit `law` (default: the parallel law) with N counted by `convention`.

    Raises `ScalelabError` if there are fewer different (N, P) than parameters, or no start
    reaches a finite objective.
    """
    law = law or ParallelLaw()
    N = n_values(group, convention).to_numpy()
    P = group.records["n_streams"].to_numpy(dtype=float)
    loss = group.records["loss"].to_numpy(dtype=float)
    points = Points(N, P)
    names = [p.name for p in law.parameters]
    # With one P, k only rescales A: leave it at 0 rather than print a number from nowhere.
    fixed = ("k",) if "k" in names and len(np.unique(P)) == 1 else ()
    free = np.array([name not in fixed for name in names])
    configs = count_configs(points)
    if configs < free.sum():
        raise ScalelabError(
            f"{group.title}: {configs} different (N, P) cannot determine {free.sum()} parameters; add runs"
        )
    if loss.min() == loss.max():
        raise ScalelabError(f"{group.title}: all {len(loss)} losses are {loss[0]:g}: there is nothing to fit")
    objective = Objective(law, points, free, np.zeros(len(names)), delta)
    try:
        optimum = minimise(objective, np.log(loss), starts, seed)
    except ScalelabError as error:
        raise ScalelabError(f"{group.title}: {error}") from None
    params = objective.to_params(optimum.z)
    sample = residual_bootstrap(objective, optimum.z, np.log(loss), draws, seed)
    predicted = law.loss(params, points)
    residuals = np.log(predicted / loss)
    return FitResult(
        law=law.name,
        group=group.title,
        convention=convention,
        params=tuple(map(float, params)),
        fixed=fixed,
        objective=optimum.value,
        r_squared=float(1 - ((loss - predicted) ** 2).sum() / ((loss - loss.mean()) ** 2).sum()),
        n_runs=len(loss),
        agreement=optimum.agreement,
        N_range=(float(N.min()), float(N.max())),
        P_levels=tuple(int(p) for p in np.unique(P)),
        residuals=tuple(map(float, residuals)),
        runs=tuple((float(n), float(p), float(v)) for n, p, v in zip(N, P, loss, strict=True)),
        draws=tuple(tuple(map(float, row)) for row in sample),
        notes=(
            *data_notes(points, int(free.sum())),
            *count_notes(group.records, convention),
            *outlier_notes(points, residuals),
            *optimum_notes(law, params, fixed, optimum),
            *interval_notes(law, sample, fixed, float(loss.min())),
        ),
    )
