"""Fit of the learning rate rule by width to the records of sweeps/lr.yaml.

``scalelab sweep sweeps/lr.yaml && python benchmarks/learning_rate.py results/lr`` writes docs/lr.csv and docs/lr.png;
without a folder it reads docs/lr.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from scalelab.records import load
from scalelab.train.recipe import LR_WIDTH, Recipe

DOCS = Path(__file__).parent.parent / "docs"
COLUMNS = ["key", "n_params_backbone", "hidden_size", "n_tokens", "seed", "peak_lr", "loss", "loss_stderr"]


def best(rates: np.ndarray, losses: np.ndarray) -> float:
    """The rate of least loss: the vertex of the parabola in ln rate through the three runs around the best."""
    i = int(np.argmin(losses))
    if not 0 < i < len(losses) - 1:
        raise SystemExit(f"the best rate {rates[i]:g} is at the edge of the grid: widen it")
    a, b, _ = np.polyfit(np.log(rates[i - 1 : i + 2]), losses[i - 1 : i + 2], 2)
    return float(np.exp(-b / (2 * a)))


def main() -> None:
    if len(sys.argv) > 1:
        load(sys.argv[1])[COLUMNS].sort_values(COLUMNS[1:6]).to_csv(DOCS / "lr.csv", index=False)
    runs = pd.read_csv(DOCS / "lr.csv").sort_values("peak_lr")
    found = []
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for colour, (width, same) in enumerate(runs.groupby("hidden_size")):
        for number, (seed, each) in enumerate(same.groupby("seed")):
            rate = best(each["peak_lr"].to_numpy(), each["loss"].to_numpy())
            found.append((width, rate))
            at_64 = each["peak_lr"] * width / LR_WIDTH
            label = f"hidden {width}" if number == 0 else None
            left.plot(at_64, each["loss"] - each["loss"].min(), "o-", color=f"C{colour}", label=label)
            print(
                f"hidden {width}, seed {seed}: best rate {rate:.4g}, at hidden {LR_WIDTH} {rate * width / LR_WIDTH:.4g}"
            )
    width, rate = np.array(found).T
    line = stats.linregress(np.log(width / LR_WIDTH), np.log(rate))
    half = line.stderr * stats.t.ppf(0.975, len(width) - 2)
    lr, spread = np.exp(line.intercept), np.exp(line.intercept_stderr * stats.t.ppf(0.975, len(width) - 2))
    low, high = -line.slope - half, -line.slope + half
    print(f"exponent {-line.slope:.2f} ({low:.2f} to {high:.2f}), default {Recipe.lr_exponent:g}")
    print(f"rate at hidden {LR_WIDTH} {lr:.4g} ({lr / spread:.4g} to {lr * spread:.4g}), default {Recipe.lr:g}")
    left.set_xscale("log")
    ticks = np.unique((runs["peak_lr"] * runs["hidden_size"] / LR_WIDTH).round(6))
    left.set_xticks(ticks, [f"{t:g}" for t in ticks])
    left.minorticks_off()
    left.set(xlabel="learning rate, at hidden 64", ylabel="loss over the best of its seed, nats a token")
    left.legend(frameon=False)
    right.loglog(width, rate, "o", label="best rates")
    grid = np.geomspace(width.min(), width.max())
    right.loglog(grid, Recipe.lr * (LR_WIDTH / grid) ** Recipe.lr_exponent, "-", label="the rule")
    right.set(xlabel="hidden size", ylabel="learning rate")
    right.set_xticks(np.unique(width), [f"{w:g}" for w in np.unique(width)])
    right.set_yticks([0.006, 0.01, 0.02, 0.03], ["0.006", "0.01", "0.02", "0.03"])
    right.minorticks_off()
    right.legend(frameon=False)
    plt.savefig(DOCS / "lr.png", dpi=120)


if __name__ == "__main__":
    main()
