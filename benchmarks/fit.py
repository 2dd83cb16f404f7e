"""Speed of fits against the usual method of published fits, as ratios within one run; writes docs/benchmarks.md.

The baseline minimises the same objective from the same 300 starts, one after the other, with SciPy's L-BFGS-B and
finite differences. Run with `make benchmark`.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import scipy
from scipy.optimize import minimize

from scalelab import records
from scalelab.fit import FitOptions, Group, fit_group, group_records
from scalelab.fit.data import FitData, fit_data
from scalelab.fit.objective import Objective
from scalelab.fit.options import build_objective
from scalelab.fit.select import compare_laws
from scalelab.fit.solver import draw_starts, minimise
from scalelab.laws import LAWS

STARTS = 300
ROUNDS = 5
T = TypeVar("T")
OUTPUT = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def baseline(law: str, objective: Objective, data: FitData, starts: int) -> float:
    """The least objective over `starts` starts, one after the other."""
    N, P, D, log_loss = data.N, data.P, data.D, np.log(data.loss)
    scale = objective.scale

    def predicted(z: np.ndarray) -> np.ndarray:
        floor = scale[0] * np.exp(z[0])
        if law == "parallel":
            gain = z[2] * np.log(P) + 1
            if (gain <= 0).any():
                return np.full(len(N), np.nan)
            return floor + (scale[1] * np.exp(z[1]) / (N * gain)) ** np.exp(z[3])
        powers = (scale[1] * np.exp(z[1]) / N) ** np.exp(z[2]) + (scale[3] * np.exp(z[3]) / D) ** np.exp(z[4])
        return floor + powers

    def value(z: np.ndarray) -> float:
        with np.errstate(over="ignore"):
            size = np.abs(np.log(predicted(z)) - log_loss)
        total = float(np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum())
        return total if np.isfinite(total) else 1e10

    best = np.inf
    for start in draw_starts(objective, STARTS, seed=0)[:starts]:
        # The default tolerance would stop at once, since this objective is much smaller than 1.
        with np.errstate(invalid="ignore"):  # finite differences between two points outside the domain
            found = minimize(value, start, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 1000})
        best = min(best, float(found.fun))
    return best


def simulated(rows: int) -> Group:
    """`rows` losses of the Chinchilla law with noise of 0.3 %."""
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7.5, 10, rows), 10 ** rng.uniform(9, 12, rows)
    loss = (1.7 + (1.1e7 / N) ** 0.34 + (4e8 / D) ** 0.28) * np.exp(0.003 * rng.standard_normal(rows))
    return only_group(pd.DataFrame({"n_params": N, "n_tokens": D, "loss": loss}))


def public(name: str, columns: dict[str, str]) -> Group | None:
    """A public table of `SCALELAB_PUBLIC_DATA`; None where it is not there."""
    folder = Path(os.environ.get("SCALELAB_PUBLIC_DATA", Path(__file__).parents[2] / "shared" / "reference"))
    path = folder / "scalebench" / name / "train.parquet"
    return only_group(pd.read_parquet(path), columns) if path.is_file() else None


def only_group(table: pd.DataFrame, columns: dict[str, str] | None = None) -> Group:
    (group,) = group_records(records.load(table, columns), by_tokens=False)
    return group


def tables() -> Iterator[tuple[str, str, Group, int, int]]:
    """Title, law, group, starts of the baseline that are run, and rounds."""
    for group in group_records(records.load("paper")):
        yield group.title, "parallel", group, STARTS, ROUNDS
    for title, name, columns, starts in (
        ("Farseer (ScaleBench)", "farseer", {"n_params": "N", "n_tokens": "D"}, 30),
        (
            "learning rate × batch (ScaleBench)",
            "lr_bsz",
            {"n_params": "non_embedding_param_size", "n_tokens": "data_size", "loss": "lm_loss"},
            10,
        ),
    ):
        group = public(name, columns)
        if group is not None:
            yield title, "chinchilla", group, starts, 3
    yield "simulated", "chinchilla", simulated(10_000), 5, 3


def seconds(work: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of `work`, and what came out."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def over_rows() -> list[str]:
    lines = [
        "| losses | rows | law | baseline, s | our starts, s | ratio | default fit, s | over 24 rows | "
        "baseline's objective | ours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    (reference,) = (g for g in group_records(records.load("paper")) if g.title.startswith("pile"))
    for title, law, group, starts, rounds in tables():
        data = fit_data(group.records)
        objective = build_objective(LAWS[law], data, FitOptions())
        target = objective.to_target(data.loss)
        slow, quick, whole_fit, small = [], [], [], []
        theirs, ours = np.inf, np.inf
        for turn in range(rounds):  # in turn, so that all have the same conditions
            if turn == 0 or starts == STARTS:
                taken, theirs = seconds(partial(baseline, law, objective, data, starts))
                slow.append(taken * STARTS / starts)
            taken, optimum = seconds(partial(minimise, objective, target, data.weight, STARTS))
            quick.append(taken)
            ours = optimum.value
            whole_fit.append(seconds(partial(fit_group, group, law))[0])
            small.append(seconds(partial(fit_group, reference))[0])
        a, b, c, d = (float(np.median(times)) for times in (slow, quick, whole_fit, small))
        share = "" if starts == STARTS else f" ({starts} starts × {STARTS // starts})"
        lines.append(
            f"| {title} | {len(data.loss):,} | {law} | {a:.2f}{share} | {b:.3f} | {a / b:.0f} | {c:.2f} | {c / d:.1f} "
            f"| {theirs:.6e} | {ours:.6e} |"
        )
        print(lines[-1], flush=True)
    return lines


def whole() -> list[str]:
    """Measure the wall-clock time of whole commands."""
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
            lines.append(f"| {title} | {min(_clock(work) for _ in range(3)):.2f} |")
            print(lines[-1], flush=True)
    return lines


def _clock(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


HEADER = """# Speed

Made by `make benchmark` in one run on {machine}, one thread, Python {python}, NumPy {numpy}, SciPy {scipy}. Medians
of rounds in turn; seconds differ from machine to machine, ratios less.

## Against the field's way

Baseline: 300 starts, each by SciPy's L-BFGS-B with finite differences, one after the other; the same objective
(sum-Huber of log residuals, δ = 0.001), parametrisation and starts; for many rows some of the starts, times
what is left out. *Our starts*: the same 300, tried on a sample of the rows where there are more than 100, distinct
optima refined on all rows with analytic derivatives, the winner polished by SciPy. *Default fit*: `fit_group` with
its 1,000 bootstrap refits, notes and runs left out; *over 24 rows* the same as a multiple of the paper's 24 Pile
losses in the same turn. CPU seconds.

{first}

## What a person waits for

{second}
"""


def main() -> None:
    texts = ["\n".join(lines) for lines in (over_rows(), whole())]
    _, heading, model = OUTPUT.read_text().partition("\n## Model\n")  # written by benchmarks/model.py
    OUTPUT.write_text(
        HEADER.format(
            machine=f"{os.cpu_count()} shared CPU cores",
            python=platform.python_version(),
            numpy=np.__version__,
            scipy=scipy.__version__,
            first=texts[0],
            second=texts[1],
        )
        + heading
        + model
    )


if __name__ == "__main__":
    main()
