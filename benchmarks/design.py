"""Designs scored on ScaleBench as published, and their expected intervals against simulated runs.

ScaleBench (arXiv 2604.22753; data CC-BY-4.0, read from the folder in SCALELAB_PUBLIC_DATA) asks which runs of a
finished table to take within 1, 5 or 10 % of the price of all of them, so that a law fitted to them predicts larger
runs. The score is R² on these, clipped to [−1, 1], as the mean over the laws of a task; runs are chosen and fitted by
group. Prices are those of the benchmark: N for `parallel`, 6·N·D for `farseer`. Run with `make design`; writes
docs/design.md. `--seeds 1` is a quick check.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import scalelab as sl
from benchmarks import design_splits
from benchmarks.scalebench import BUDGETS, PARALLEL, PUBLIC, PUBLISHED, BenchmarkLaw
from scalelab.errors import UsageError
from scalelab.laws import LAWS, Law, Points

OUTPUT = Path(__file__).parent.parent / "docs" / "design.md"


@dataclass(frozen=True)
class Task:
    """One table of the benchmark."""

    name: str
    columns: dict[str, str]
    price: str | None
    by: str | None

    def laws(self) -> dict[str, Law]:
        """Return the laws of the task, by name."""
        if self.name == "farseer":
            return {"farseer": LAWS["farseer"]}
        return {
            name: BenchmarkLaw(f"scalebench-{i}", ("N", "P"), formula, ends)
            for i, (name, (formula, ends)) in enumerate(PARALLEL.items(), 1)
        }

    def parts(self) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
        """Return the finished runs and the larger ones of each group."""
        train, test = (pd.read_parquet(PUBLIC / self.name / f"{part}.parquet") for part in ("train", "test"))
        if self.by is None:
            return [(train, test)]
        return [(train[train[self.by] == g], test[test[self.by] == g]) for g in sorted(train[self.by].unique())]


TASKS = (
    Task("parallel", {"n_params": "num_params", "n_streams": "parallel_size"}, "num_params", "group"),
    Task("farseer", {"n_params": "N", "n_tokens": "D"}, None, None),
)


def score(task: Task, law: str | None, budget: str, seed: int) -> tuple[float, float, int]:
    """Return R² on the larger runs, the share of their 95 % intervals that held, and the number of runs taken."""
    truth, predicted, held, count = [], [], [], 0
    laws = None if law is None else task.laws()[law]
    for train, test in task.parts():
        try:
            found = sl.design(train, test, budget, laws=laws, columns=task.columns, price=task.price, seed=seed)
        except UsageError as error:
            if error.argument != "budget":
                raise
            return -1.0, float("nan"), 0  # the budget affords no run
        rows = found.predict()
        truth.append(test["loss"].to_numpy())
        predicted.append(rows["loss"].to_numpy())
        held.append((truth[-1] >= rows["low"].to_numpy()) & (truth[-1] <= rows["high"].to_numpy()))
        count += len(found.prices)
    y, p = np.concatenate(truth), np.concatenate(predicted)
    r2 = 1 - float(((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    return float(np.clip(r2, -1, 1)), float(np.concatenate(held).mean()), count


def _one(job: tuple[Task, str | None, str, int]) -> tuple[float, float, int]:
    return score(*job)


def scores(pool: ProcessPoolExecutor, seeds: int) -> pd.DataFrame:
    """Return the scores of every task, law, budget and seed; law "" is the average over the tool's own laws."""
    jobs = [
        (task, law, budget, seed)
        for task in TASKS
        for law in [*task.laws(), None]
        for budget in BUDGETS
        for seed in range(seeds)
    ]
    found = pool.map(_one, jobs)
    rows = [
        {"task": t.name, "law": law or "", "budget": b, "seed": s, "r2": r2, "held": held, "runs": n}
        for (t, law, b, s), (r2, held, n) in zip(jobs, found, strict=True)
    ]
    return pd.DataFrame(rows)


# The simulated loop: known runs, design, new runs by the true law, and the interval then.
TRUTH = np.array([0.7, 1.1e7, 0.4, 0.2])
AT = (6.4e9, 4)
NOISE = 0.002


