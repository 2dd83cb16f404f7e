"""IsoFLOP curves with their minima, compute-optimal N over compute, and streams at equal compute."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scalelab.analysis.isoflop_result import IsoFlops, Minimum, Scaling
from scalelab.errors import choice_error
from scalelab.plot.layout import AxesLike, Panels, band_handle, level_handle, new_panels
from scalelab.plot.levels import MOST_NAMED, level_bar
from scalelab.plot.style import GREY, Look, Size, looks, ramp, styled
from scalelab.plot.ticks import log_axis
from scalelab.units import format_number

KINDS = ("isoflop", "streams")
_LINES: dict[str, Any] = {"isoflop": "-", "law": "--", "envelope": ":"}
_NAMES = {"isoflop": "IsoFLOP", "law": "law", "envelope": "envelope of curves"}
_FINE = 100


@styled
def plot_isoflop(found: IsoFlops, kind: str | None = None, ax: AxesLike | None = None, size: Size | None = None) -> Any:
    """Draw the curves at equal FLOPs with their minima, and the best N over compute by each approach.

    Args:
        found: The result of `isoflop`.
        kind: ``isoflop`` (a panel for each P and one for N over compute), or ``streams`` (the lowest loss of each P
            minus that of P = 1, over compute).
        ax: Axes to draw into, as many as there are panels, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind, or no budget has several P.
    """
    if kind not in (None, *KINDS):
        raise choice_error("kind", kind, KINDS)
    if kind == "streams":
        return _streams(found, ax, size)
    levels = found.P_levels
    panels = new_panels(len(levels) + 1, ax, size, panel=(4.2, 3.4))
    budgets = sorted({row.flops for row in found.minima})
    colours = ramp(budgets)
    for axes, P in zip(panels.axes, levels, strict=False):
        for row in found.minima:
            if row.P == P:
                _curve(axes, row, colours[row.flops])
        log_axis(axes.xaxis)
        axes.set(xlabel=found.columns.get("N", "N"), ylabel=found.columns.get("loss", "loss, nats per token"))
        if len(levels) > 1:
            axes.set_title(f"P = {P}")
    shown = {budget: Look(color, "o") for budget, color in colours.items()}
    if len(shown) > MOST_NAMED:
        level_bar(Panels(panels.figure, panels.axes[:-1], panels.owns_figure), shown, "training FLOPs")
    last = panels.axes[-1]
    approaches = _scaling(last, found)
    handles = [] if len(shown) > MOST_NAMED else [level_handle(look) for look in shown.values()]
    labels = [] if len(shown) > MOST_NAMED else [f"{format_number(budget, 3)} FLOPs" for budget in shown]
    handles += [Line2D([], [], color="black", marker="*", markersize=8, linestyle=""), band_handle()]
    labels += ["minimum", "95 % interval"]
    for name in approaches:
        handles.append(Line2D([], [], color="black", linestyle=_LINES[name]))
        labels.append(_label(found, name))
    panels.heading(f"{found.group}: best N at equal training FLOPs")
    panels.legend(handles, labels)
    return panels.root


def _curve(axes: Axes, row: Minimum, color: str) -> None:
    axes.plot(np.exp(row.x), row.losses, "o", color=color, markersize=3.5, mew=0, alpha=0.8)
    low, high = row.range
    if row.N is not None:
        low, high = min(low, float(np.log(row.N.value))), max(high, float(np.log(row.N.value)))
    low, high = max(low, row.range[0] - 0.5), min(high, row.range[1] + 0.5)
    x = np.linspace(low, high, _FINE)
    a, b, c = row.coefficients
    u = x - row.centre
    axes.plot(np.exp(x), a + b * u + c * u**2, color=color, linewidth=1.0)
    if row.N is None or row.loss is None or not low <= np.log(row.N.value) <= high:
        return
    axes.plot(row.N.value, row.loss.value, "*", color=color, markersize=8, markeredgecolor="black", mew=0.4, zorder=3)
    if row.N.low and row.N.high and np.isfinite(row.N.high):
        ends = np.clip([row.N.low, row.N.high], np.exp(low), np.exp(high))
        axes.plot(ends, [row.loss.value] * 2, color="black", linewidth=1.0, zorder=2)


def _scaling(axes: Axes, found: IsoFlops) -> list[str]:
    """Draw best N over compute; return the approaches that have a line."""
    by_P = looks(found.P_levels)
    for row in found.minima:
        if row.N is None or not row.range[0] <= np.log(row.N.value) <= row.range[1]:
            continue
        look = by_P[row.P]
        if row.N.low is not None and row.N.high is not None:
            ends = np.clip([row.N.low, row.N.high], np.exp(row.range[0]), np.exp(row.range[1]))
            axes.plot([row.flops] * 2, ends, color=look.color, linewidth=1.0)
        axes.plot(row.flops, row.N.value, linestyle="", **look.points())
    budgets = [row.flops for row in found.minima]
    reach = np.geomspace(min(budgets), max([*budgets, *found.asked]), _FINE)
    drawn = dict.fromkeys(scaling.approach for scaling in found.scaling)
    for scaling in found.scaling:
        _line(axes, scaling, reach, by_P.get(scaling.P, Look(GREY, "o")).color)
    log_axis(axes.xaxis, format_number)
    log_axis(axes.yaxis)
    axes.set(xlabel="training FLOPs", ylabel=f"best {found.columns.get('N', 'N')}")
    if len(found.P_levels) > 1:
        axes.set_title("best N, colours by P")
    return list(drawn)


def _line(axes: Axes, scaling: Scaling, reach: Any, color: str) -> None:
    at = [scaling.N.at(float(flops)) for flops in reach]
    axes.plot(reach, [e.value for e in at], color=color, linestyle=_LINES[scaling.approach], linewidth=1.2)
    if scaling.approach == "isoflop" and at[0].low is not None:
        low, high = ([getattr(e, end) for e in at] for end in ("low", "high"))
        axes.fill_between(reach, low, high, color=color, alpha=0.15, linewidth=0)


def _label(found: IsoFlops, approach: str) -> str:
    own = [s for s in found.scaling if s.approach == approach]
    text = _NAMES[approach] if approach != "law" else own[0].source
    return f"{text}: N ∝ C^{own[0].a.value:.3f}" if len(own) == 1 else text


def _streams(found: IsoFlops, ax: AxesLike | None, size: Size | None) -> Any:
    from scalelab.errors import UsageError

    rows = [row for row in found.minima if row.gain is not None]
    if not rows:
        raise UsageError("no budget has minima at P = 1 and at another P", argument="kind", value="streams")
    panels = new_panels(1, ax, size, panel=(6.4, 4.2))
    axes, by_P = panels.axes[0], looks({row.P for row in rows})
    axes.axhline(0.0, color=GREY, linewidth=1.0)
    for P, look in by_P.items():
        own = [row for row in rows if row.P == P]
        # Points of several P at one budget are drawn beside each other.
        x = np.array([row.flops for row in own]) * 1.04 ** (list(by_P).index(P) - (len(by_P) - 1) / 2)
        y = np.array([row.gain.value if row.gain else np.nan for row in own])
        ends = np.array([[row.gain.low, row.gain.high] if row.gain else [np.nan] * 2 for row in own], dtype=float)
        if np.isfinite(ends).all():
            axes.errorbar(x, y, [y - ends[:, 0], ends[:, 1] - y], color=look.color, linestyle="", capsize=3)
        axes.plot(x, y, linestyle=":", **look.points(1.2))
    log_axis(axes.xaxis, format_number)
    axes.set(xlabel="training FLOPs", ylabel="lowest loss minus that of P = 1, nats per token")
    panels.heading(f"{found.group}: streams at equal training FLOPs (below 0 they pay)")
    handles = [level_handle(look, ":") for look in by_P.values()]
    labels = [f"P = {P}" for P in by_P]
    panels.legend([*handles, Line2D([], [], color=GREY, marker="|", markersize=8)], [*labels, "95 % interval"])
    return axes
