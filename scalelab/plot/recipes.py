"""Two recipes: losses over compute with their shared law, and multipliers at equal loss."""

from __future__ import annotations

from collections.abc import Iterator
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
_MOST_LINES = 5  # of the law, in each recipe
_WORDS = {"N": "N", "D": "D", "compute": "6·N·D"}


@styled
def plot_recipes(
    found: RecipeComparison, kind: str | None = None, ax: AxesLike | None = None, size: Size | None = None
) -> Any:
    """Draw the losses of both recipes with the law that they share, and the multipliers at equal loss.

    Losses are over N, or over D or compute for laws without N. With several D the law is drawn at each D or D/N, at
    most five of them.

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
    for i, look in enumerate(_LOOKS):
        own = recipe == i
        axes.plot(x[own], data.loss[own], linestyle="", alpha=0.8, **look.points())
        for fixed, at, D in _lines(x[own], data.D[own], name, found):
            if len(at) > 1:
                _law(axes, found, i, name, np.geomspace(at.min(), at.max(), _FINE), fixed, D, look.color)
    log_axis(axes.xaxis, plain if name == "C" else format_count)
    axes.set(
        xlabel=found.columns.get("N", "N") if name == "N" else {"D": "D, training tokens", "C": "training FLOPs"}[name]
    )
    axes.set_ylabel(found.columns.get("loss", "loss, nats per token"))


def _lines(x: Any, D: Any, name: str, found: RecipeComparison) -> Iterator[tuple[str, Any, float]]:
    """Yield what is fixed along a line of the law (D or D/N), the x of its runs, and its value.

    Lines are at each D, or at each D/N if these have fewer values, and at most `_MOST_LINES`.
    """
    if name != "N" or "D" not in found.law.base.variables:
        yield "D", x, float(np.exp(np.log(D).mean()))
        return
    levels = {fixed: np.round(np.log(values), 2) for fixed, values in (("D", D), ("D/N", D / x))}
    fixed = min(levels, key=lambda key: len(np.unique(levels[key])))
    known = np.unique(levels[fixed])
    for level in known[np.unique(np.linspace(0, len(known) - 1, _MOST_LINES).round().astype(int))]:
        yield fixed, x[levels[fixed] == level], float(np.exp(level))


def _law(
    axes: Axes, found: RecipeComparison, recipe: int, name: str, at: Any, fixed: str, value: float, color: str
) -> None:
    N = at if name == "N" else np.full_like(at, np.nan)
    D = at if name != "N" else value * at if fixed == "D/N" else np.full_like(at, value)
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
