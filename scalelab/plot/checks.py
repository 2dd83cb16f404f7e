"""Diagnostic figures of fits: residuals, predicted against measured losses, profiles, bootstrap draws."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scalelab.fit import FitResult
from scalelab.fit.profile import Profile
from scalelab.plot.layout import AxesLike, Panels, new_panels
from scalelab.plot.levels import explain_levels
from scalelab.plot.style import BLUE, GREY, RED, Look, Size, looks, styled
from scalelab.plot.ticks import log_axis
from scalelab.units import format_number

_WIDEST = 9.6  # inches of a figure of all pairs of parameters


@styled
def plot_residuals(fit: FitResult, ax: Axes | None = None, size: Size | None = None) -> Figure:
    """Draw residuals (predicted over measured loss, %) over N; a good fit shows no pattern.

    Args:
        fit: The fit.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    panels = new_panels(1, ax, size, panel=(6.4, 3.6))
    axes, data, percent = panels.axes[0], fit.data, 100 * np.array(fit.log_residuals)
    axes.axhline(0, color=GREY, linewidth=0.9)
    shown = _draw_runs(panels, fit, data.N, percent)
    log_axis(axes.xaxis)
    axes.set_xlabel(fit.label("N"))
    axes.set_ylabel("predicted over measured, %")
    panels.heading(_heading(fit))
    explain_levels(panels, shown, "P", "none")
    return panels.root


@styled
def plot_predicted(fit: FitResult, ax: Axes | None = None, size: Size | None = None) -> Figure:
    """Draw predicted against measured losses; points on the line are predicted exactly.

    Args:
        fit: The fit.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    panels = new_panels(1, ax, size, panel=(4.8, 4.6))
    axes, data = panels.axes[0], fit.data
    predicted = np.exp(np.array(fit.log_residuals)) * data.loss
    ends = [min(predicted.min(), data.loss.min()), max(predicted.max(), data.loss.max())]
    axes.plot(ends, ends, "-", color=GREY, linewidth=0.9)
    shown = _draw_runs(panels, fit, data.loss, predicted)
    axes.set_xlabel(f"measured {fit.loss_label}")
    axes.set_ylabel(f"predicted {fit.loss_label}")
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    panels.heading(_heading(fit))
    explain_levels(panels, shown, "P", "none")
    return panels.root


def _draw_runs(panels: Panels, fit: FitResult, x: np.ndarray, y: np.ndarray) -> dict[int, Look]:
    """Draw a point for each run, and return the look of each P."""
    shown = looks(fit.P_levels)
    for P, look in shown.items():
        mine = fit.data.P == P
        panels.axes[0].plot(x[mine], y[mine], linestyle="", zorder=3, **look.points())
    return shown


def _heading(fit: FitResult) -> str:
    return f"{fit.group}\n{fit.law.name} law, R² {fit.r_squared:.4f}"


@styled
def plot_profiles(
    fit: FitResult, profiles: Sequence[Profile], ax: AxesLike | None = None, size: Size | None = None
) -> Figure:
    """Draw profiles: the rise of the objective along each parameter, with its threshold and interval.

    The y axis is sqrt(rise / threshold). A quadratic objective has straight arms that end at 1; bends show where
    symmetric standard errors would mislead.

    Args:
        fit: The fit.
        profiles: Profiles to draw, a panel for each.
        ax: Axes to draw into, one for each profile, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    panels = new_panels(len(profiles), ax, size, columns=2 if len(profiles) == 4 else 3)
    for i, (profile, axes) in enumerate(zip(profiles, panels.axes, strict=True)):
        values = np.array(profile.values)
        rise = np.sqrt(np.array(profile.rise) / max(profile.threshold, 1e-300))
        seen = rise <= 3
        axes.axhline(1, color=GREY, linewidth=0.9, linestyle=":")
        for end in profile.interval:
            if end is not None:
                axes.axvline(end, color=BLUE, linewidth=0.9, linestyle="--")
        axes.axvline(fit.values[profile.name], color=RED, linewidth=0.9)
        axes.plot(values[seen], rise[seen], "-", color="black")
        _parameter_axis(fit, profile.name, axes.xaxis)
        axes.set_xlabel(symbol(profile.name))
        axes.set_ylim(0, 2.5)
        place = axes.get_subplotspec()
        if i == 0 or (place is not None and place.is_first_col()):
            axes.set_ylabel("√(rise / threshold)")
    level = f"{100 * profiles[0].level:g} %"
    panels.heading(f"{fit.group}: profiles of the parameters")
    panels.legend(
        [
            Line2D([], [], color="black"),
            Line2D([], [], color=RED, linewidth=0.9),
            Line2D([], [], color=BLUE, linewidth=0.9, linestyle="--"),
            Line2D([], [], color=GREY, linewidth=0.9, linestyle=":"),
        ],
        ["profile", "estimate", f"{level} interval", f"threshold of {level}"],
    )
    return panels.root


