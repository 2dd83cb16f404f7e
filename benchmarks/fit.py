"""How fast is a fit? Our batched multi-start against SciPy's least squares, start by start.

Both minimise the same objective on the paper's losses from the same starts, in turn, on one
thread; what counts is the ratio. Run with `make benchmark`.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import time

import numpy as np
from scipy.optimize import least_squares

from scalelab import records
from scalelab.fit import group_records
from scalelab.fit.objective import Objective
from scalelab.fit.solver import descend, draw_starts
from scalelab.laws import ParallelLaw, Points

STARTS = 100
ROUNDS = 5


def ours(objective: Objective, starts: np.ndarray, log_loss: np.ndarray) -> np.ndarray:
    """Objective values [s] that the batched descent reaches from each start."""
    return descend(objective, starts, log_loss)[1]


def scipy(objective: Objective, starts: np.ndarray, log_loss: np.ndarray) -> np.ndarray:
    """Objective values [s] that SciPy reaches from each start, with our analytic Jacobian."""
    values = []
    for start in starts:
        result = least_squares(
            lambda z: objective.residuals(z, log_loss),
            start,
            jac=objective.jacobian,  # pyright: ignore[reportArgumentType]
            bounds=objective.bounds(),
            loss="huber",
            f_scale=objective.delta,
            x_scale="jac",
        )
        values.append(float(objective.value(result.fun)))
    return np.array(values)


def main() -> None:
    print(f"{STARTS} starts, best of {ROUNDS} rounds in turn")
    print(f"{'corpus':18}{'ours, s':>9}{'SciPy, s':>10}{'ratio':>7}{'ours at best':>14}{'SciPy at best':>15}")
    for group in group_records(records.load("paper")):
        N, P = (group.records[c].to_numpy(float) for c in ("n_params", "n_streams"))
        log_loss = np.log(group.records["loss"].to_numpy(float))
        objective = Objective(ParallelLaw(), Points(N, P), np.ones(4, bool), np.zeros(4))
        starts = draw_starts(objective, log_loss, STARTS, seed=0)
        times: dict[str, list[float]] = {"ours": [], "scipy": []}
        values = {}
        for _ in range(ROUNDS):
            for contender in (ours, scipy):
                began = time.perf_counter()
                values[contender.__name__] = contender(objective, starts, log_loss)
                times[contender.__name__].append(time.perf_counter() - began)
        best = min(v.min() for v in values.values())
        share = {name: np.mean(v <= best * 1.001) for name, v in values.items()}
        fastest = {name: min(seconds) for name, seconds in times.items()}
        print(
            f"{group.records['corpus'].iloc[0]:18}{fastest['ours']:9.3f}{fastest['scipy']:10.3f}"
            f"{fastest['scipy'] / fastest['ours']:7.1f}{share['ours']:14.0%}{share['scipy']:15.0%}"
        )


if __name__ == "__main__":
    main()
