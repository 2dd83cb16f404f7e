"""Search for a recipe with which streams pay off at sizes that a CPU can train, with paired seeds.

    python benchmarks/recipe.py compare FOLDER    # variants of the recipe at P = 8, on a few seeds
    python benchmarks/recipe.py confirm FOLDER    # the default at P = 1, 2, 4, 8, on other seeds
    python benchmarks/recipe.py draw              # only the figure, from docs/recipe.csv

Runs are kept in FOLDER and never repeated. Runs with the same seed share the initial backbone weights and the data
order, so differences are paired by seed. Tables go to standard output; `confirm` also writes docs/recipe.csv and
docs/recipe.png.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console
from scipy import stats

from scalelab.plot.layout import new_panels
from scalelab.plot.save import save_figure
from scalelab.plot.style import GREY, Size, looks, styled
from scalelab.sweep.run import run_sweep
from scalelab.sweep.spec import SweepSpec
from scalelab.train.recipe import Recipe

SPEC = SweepSpec(name="recipe", N=(50e3,), P=(1,), D=(1e6,), seeds=(0,))
COMPARE_SEEDS = (0, 1, 2)
CONFIRM_SEEDS = tuple(range(10, 18))

# Changes to the default recipe and model.
VARIANTS: dict[str, tuple[dict, dict]] = {
    "default": ({}, {}),
    "values at std 1": ({"prefix_value_std": 1.0}, {}),
    "2 prefix tokens": ({}, {"prefix_tokens": 2}),
    "8 prefix tokens": ({}, {"prefix_tokens": 8}),
    "smoothing 0.2": ({"smooth": 0.2}, {}),
    "mixture at the backbone's rate": ({"aggregator_lr_scale": 1.0}, {}),
    "keys and values at std 0.02": ({"prefix_key_std": 0.02, "prefix_value_std": 0.02}, {}),
    "plain average": ({}, {"aggregation": "mean"}),
    "a scale a channel": ({"aggregator_lr_scale": 1.0}, {"aggregation": "channel"}),
    "prefixes at the backbone's rate": ({"prefix_lr_scale": 1.0}, {}),
    "prefixes at 10 times the rate": ({"prefix_lr_scale": 10.0}, {}),
}


def paired(records: pd.DataFrame, P: int, over: int, baseline: pd.DataFrame | None = None) -> np.ndarray:
    """Loss at P less that at `over`, seed by seed."""
    losses = records[records["n_streams"] == P].set_index("seed")["loss"]
    base = records if baseline is None else baseline
    return (losses - base[base["n_streams"] == over].set_index("seed")["loss"]).dropna().to_numpy()


def described(differences: np.ndarray) -> str:
    """Mean, 95 % t interval and on how many seeds the loss fell."""
    n, mean = len(differences), differences.mean()
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return f"{mean:+.4f} | {mean - half:+.4f} to {mean + half:+.4f} | {(differences < 0).sum()} of {n}"


def compare(folder: Path) -> None:
    """Variants at P = 8 against P = 1."""
    console = Console(stderr=True)
    plain = run_sweep(replace(SPEC, seeds=COMPARE_SEEDS), folder, console=console)
    print("| at P = 8 | less P = 1 | 95 % interval | seeds that gain | cosine | ρ | largest weight |")
    print("|---|---|---|---|---|---|---|")
    for name, (recipe, model) in VARIANTS.items():
        spec = replace(SPEC, P=(8,), seeds=COMPARE_SEEDS, recipe=Recipe(**recipe), **model)
        runs = run_sweep(spec, folder, console=console)
        largest = runs["mixture_weights"].map(max).mean()
        alike = f"{runs['stream_cosine'].mean():.3f} | {runs['stream_correlation'].mean():.4f}"
        print(f"| {name} | {described(paired(runs, 8, 1, plain))} | {alike} | {largest:.2f} |", flush=True)


def confirm(folder: Path) -> None:
    """The default, each P against the one before and against P = 1."""
    runs = run_sweep(replace(SPEC, P=(1, 2, 4, 8), seeds=CONFIRM_SEEDS), folder, console=Console(stderr=True))
    means = runs.groupby("n_streams")["loss"].mean()
    print("| P | mean loss | against | difference | 95 % interval | seeds that gain |\n|---|---|---|---|---|---|")
    print(f"| 1 | {means[1]:.4f} | | | | |")
    for P, over in ((2, 1), (4, 2), (8, 4), (4, 1), (8, 1)):
        print(f"| {P} | {means[P]:.4f} | P = {over} | {described(paired(runs, P, over))} |")
    columns = ["seed", "n_streams", "loss", "stream_cosine", "stream_correlation", "mixture_entropy"]
    table = runs[columns].sort_values(["seed", "n_streams"])
    table["largest_weight"] = runs["mixture_weights"].map(lambda w: max(w) if w is not None else np.nan)
    table.round(5).to_csv("docs/recipe.csv", index=False)
    draw()


def draw() -> None:
    """Draw docs/recipe.png from docs/recipe.csv."""
    save_figure(_figure(pd.read_csv("docs/recipe.csv")), Path("docs/recipe.png"))


@styled
def _figure(runs: pd.DataFrame, ax: Axes | None = None, size: Size | None = None) -> Figure:
    """Each seed's loss over P, less its loss at P = 1, and the mean with its interval."""
    panels = new_panels(1, ax, size, panel=(6.4, 4.2))
    axes = panels.axes[0]
    levels = sorted(runs["n_streams"].unique())
    plain = runs[runs["n_streams"] == 1].set_index("seed")["loss"]
    for seed, mine in runs.groupby("seed"):
        mine = mine.sort_values("n_streams")
        axes.plot(mine["n_streams"], mine["loss"] - plain[seed], "-o", color="0.75", markersize=3, linewidth=0.8)
    for P, look in looks(levels).items():
        d = paired(runs, P, 1)
        half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
        axes.errorbar([P], [d.mean()], yerr=[half], color=look.color, capsize=4, zorder=3)
        axes.plot([P], [d.mean()], linestyle="", zorder=4, **look.points(1.5))
    axes.axhline(0, color=GREY, linewidth=0.9, zorder=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [str(P) for P in levels])
    axes.set_xlabel("streams P")
    axes.set_ylabel("loss less that of P = 1, nats per token")
    panels.heading(f"N 49.6k, D 1M, {plain.size} paired seeds")
    panels.legend(
        [Line2D([], [], color="0.75", marker="o", markersize=3), Line2D([], [], color=GREY, marker="|", markersize=9)],
        ["each seed", "mean with 95 % interval"],
    )
    return panels.root


if __name__ == "__main__":
    {"compare": compare, "confirm": confirm, "draw": draw}[sys.argv[1]](*map(Path, sys.argv[2:]))
