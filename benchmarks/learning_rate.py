"""Fit of the learning rate rule by width to the records of sweeps/lr.yaml.

``scalelab sweep sweeps/lr.yaml && python benchmarks/learning_rate.py results/lr`` writes docs/lr.csv and docs/lr.png;
without a folder it reads docs/lr.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from scalelab.analysis.pair_optima import vertex
from scalelab.plot.layout import level_handle, new_panels
from scalelab.plot.save import save_figure
from scalelab.plot.style import GREY, Size, looks, styled
from scalelab.plot.ticks import log_axis, plain
from scalelab.records import load
from scalelab.train.recipe import LR_WIDTH, Recipe

DOCS = Path(__file__).parent.parent / "docs"
COLUMNS = ["key", "n_params_backbone", "hidden_size", "n_tokens", "seed", "peak_lr", "loss", "loss_stderr"]


def best(rates: np.ndarray, losses: np.ndarray) -> float:
    """The rate of least loss: the vertex of the parabola in ln rate through the three runs around the best."""
    found = vertex(np.log(rates), losses)
    if found is None:
        raise SystemExit(f"the best rate {rates[np.argmin(losses)]:g} is at the edge of the grid: widen it")
    return float(np.exp(found))


def main() -> None:
    if len(sys.argv) > 1:
        load(sys.argv[1])[COLUMNS].sort_values(COLUMNS[1:6]).to_csv(DOCS / "lr.csv", index=False)
    runs = pd.read_csv(DOCS / "lr.csv").sort_values("peak_lr")
    found = []
    for (width, seed), each in runs.groupby(["hidden_size", "seed"]):
        rate = best(each["peak_lr"].to_numpy(), each["loss"].to_numpy())
        found.append((width, rate))
        print(f"hidden {width}, seed {seed}: best rate {rate:.4g}, at hidden {LR_WIDTH} {rate * width / LR_WIDTH:.4g}")
    width, rate = np.array(found).T
    line = stats.linregress(np.log(width / LR_WIDTH), np.log(rate))
    half = line.stderr * stats.t.ppf(0.975, len(width) - 2)
    lr, spread = np.exp(line.intercept), np.exp(line.intercept_stderr * stats.t.ppf(0.975, len(width) - 2))
    low, high = -line.slope - half, -line.slope + half
    print(f"exponent {-line.slope:.2f} ({low:.2f} to {high:.2f}), default {Recipe.lr_exponent:g}")
    print(f"rate at hidden {LR_WIDTH} {lr:.4g} ({lr / spread:.4g} to {lr * spread:.4g}), default {Recipe.lr:g}")
    save_figure(draw(runs, width, rate), DOCS / "lr.png")


@styled
def draw(
    runs: pd.DataFrame, width: np.ndarray, rate: np.ndarray, ax: list[Axes] | None = None, size: Size | None = None
) -> Figure:
    """Loss over the learning rate of each width, and the best rates with the rule."""
    panels = new_panels(2, ax, size, panel=(4.2, 3.3), extra=0.6)
    left, right = panels.axes
    shown = looks(runs["hidden_size"].unique())
    for (hidden, _), each in runs.groupby(["hidden_size", "seed"]):
        at_64 = each["peak_lr"] * hidden / LR_WIDTH
        left.plot(at_64, each["loss"] - each["loss"].min(), "-", linewidth=1.0, **shown[hidden].points())
    for hidden, look in shown.items():
        right.plot(width[width == hidden], rate[width == hidden], linestyle="", zorder=3, **look.points())
    grid = np.geomspace(width.min(), width.max())
    right.plot(grid, Recipe.lr * (LR_WIDTH / grid) ** Recipe.lr_exponent, "-", color=GREY)
    left.set(xlabel="learning rate, at hidden 64", ylabel="loss over the best of its seed, nats per token")
    right.set(xlabel="hidden size", ylabel="best learning rate")
    for axis in (left.xaxis, right.xaxis, right.yaxis):
        log_axis(axis, plain)
    signs = [*map(level_handle, shown.values()), Line2D([], [], color=GREY)]
    panels.legend(signs, [*(f"hidden {hidden}" for hidden in shown), f"rule: {Recipe.lr:g}·{LR_WIDTH} / hidden"])
    return panels.root


if __name__ == "__main__":
    main()
