"""How fast is a fit, against what the field does today? Ratios in one run; writes docs/benchmarks.md.

The baseline is written here as published fits do it: 300 starts, each by SciPy's L-BFGS-B with
finite differences, on the same objective from the same starts. Run with `make benchmark`.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
from scipy.optimize import minimize

from scalelab import records
from scalelab.fit import FitOptions, fit_group, group_records
from scalelab.fit.bootstrap import bootstrap
from scalelab.fit.data import FitData, fit_data
from scalelab.fit.objective import Objective
from scalelab.fit.options import build_objective
from scalelab.fit.select import compare_laws
from scalelab.fit.solver import draw_starts, minimise
from scalelab.laws import LAWS

STARTS = 300
DRAWS = 1000
ROUNDS = 5
OUTPUT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
ROWS = (24, 100, 1000, 10_000)


def baseline(objective: Objective, data: FitData) -> float:
    """The least objective over 300 starts, one after the other."""
    N, P, log_loss = data.N, data.P, np.log(data.loss)
    E0, A0 = objective.scale[0], objective.scale[1]

    def value(z: np.ndarray) -> float:
        gain = z[2] * np.log(P) + 1
        if (gain <= 0).any():
            return 1e10
        with np.errstate(over="ignore"):
            predicted = E0 * np.exp(z[0]) + (A0 * np.exp(z[1]) / (N * gain)) ** np.exp(z[3])
        size = np.abs(np.log(predicted) - log_loss)
        return float(np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum())

    best = np.inf
    for start in draw_starts(objective, STARTS, seed=0):
        # The default tolerance stops at once, since this objective is small beside 1.
        with np.errstate(invalid="ignore"):  # differences between two places outside the domain
            found = minimize(value, start, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 1000})
        best = min(best, float(found.fun))
    return best


def simulated(rows: int) -> FitData:
    """`rows` losses of the parallel law with noise of 0.3 %."""
    rng = np.random.default_rng(0)
    N, P = 10 ** rng.uniform(7.5, 10, rows), rng.choice([1.0, 2.0, 4.0, 8.0], rows)
    loss = (0.7 + (1.1e7 / (N * (0.4 * np.log(P) + 1))) ** 0.2) * np.exp(0.003 * rng.standard_normal(rows))
    return FitData(N, P, np.full(rows, np.nan), loss, np.ones(rows), N, known=("N", "P"))


def seconds(work: Callable[[], object], rounds: int) -> tuple[float, object]:
    """The fastest of `rounds`, and what came out."""
    best, result = np.inf, None
    for _ in range(rounds):
        began = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - began)
    return best, result


def against_baseline() -> list[str]:
    lines = [
        "| losses | baseline, s | fit, s | ratio | fit + 1,000 bootstrap, s | ratio | baseline's objective | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in group_records(records.load("paper")):
        data = fit_data(group.records)
        objective = build_objective(LAWS["parallel"], data, FitOptions())
        target = objective.to_target(data.loss)

        def ours(objective: Objective = objective, target: np.ndarray = target, data: FitData = data):
            return minimise(objective, target, data.weight, STARTS)

        def both(objective: Objective = objective, data: FitData = data, ours: Callable = ours):
            return bootstrap(objective, data, ours().z, "residual", DRAWS, 0)

        slow: list[float] = []
        quick: list[float] = []
        with_draws: list[float] = []
        for _ in range(ROUNDS):  # in turn, so that all meet the same machine
            taken, theirs = seconds(lambda o=objective, d=data: baseline(o, d), 1)
            slow.append(taken)
            taken, optimum = seconds(ours, 1)
            quick.append(taken)
            with_draws.append(seconds(both, 1)[0])
        a, b, c = (float(np.median(times)) for times in (slow, quick, with_draws))
        lines.append(
            f"| {group.title} | {a:.2f} | {b:.3f} | {a / b:.0f} | {c:.3f} | {a / c:.0f} "
            f"| {theirs:.6e} | {optimum.value:.6e} |"  # type: ignore[attr-defined]
        )
        print(lines[-1], flush=True)
    return lines


def over_rows() -> list[str]:
    lines = ["| rows | 300 starts, s | 1,000 bootstrap refits, s |", "|---|---|---|"]
    for rows in ROWS:
        data = simulated(rows)
        objective = build_objective(LAWS["parallel"], data, FitOptions())
        target = objective.to_target(data.loss)
        rounds = 3 if rows <= 1000 else 1
        fit, optimum = seconds(lambda o=objective, t=target, d=data: minimise(o, t, d.weight, STARTS), rounds)
        z = optimum.z  # type: ignore[attr-defined]
        draws, _ = seconds(lambda o=objective, d=data, z=z: bootstrap(o, d, z, "residual", DRAWS, 0), rounds)
        lines.append(f"| {rows:,} | {fit:.3f} | {draws:.3f} |")
        print(lines[-1], flush=True)
    return lines


def whole() -> list[str]:
    """What a person waits for."""
    (first, *_) = group_records(records.load("paper"))
    data = fit_data(first.records)
    lines = ["| what | s |", "|---|---|"]
    command = [sys.executable, "-m", "scalelab", "fit", "paper"]
    with tempfile.TemporaryDirectory() as folder:
        for title, work in (
            ("`fit_group`: 24 losses, 1,000 draws, notes, leave-one-out", lambda: fit_group(first)),
            ("`compare_laws`: 24 losses, six candidates, two hold-outs each", lambda: compare_laws(data, first.title)),
            ("`scalelab fit paper --law all`, whole process, two corpora", lambda: _run([*command, "--law", "all"])),
            (
                "`scalelab fit paper --no-figure`, whole process",
                lambda: _run([*command, "--no-figure", "--out", folder]),
            ),
            ("`scalelab fit paper`, whole process, with two figures", lambda: _run([*command, "--out", folder])),
            ("`scalelab --help`, whole process", lambda: _run([*command[:3], "--help"])),
        ):
            lines.append(f"| {title} | {seconds(work, 3)[0]:.2f} |")
            print(lines[-1], flush=True)
    return lines


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


HEADER = """# Speed

Made by `make benchmark` in one run on {machine}, one thread, Python {python}, NumPy {numpy}, SciPy {scipy}. Medians
of {rounds} rounds in turn; seconds differ from machine to machine, ratios less.

## Against the field's way

Baseline: 300 starts, each by SciPy's L-BFGS-B with finite differences, one after the other; the same objective
(sum-Huber of log residuals, δ = 0.001), parametrisation and starts. Ours: all starts at once, analytic
derivatives, the winner polished by SciPy.

{first}

## Over the number of rows

{second}

## What a person waits for

{third}
"""


def main() -> None:
    tables = ["\n".join(lines) for lines in (against_baseline(), over_rows(), whole())]
    _, heading, model = OUTPUT.read_text().partition("\n## Model\n")  # written by benchmarks/model.py
    OUTPUT.write_text(
        HEADER.format(
            machine=f"{os.cpu_count()} shared CPU cores",
            python=platform.python_version(),
            numpy=np.__version__,
            scipy=scipy.__version__,
            rounds=ROUNDS,
            first=tables[0],
            second=tables[1],
            third=tables[2],
        )
        + heading
        + model
    )


if __name__ == "__main__":
    main()
