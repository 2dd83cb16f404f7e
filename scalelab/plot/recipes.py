"""Two recipes: losses over compute with their shared law, and multipliers at equal loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from scalelab.analysis.recipe_law import RECIPE
from scalelab.analysis.recipe_result import RecipeComparison
from scalelab.fit.result import tails
from scalelab.plot.layout import AxesLike, band_handle, new_panels, only_kind
from scalelab.plot.style import BLUE, GREY, Look, Size, styled
from scalelab.plot.ticks import log_axis, plain
from scalelab.units import format_count

_LOOKS = (Look("black", "o"), Look(BLUE, "s"))
_FINE = 60
_WORDS = {"N": "N", "D": "D", "compute": "6·N·D"}


@styled
def plot_recipes(
    found: RecipeComparison, kind: str | None = None, ax: AxesLike | None = None, size: Size | None = None
) -> Any:
    """Draw the losses of both recipes with the law that they share, and the multipliers at equal loss.

    Losses are over N, or over D if N has one value; with several D, a line is drawn for each of up to four. A table of
    compute alone has it on the x axis.

    Args:
        found: The result of `compare_recipes`.
        kind: ``recipes``, the only kind.
        ax: Axes to draw into: two, or one that is replaced by both panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind.
    """
    only_kind(kind, "recipes")
    panels = new_panels(2, ax, size, panel=(4.4, 3.6))
    _losses(panels.axes[0], found)
    _multipliers(panels.axes[1], found)
    signs: list[Any] = [Line2D([], [], linestyle="-", **look.points()) for look in _LOOKS]
    panels.heading(f"{found.second} over {found.first}, {found.law.base.name} law (above 1: {found.second} needs less)")
    panels.legend([*signs, band_handle()], [found.first, found.second, "95 % interval"])
    return panels.root


def _losses(axes: Axes, found: RecipeComparison) -> None:
    data, recipe = found.data, found.data.others[RECIPE]
    variables = found.law.base.variables
    name = next(v for v in ("N", "D", "C") if v in variables)
    x = data.values(name)  # type: ignore[arg-type]
    other = "D" if name == "N" and "D" in variables else None
    for i, look in enumerate(_LOOKS):
        own = recipe == i
        axes.plot(x[own], data.loss[own], linestyle="", alpha=0.8, **look.points())
        for value in _lines(data.D[own]) if other else [float(np.exp(np.log(data.D[own]).mean()))]:
            near = own if other is None else own & (np.abs(np.log(data.D / value)) < 0.1)
            ends = (x[near].min(), x[near].max()) if near.sum() > 1 else (x[own].min(), x[own].max())
            at = np.geomspace(*ends, _FINE)
            _law(axes, found, i, name, at, value, look.color)
    log_axis(axes.xaxis, plain if name == "C" else format_count)
    axes.set(
        xlabel=found.columns.get("N", "N") if name == "N" else {"D": "D, training tokens", "C": "training FLOPs"}[name]
    )
    axes.set_ylabel(found.columns.get("loss", "loss, nats per token"))


def _lines(D: Any) -> list[float]:
    """Return up to four D for which the law is drawn."""
    values = np.unique(D)
    return values[np.unique(np.linspace(0, len(values) - 1, 4).round().astype(int))].tolist()


def _law(axes: Axes, found: RecipeComparison, recipe: int, name: str, at: Any, other: float, color: str) -> None:
    N = at if name == "N" else np.full_like(at, np.nan)
    D = np.full_like(at, other) if name == "N" else at
    if name == "C":  # losses() makes C from N and D
        N, D = at / 6.0, np.ones_like(at)
    axes.plot(at, found.losses(recipe, N, D), color=color, linewidth=1.1)
    if len(found.draws):
        low, high = np.nanquantile(found.losses(recipe, N, D, found.draws), tails(0.95), axis=0)
        axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def _multipliers(axes: Axes, found: RecipeComparison) -> None:
    rows = [(_WORDS[found.factor], found.multiplier), *((cost.name, cost.multiplier) for cost in found.costs)]
    places = np.arange(len(rows))[::-1]
    axes.axvline(1.0, color=GREY, linewidth=1.0)
    for place, (_, estimate) in zip(places.tolist(), rows, strict=True):
        if estimate.low is not None and estimate.high is not None and np.isfinite(estimate.high) and estimate.low > 0:
            axes.plot([estimate.low, estimate.high], [place] * 2, color=GREY, linewidth=2.5, alpha=0.6)
        axes.plot(estimate.value, place, linestyle="", **_LOOKS[1].points(1.1))
    log_axis(axes.xaxis, plain)
    axes.set_yticks(places, [name for name, _ in rows])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("multiplier at equal loss")
