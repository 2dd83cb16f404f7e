"""Coverage of nominal 95 % intervals on simulated data sets with known parameters.

Each data set has losses of the parallel law with noise in ln loss, fitted as in `scalelab fit`.
Run with `make coverage`; writes docs/coverage.md. `--sets 100` is a quick check.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from scalelab.fit import FitOptions, fit_group, group_records
from scalelab.fit.profile import profile_fit
from scalelab.laws import LAWS, Points

# Close to the paper's constants for Stack; N spans a factor of about 9 as there.
TRUTH = {"E": 0.7, "A": 1.1e7, "k": 0.4, "alpha": 0.2}
SPAN = (5e8, 4.4e9)
INSIDE = ((7e8, 4.0), (1.5e9, 2.0), (3e9, 8.0))  # N, P of the checked predictions
CURVE_TRUTH = {"E": 1.8, "A": 1e8, "alpha": 0.35, "B": 8e8, "beta": 0.37}
POINTS, CORRELATION = 15, 0.9
NOTES = ("few_runs", "E_unresolved")
OUTPUT = Path(__file__).parent.parent / "docs" / "coverage.md"


@dataclass(frozen=True)
class Design:
    sizes: int
    P: tuple[int, ...] = (1, 2, 4, 8)
    seeds: int = 1
    noise: float = 0.002
    errors: str = "normal"  # normal, t3 (heavy tails), outlier (one loss in each set 50 % too high), shared
    bootstrap: str = "residual"
    profiles: bool = False

    @property
    def title(self) -> str:
        runs = self.sizes * len(self.P) * self.seeds
        seeds = f" × {self.seeds} seeds" if self.seeds > 1 else ""
        return f"{runs} runs: {self.sizes} N × {len(self.P)} P{seeds}"


DEFAULTS = [
    Design(sizes, seeds=seeds, noise=noise)
    for noise in (0.002, 0.006)
    for sizes, seeds in ((3, 1), (6, 1), (12, 1), (6, 2))
]
OTHERS = [
    Design(6, errors="t3"),
    Design(6, errors="outlier"),
    Design(6, seeds=2, errors="shared"),
    Design(6, bootstrap="wild"),
    Design(6, bootstrap="pairs"),
    Design(6, bootstrap="profile", profiles=True),
]


@dataclass(frozen=True)
class Curves:
    """Points of loss curves: each run has its own offset, and errors correlated between points."""

    runs: int
    shared: float = 0.004  # standard deviation of the offsets, in ln loss
    along: float = 0.004  # correlation of the errors along a run
    by_run: bool = True

    @property
    def title(self) -> str:
        how = "by run" if self.by_run else "as independent points"
        return f"{self.runs} runs of {POINTS} points, {self.shared:.1%} and {self.along:.1%}, {how}"


CURVES = [
    Curves(12, by_run=False),
    Curves(6),
    Curves(12),
    Curves(24),
    Curves(12, shared=0.008, along=0.002),
    Curves(12, shared=0.002, along=0.006),
]


def curve_trial(design: Curves, draws: int, seed: int) -> dict[str, float]:
    """Return 1 or 0 for each interval of the Chinchilla law, fitted to all points of curves, that covers the truth."""
    rng = np.random.default_rng([seed, design.runs])
    tables = []
    for i, n in enumerate(np.geomspace(5e7, 5e8, design.runs)):
        errors = [rng.standard_normal()]
        for _ in range(POINTS - 1):
            errors.append(CORRELATION * errors[-1] + (1 - CORRELATION**2) ** 0.5 * rng.standard_normal())
        D = np.geomspace(3e8, 5e9, POINTS)
        law = LAWS["chinchilla"].loss(
            np.array(list(CURVE_TRUTH.values())), Points(np.full(POINTS, n), np.ones(POINTS), D)
        )
        loss = law * np.exp(design.shared * rng.standard_normal() + design.along * np.array(errors))
        tables.append(pd.DataFrame({"n_params": n, "n_tokens": D, "loss": loss, "run": f"run {i}"}))
    table = pd.concat(tables, ignore_index=True)
    if not design.by_run:
        table = table.drop(columns="run")
    (group,) = group_records(table, by_tokens=False, points="all")
    fit = fit_group(group, "chinchilla", FitOptions(starts=30, draws=draws, seed=seed))
    intervals = {name: fit.interval(name) or (-np.inf, np.inf) for name in CURVE_TRUTH}
    return {name: low <= CURVE_TRUTH[name] <= high for name, (low, high) in intervals.items()}


def curve_rows(sets: int, draws: int, pool: ProcessPoolExecutor) -> list[str]:
    lines = []
    for design in CURVES:
        table = pd.DataFrame(pool.map(partial(curve_trial, design, draws), range(sets), chunksize=10))
        shares = table.astype(float).mean()
        lines.append(f"| {design.title} | {' | '.join(f'{100 * shares[name]:.1f}' for name in CURVE_TRUTH)} |")
        print(lines[-1], flush=True)
    return lines


def simulate(design: Design, seed: int) -> pd.DataFrame:
    """One data set."""
    rng = np.random.default_rng([seed, design.sizes, design.seeds])
    N, P = (a.ravel() for a in np.meshgrid(np.geomspace(*SPAN, design.sizes).round(), np.array(design.P, float)))
    law = LAWS["parallel"].loss(np.array(list(TRUTH.values())), Points(N, P))
    shape = (design.seeds, len(N))
    errors = rng.standard_t(3, shape) if design.errors == "t3" else rng.standard_normal(shape)
    if design.errors == "shared":  # seeds of one configuration share half of the variance, as for a slightly wrong law
        errors = (errors + rng.standard_normal(len(N))) / np.sqrt(2)
    losses = law * np.exp(design.noise * errors)
    if design.errors == "outlier":
        losses.flat[rng.integers(losses.size)] *= 1.5
    columns = {"n_params": np.tile(N, design.seeds), "n_streams": np.tile(P, design.seeds), "loss": losses.ravel()}
    return pd.DataFrame(columns)


def trial(design: Design, draws: int, seed: int) -> dict[str, float]:
    """Return 1 or 0 for each interval of one data set that covers the truth, and its notes."""
    (group,) = group_records(simulate(design, seed))
    method = "residual" if design.profiles else design.bootstrap
    fit = fit_group(group, options=FitOptions(starts=30, draws=draws, seed=seed, bootstrap=method))
    found: dict[str, float] = {}
    for name, value in TRUTH.items():
        if design.profiles:
            low, high = profile.interval if (profile := profile_fit(fit, name)) else (None, None)
            found[name] = (low is None or low <= value) and (high is None or value <= high)
        else:
            low, high = fit.interval(name) or (-np.inf, np.inf)
            found[name] = low <= value <= high
    N, P = np.array(INSIDE).T
    truth = LAWS["parallel"].loss(np.array(list(TRUTH.values())), Points(N, P))
    low, high = fit.band(N, P)
    found["prediction"] = float(((low <= truth) & (truth <= high)).mean())
    codes = {note.code for note in fit.notes}
    low, high = fit.interval("k") or (np.nan, np.nan)
    return found | {"width of k": high - low} | {f"note {code}": code in codes for code in NOTES}


def measure(design: Design, sets: int, draws: int, pool: ProcessPoolExecutor) -> dict[str, float]:
    """Means over `sets` data sets."""
    table = pd.DataFrame(pool.map(partial(trial, design, draws), range(sets), chunksize=10))
    return table.drop(columns="width of k").astype(float).mean().to_dict() | {"width": table["width of k"].median()}


def row(design: Design, shares: dict[str, float], head: str) -> str:
    cells = [f"{100 * shares[name]:.1f}" for name in ("E", "A", "k", "alpha", "prediction")]
    cells += [f"{shares['width']:.3f}", *(f"{100 * shares[f'note {code}']:.0f} %" for code in NOTES)]
    return f"| {design.title} | {head} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=600, help="data sets a design")
    parser.add_argument("--draws", type=int, default=500, help="bootstrap draws a fit")
    parser.add_argument("--curve-sets", type=int, default=0, help="data sets a design of curves; 0 for --sets")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    columns = (
        "E | A | k | α | prediction | width of k | few_runs | E_unresolved |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    tables: dict[str, list[str]] = {"noise": [], "errors, interval": []}
    with ProcessPoolExecutor() as pool:
        for design in (*DEFAULTS, *OTHERS):
            began = time.perf_counter()
            shares = measure(design, options.sets, options.draws, pool)
            standard = design in DEFAULTS
            head = f"{design.noise:.1%}" if standard else f"{design.errors}, {design.bootstrap}"
            line = row(design, shares, head)
            tables["noise" if standard else "errors, interval"].append(line)
            print(f"{line}  ({time.perf_counter() - began:.0f} s)", flush=True)
        curves = curve_rows(options.curve_sets or options.sets, options.draws, pool)
    texts = [f"| design | {name} | {columns}\n" + "\n".join(lines) for name, lines in tables.items()]
    truth = ", ".join(f"{name} {value:g}" for name, value in TRUTH.items())
    options.output.write_text(
        HEADER.format(
            sets=options.sets,
            error=100 * (0.95 * 0.05 / options.sets) ** 0.5,
            draws=options.draws,
            truth=truth,
            first=texts[0],
            second=texts[1],
            third="\n".join(curves),
            curve_sets=options.curve_sets or options.sets,
        )
    )


HEADER = """# Coverage of the intervals

How often nominal 95 % intervals hold the truth, in percent of {sets} simulated data sets a design ({draws}
bootstrap draws each, standard error of a share about {error:.1f} points). Truth: {truth}; N from 500M to
4.4B, P = 1, 2, 4, 8; normal noise in ln loss; fitted with the defaults but 30 starts. *prediction* is the law's loss at
three (N, P) inside the range of the runs; *width of k* the median width of its interval; the last two columns how
many of the data sets got that note, which is how a fit says that its intervals of E and A, or of anything far
outside, may be off. Made by `make coverage`.

{first}

Other errors (noise 0.2 %: *t3* Student's t with three degrees of freedom, *outlier* one loss a set 50 % too
high, *shared* half of the variance common to the seeds of a configuration) and other intervals:

{second}

Points of curves (Chinchilla law, N from 50M to 500M, D from 300M to 5B; truth E 1.8, α 0.35, β 0.37; {curve_sets} data
sets a design): each run has an offset of its own, with the first standard deviation, and errors along the run with the
second, correlated by 0.9 from point to point. *By run* is `--points all` with a column of run ids.

| design | E | A | α | B | β |
|---|---|---|---|---|---|
{third}
"""


if __name__ == "__main__":
    main()
