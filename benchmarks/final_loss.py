"""Forecasts of final losses from the first part of a curve, on finished runs that are left out in turn.

    python benchmarks/final_loss.py [FOLDER]

prints the tables of docs/how-to/resume-and-watch.md, by default for results/parallel-law, in a few minutes on one core.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

from scalelab.analysis.final_loss import TrainedRun, forecast_final
from scalelab.records.files import read_curve
from scalelab.sweep.facts import finished_run
from scalelab.sweep.overview import FolderWatcher

SHARES = (0.25, 0.5, 0.75, 0.9)
DRAWS = 100  # random sets of a few finished runs
LAST = 0.02  # share of the run over which the last loss is averaged

Case = tuple[TrainedRun, Sequence[TrainedRun]]  # the run to forecast, and the finished ones


@dataclass(frozen=True)
class Scored:
    """Error of a forecast in nats per token, and whether its interval held the final loss; None if it has none."""

    error: float
    held: bool | None = None
    half_width: float = np.nan


def read_runs(folder: Path) -> list[TrainedRun]:
    """Return the finished runs of a folder."""
    return [
        finished_run(known.facts, read_curve(run.curve), known.loss)
        for run in FolderWatcher(folder).poll().ended
        if (known := run.measured) is not None and run.curve is not None and run.curve.is_file()
    ]


def first_part(run: TrainedRun, share: float) -> TrainedRun:
    """Return `run` as it was at a share of its training."""
    kept = run.shares <= share + 1e-9
    return replace(run, shares=run.shares[kept], losses=run.losses[kept], final=np.nan)


def ours(run: TrainedRun, share: float, finished: Sequence[TrainedRun]) -> Scored:
    made = forecast_final(first_part(run, share), finished)
    assert made.loss is not None, made.reason
    assert made.low is not None
    assert made.high is not None
    return Scored(made.loss - run.final, made.low <= run.final <= made.high, (made.high - made.low) / 2)


def mean_at(run: TrainedRun, share: float) -> float:
    return float(run.losses[(run.shares > share - LAST - 1e-9) & (run.shares <= share + 1e-9)].mean())


def last_loss(run: TrainedRun, share: float, finished: Sequence[TrainedRun]) -> Scored:
    return Scored(mean_at(run, share) - run.final)


def shifted(run: TrainedRun, share: float, finished: Sequence[TrainedRun]) -> Scored:
    left = np.mean([other.final - mean_at(other, share) for other in finished])
    return Scored(mean_at(run, share) + float(left) - run.final)


def power_law(run: TrainedRun, share: float, finished: Sequence[TrainedRun]) -> Scored:
    part = first_part(run, share)
    kept = part.shares > 0.05  # after the warm-up

    def law(t: np.ndarray, E: float, A: float, alpha: float) -> np.ndarray:
        return E + A * t**-alpha

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        bounds = ([0, 0, 0.01], [20, 20, 5])
        fit, spread = curve_fit(
            law, part.shares[kept], part.losses[kept], [2.0, 1.0, 0.5], bounds=bounds, max_nfev=20_000
        )
    slope = np.array([1.0, 1.0, 0.0])
    error, half = float(law(np.array(1.0), *fit)) - run.final, 1.96 * float(np.sqrt(slope @ spread @ slope))
    return Scored(error, abs(error) <= half if np.isfinite(half) else None, half)


METHODS: dict[str, Callable[[TrainedRun, float, Sequence[TrainedRun]], Scored]] = {
    "forecast": ours,
    "last loss so far": last_loss,
    "last loss + mean change of the others": shifted,
    "power law of the curve": power_law,
}


def left_out(runs: Sequence[TrainedRun], like: Callable[[TrainedRun, TrainedRun], bool] | None = None) -> list[Case]:
    """Return each run with all others, or with those for which `like` is true."""
    cases = []
    for run in runs:
        others = [other for other in runs if other is not run and (like is None or like(run, other))]
        cases += [(run, others)] if len(others) >= 5 else []
    return cases


def few(runs: Sequence[TrainedRun], count: int) -> list[Case]:
    """Return a run and `count` others, drawn at random, several times."""
    rng = np.random.default_rng(0)
    drawn = (rng.permutation(len(runs))[: count + 1] for _ in range(DRAWS))
    return [(runs[i[0]], [runs[j] for j in i[1:]]) for i in drawn]


def scored(cases: Sequence[Case], method: str) -> list[list[Scored]]:
    """Return the forecasts of all cases at each of `SHARES`."""
    return [[METHODS[method](run, share, others) for run, others in cases] for share in SHARES]


def errors(found: Sequence[Sequence[Scored]]) -> str:
    return " | ".join(f"{np.median([abs(s.error) for s in at]):.4f}" for at in found)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "results" / "parallel-law"
    runs = read_runs(folder)
    found = {name: scored(left_out(runs), name) for name in METHODS}
    print(f"| median absolute error, nats per token | {' | '.join(f'{share:.0%}' for share in SHARES)} |")
    print("|---|" + "---|" * len(SHARES))
    for name, at_shares in found.items():
        print(f"| {name} | {errors(at_shares)} |")
    for name in ("forecast", "power law of the curve"):
        shares = [np.mean([bool(s.held) for s in at]) for at in found[name]]
        widths = [np.median([s.half_width for s in at]) for at in found[name]]
        print(f"| *half of the 95 % interval: {name}* | {' | '.join(f'{w:.4f}' for w in widths)} |")
        print(f"| *intervals that held: {name}* | {' | '.join(f'{share:.0%}' for share in shares)} |")
    sets = {
        "all others": left_out(runs),
        "those of other N": left_out(runs, lambda a, b: a.facts.size != b.facts.size),
        "those of another seed": left_out(runs, lambda a, b: a.facts.seed != b.facts.seed),
        "only larger N": left_out(runs, lambda a, b: b.facts.size > a.facts.size),
        "only smaller N": left_out(runs, lambda a, b: b.facts.size < a.facts.size),
        **{f"{count}, drawn {DRAWS} times": few(runs, count) for count in (5, 8, 16) if count < len(runs)},
    }
    print(f"\n| finished runs | {' | '.join(f'{share:.0%}' for share in SHARES)} | intervals that held |")
    print("|---|" + "---|" * len(SHARES) + "---|")
    for title, cases in sets.items():
        if cases:
            at_shares = scored(cases, "forecast")
            held = [bool(s.held) for at in at_shares for s in at]
            print(f"| {title} | {errors(at_shares)} | {sum(held)} of {len(held)} |", flush=True)


if __name__ == "__main__":
    main()