@styled
def plot_draws(fit: FitResult, ax: AxesLike | None = None, size: Size | None = None) -> Figure:
    """Draw the bootstrap draws of each pair of parameters; narrow bands show correlated parameters.

    Args:
        fit: A fit with draws.
        ax: Axes to draw into, one for each pair, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    names = [name for name in fit.law.names if name not in fit.fixed]
    draws = np.array(fit.draws)[:, [fit.law.names.index(name) for name in names]]
    pairs = [(i, j) for i in range(1, len(names)) for j in range(i)]
    heading = f"{fit.group}: {len(draws)} bootstrap refits"
    if not pairs:
        panels = new_panels(1, ax, size, panel=(4.8, 3.2))
        axes = panels.axes[0]
        axes.hist(draws[:, 0], bins=40, color=BLUE)
        axes.axvline(fit.values[names[0]], color=RED)
        axes.set_xlabel(symbol(names[0]))
        axes.set_ylabel("refits")
        panels.heading(heading)
        panels.legend([Line2D([], [], color=RED)], ["estimate"])
        return panels.root
    side = min(2.5, _WIDEST / (len(names) - 1))
    cells = [(i - 1, j) for i, j in pairs]
    panels = new_panels(len(pairs), ax, size, panel=(side, 0.85 * side), cells=cells)
    for (i, j), axes in zip(pairs, panels.axes, strict=True):
        axes.plot(draws[:, j], draws[:, i], ".", color=BLUE, markersize=2.5, alpha=0.5, mew=0, rasterized=True)
        axes.plot(fit.values[names[j]], fit.values[names[i]], "+", color=RED, markersize=9, mew=1.6)
        for k, axis in ((j, axes.xaxis), (i, axes.yaxis)):
            low, high = np.quantile(draws[:, k], [0.01, 0.99])
            _parameter_axis(fit, names[k], axis, (float(low), float(high)))
        shares = panels.owns_figure  # with the panel below and the one to the left
        axes.tick_params(labelbottom=i == len(names) - 1 or not shares, labelleft=j == 0 or not shares)
        if i == len(names) - 1 or not shares:
            axes.set_xlabel(symbol(names[j]))
        if j == 0 or not shares:
            axes.set_ylabel(symbol(names[i]))
    values = ", ".join(f"{symbol(name)} {format_number(fit.values[name])}" for name in names)
    panels.heading(f"{heading}\n{values}")
    panels.legend(
        [Line2D([], [], color=BLUE, marker=".", linestyle=""), Line2D([], [], color=RED, marker="+", linestyle="")],
        ["refit", "estimate"],
    )
    return panels.root


def symbol(name: str) -> str:
    """Return a parameter's name as printed in equations: α for alpha, α_N for alpha_N."""
    first, *rest = name.split("_")
    with suppress(KeyError):
        first = unicodedata.lookup(f"GREEK SMALL LETTER {first.upper()}")
    return "_".join([first, *rest])


def _parameter_axis(fit: FitResult, name: str, axis: Axis, range_: tuple[float, float] | None = None) -> None:
    """Scale the axis of a parameter: logarithmic for a scale of N or D."""
    is_scale = fit.law.parameters[fit.law.names.index(name)].relative_to in ("N", "D")
    low, high = range_ or axis.get_view_interval()
    if range_ is not None:
        margin = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = (
            (low / (high / low) ** 0.1, high * (high / low) ** 0.1) if is_scale else (low - margin, high + margin)
        )
    if is_scale:
        log_axis(axis)
    else:
        box = axis.axes.bbox
        inches = (box.width if isinstance(axis, XAxis) else box.height) / axis.get_figure(root=True).dpi  # type: ignore[union-attr]
        axis.set_major_locator(MaxNLocator(2 if inches < 1.0 else 4))
    if range_ is not None:
        (axis.axes.set_xlim if isinstance(axis, XAxis) else axis.axes.set_ylim)(low, high)