def _runs(N: np.ndarray, P: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    loss = LAWS["parallel"].loss(TRUTH, Points(N, P)) * np.exp(NOISE * rng.standard_normal(len(N)))
    return pd.DataFrame({"N": N, "P": P, "D": 1e10, "loss": loss})


def loop(seed: int) -> tuple[float, float, float, bool, bool]:
    """Return the interval's width before, as expected and after, and if the intervals before and after held."""
    rng = np.random.default_rng(seed)
    N, P = np.repeat([1e8, 2e8, 4e8, 8e8], 2), np.tile([1.0, 4.0], 4)
    known = _runs(N, P, rng)
    options: dict[str, Any] = dict(laws=["parallel", "additive", "power"], draws=300)
    found = sl.design(known, f"N={AT[0]:g},P={AT[1]}", "1e21FLOP", most=6, seed=seed, **options)
    chosen = found.to_frame()
    more = _runs(chosen.n_params.to_numpy(), chosen.n_streams.to_numpy(dtype=float), rng)
    then = sl.design(pd.concat([known, more]), f"N={AT[0]:g},P={AT[1]}", "1e21FLOP", most=1, seed=seed, **options)
    truth = float(LAWS["parallel"].loss(TRUTH, Points(np.array([AT[0]]), np.array([float(AT[1])])))[0])
    before, after = found.outlooks[0], then.outlooks[0]
    held = [bool((o.now.low or 0) <= truth <= (o.now.high or 0)) for o in (before, after)]
    return before.widths[0], before.widths[1], after.widths[0], held[0], held[1]


def page(table: pd.DataFrame, splits: Sequence[str], loops: np.ndarray, seeds: int) -> str:
    """Return the page."""
    lines = []
    for task in TASKS:
        mine = table[table.task == task.name]
        for label, rows in (
            ("scalelab, mean over the laws", mine[mine.law != ""]),
            ("scalelab, its own laws averaged", mine[mine.law == ""]),
        ):
            cells = [f"{rows[rows.budget == b].groupby('seed').r2.mean().mean():.2f}" for b in BUDGETS]
            lines.append(f"| {task.name} | **{label}** | {' | '.join(cells)} |")
        for label, words in (
            ("paper", "the benchmark's method"),
            ("V", "V-optimal"),
            ("D", "D-optimal"),
            ("random", "random"),
        ):
            lines.append(f"| {task.name} | {words} | {' | '.join(f'{v:.2f}' for v in PUBLISHED[task.name][label])} |")
    law_rows = []
    for (task, law), rows in table.groupby(["task", "law"], sort=False):
        cells = []
        for b in BUDGETS:
            here = rows[rows.budget == b]
            spread = f" ± {here.r2.std():.2f}" if len(here) > 1 else ""
            cells.append(f"{here.r2.mean():.2f}{spread} ({here.runs.mean():.0f})")
        law_rows.append(f"| {task} | {law or 'average of the tool’s laws'} | {' | '.join(cells)} |")
    held = table[table.held.notna() & (table.law == "")]
    widths = loops[:, :3].mean(0)
    return HEADER.format(
        seeds=seeds, table="\n".join(lines), splits="\n".join(splits), laws="\n".join(law_rows),
        held=100 * held.held.mean(), count=len(loops), before=widths[0], expected=widths[1], after=widths[2],
        first=100 * loops[:, 3].mean(),
        second=100 * loops[:, 4].mean(), error=100 * (0.95 * 0.05 / len(loops)) ** 0.5,
    )  # fmt: skip


HEADER = """# Designs, measured

`make design` writes this page.

## Runs chosen under a budget

[ScaleBench](https://arxiv.org/abs/2604.22753) asks which of many finished runs to take within 1, 5 or 10 % of the price
of all, so that a law fitted to them predicts larger ones. The score is R² on the larger runs, from −1 to 1, as the mean
over the laws of a task. `sl.design(train, test, "5%")` replays that: it reads a loss only after it has chosen its run.
Mean of {seeds} seeds; the other rows are the paper's table 2. In `parallel`, 1 % affords no run at all. The predictions
are medians of draws, which have a prior; the paper fits by least squares. The weight of large runs was chosen on the
test rows of `farseer`, so that task is not an independent check of it.

| task | runs chosen by | 1 % | 5 % | 10 % |
|---|---|---|---|---|
{table}

The laws one by one, with the standard deviation over seeds and the number of runs:

| task | law | 1 % | 5 % | 10 % |
|---|---|---|---|---|
{laws}

95 % intervals of the average over the tool's laws held {held:.0f} % of the larger runs.

The larger runs of two other tables of ScaleBench are not public. Here the largest public ones are held out instead, and
the tool's own laws averaged. *Random* runs have the same price and the same predictions, with other draws per seed.

| held out | runs chosen by | 1 % | 5 % | 10 % |
|---|---|---|---|---|
{splits}

## Expected and real intervals

{count} simulated loops: eight known runs of the parallel law with 0.2 % noise, a design of up to six runs for the loss
at N = 6.4B and P = 4, losses of these runs by the same law, and the interval then, averaged over three laws.

| width of the 95 % interval, nats per token | mean |
|---|---|
| before | {before:.4f} |
| expected after the runs | {expected:.4f} |
| after the runs | {after:.4f} |

The interval held the true loss in {first:.0f} % of the loops before the runs and in {second:.0f} % after them (standard
error {error:.1f} %).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of each cell of ScaleBench")
    parser.add_argument("--loops", type=int, default=100, help="simulated loops")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    if not PUBLIC.is_dir():
        parser.exit(1, f"{PUBLIC}: no ScaleBench tables; set SCALELAB_PUBLIC_DATA\n")
    began = time.monotonic()
    with ProcessPoolExecutor(options.workers) as pool:
        table = scores(pool, options.seeds)
        print(table.groupby(["task", "law", "budget"]).r2.mean().unstack(), flush=True)
        splits = list(design_splits.rows(pool, options.seeds))
        loops = np.array(list(pool.map(loop, range(options.loops))), dtype=float)
    text = page(table, splits, loops, options.seeds)
    options.output.write_text(text, encoding="utf-8")
    print(text, f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
