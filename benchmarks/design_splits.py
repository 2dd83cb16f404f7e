"""Designs on ScaleBench's tables of repeated data and of experts, whose larger runs are not public.

The largest of the public runs are held out instead, in two ways each. Beside the design: random runs of the same price
with the same laws and predictions, and all runs. `make design` calls this and adds its rows to docs/design.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

import scalelab as sl
from benchmarks.scalebench import BUDGETS, PUBLIC
from scalelab.errors import UsageError


@dataclass(frozen=True)
class Split:
    """One table with the size from which its runs are held out."""

    name: str
    columns: dict[str, str]
    price: str
    size: str
    least: float

    @property
    def title(self) -> str:
        return f"{self.name}, N ≥ {self.least:.3g}"

    def parts(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the runs to choose from and the larger ones."""
        runs = pd.read_parquet(PUBLIC / self.name / "train.parquet").drop(columns="group", errors="ignore")
        large = runs[self.size] >= self.least
        return runs[~large].reset_index(drop=True), runs[large]


_DATA = {"n_params": "params", "n_tokens": "tokens", "n_tokens_unique": "unique_tokens", "loss": "loss"}
_EXPERTS = {"n_params": "dense_parameter_count", "n_experts": "num_experts", "loss": "loss_validation"}
SPLITS = (
    Split("data_constrained", _DATA, "6*params*tokens", "params", 1e9),
    Split("data_constrained", _DATA, "6*params*tokens", "params", 2.5e9),
    Split("moe", _EXPERTS, "num_experts*dense_parameter_count", "dense_parameter_count", 1.3e8),
    Split("moe", _EXPERTS, "num_experts*dense_parameter_count", "dense_parameter_count", 3.6e8),
)


def _taken(runs: pd.DataFrame, split: Split, budget: str, seed: int) -> pd.DataFrame:
    """Return runs in a random order, as long as the next one fits into the budget."""
    order = runs.sample(frac=1, random_state=seed)
    price = order.eval(split.price)
    left, kept = float(price.sum()) * float(budget.rstrip("%")) / 100, []
    for i, cost in price.items():
        if cost <= left:
            kept.append(i)
            left -= cost
    return order.loc[kept].reset_index(drop=True)


def score(job: tuple[Split, str, str, int]) -> float:
    """Return R² on the larger runs for those chosen by "design" or "random", or "all"; −1 if no law can be fitted."""
    split, way, budget, seed = job
    runs, test = split.parts()
    if way == "random":
        runs = _taken(runs, split, budget, seed)
    share = budget if way == "design" else "100%"
    try:
        found = sl.design(runs, test, share, columns=split.columns, price=split.price, seed=seed)
    except UsageError:
        return -1.0
    y, p = test[split.columns["loss"]].to_numpy(), found.predict()["loss"].to_numpy()
    return float(np.clip(1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum(), -1, 1))


def rows(pool: ProcessPoolExecutor, seeds: int) -> Iterator[str]:
    """Yield the rows of the page's table."""
    ways = [(way, budget) for way in ("design", "random") for budget in BUDGETS] + [("all", "100%")]
    jobs = [(split, *way, seed) for split in SPLITS for way in ways for seed in range(seeds)]
    table = pd.DataFrame([(split.title, *rest) for split, *rest in jobs], columns=["split", "way", "budget", "seed"])
    table["r2"] = list(pool.map(score, jobs))
    mean = table.groupby(["split", "way", "budget"], sort=False).r2.mean()
    for split in SPLITS:
        for way, words in (("design", "**scalelab**"), ("random", "random")):
            yield f"| {split.title} | {words} | {' | '.join(f'{mean[split.title, way, b]:.2f}' for b in BUDGETS)} |"
        whole = f"{mean[split.title, 'all', '100%']:.2f}"
        yield f"| {split.title} | all runs | {whole} | {whole} | {whole} |"
