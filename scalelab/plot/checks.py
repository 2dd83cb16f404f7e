"""Diagnostic figures of fits: residuals, predicted against measured losses, profiles, bootstrap draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from scalelab.fit import FitResult
from scalelab.fit.profile import Profile
from scalelab.plot.style import colours, count_axis, grid_of_axes, new_axes, title
from scalelab.units import format_count, format_number


def plot_residuals(fit: FitResult, axes: Axes | None = None) -> Figure:
    """Draw residuals (predicted over measured loss, %) over N; a good fit shows no pattern."""
    figure, axes = (axes.figure, axes) if axes is not None else new_axes(height=3.6)  # type: ignore[assignment]
    data, percent = fit.data, 100 * np.array(fit.log_residuals)
    axes.axhline(0, color="grey", linewidth=0.9)
    for P, colour in colours(fit.P_levels).items():
        mine = data.P == P
        axes.plot(data.N[mine], percent[mine], "o", color=colour, markersize=5, label=f"P = {P}")
    count_axis(axes)
    axes.set_xlabel(fit.label("N"))
    axes.set_ylabel("predicted over measured, %")
    title(axes, f"{fit.group}\n{fit.law.name} law, R² {fit.r_squared:.4f}")
    axes.legend(frameon=False, ncols=2)
    return figure  # type: ignore[return-value]


def plot_predicted(fit: FitResult, axes: Axes | None = None) -> Figure:
    """Draw predicted against measured losses; points on the line are predicted exactly."""
    figure, axes = (axes.figure, axes) if axes is not None else new_axes(width=4.8, height=4.8)  # type: ignore[assignment]
    data, predicted = fit.data, np.exp(np.array(fit.log_residuals)) * fit.data.loss
    ends = [min(predicted.min(), data.loss.min()), max(predicted.max(), data.loss.max())]
    axes.plot(ends, ends, "-", color="grey", linewidth=0.9)
    for P, colour in colours(fit.P_levels).items():
        mine = data.P == P
        axes.plot(data.loss[mine], predicted[mine], "o", color=colour, markersize=5, label=f"P = {P}")
    axes.set_xlabel(f"measured {fit.loss_label}")
    axes.set_ylabel(f"predicted {fit.loss_label}")
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
    title(axes, f"{fit.group}\n{fit.law.name} law, R² {fit.r_squared:.4f}")
    axes.legend(frameon=False)
    return figure  # type: ignore[return-value]


def plot_profiles(fit: FitResult, profiles: Sequence[Profile]) -> Figure:
    """Draw profiles: the rise of the objective along each parameter, with its threshold and interval.

    The y axis is sqrt(rise / threshold). A quadratic objective has straight arms that end at 1; bends show where
    symmetric standard errors would mislead.
    """
    figure, all_axes = grid_of_axes(len(profiles))
    for profile, axes in zip(profiles, all_axes, strict=True):
        values = np.array(profile.values)
        rise = np.sqrt(np.array(profile.rise) / max(profile.threshold, 1e-300))
        seen = rise <= 3
        axes.plot(values[seen], rise[seen], "-", color="black", linewidth=1.3)
        axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
        for end in profile.interval:
            if end is not None:
                axes.axvline(end, color="#0072B2", linewidth=0.9)
        axes.axvline(fit.values[profile.name], color="#D55E00", linewidth=0.9)
        if _is_scale(fit, profile.name):
            count_axis(axes)
            _few_ticks(axes.xaxis)
        axes.set_xlabel(profile.name)
        axes.set_ylim(0, 2.5)
    all_axes[0].set_ylabel(r"$\sqrt{\mathrm{rise\ /\ threshold}}$")
    figure.suptitle(f"{fit.group}: profiles, {profiles[0].level:.0%} where the line is crossed", fontsize=9)
    return figure


def plot_draws(fit: FitResult) -> Figure:
    """Draw the bootstrap draws of each pair of parameters; narrow bands show correlated parameters."""
    names = [name for name in fit.law.names if name not in fit.fixed]
    draws = np.array(fit.draws)[:, [fit.law.names.index(name) for name in names]]
    pairs = [(i, j) for i in range(len(names)) for j in range(i)]
    figure, all_axes = grid_of_axes(len(pairs) or 1)
    if not pairs:
        all_axes[0].hist(draws[:, 0], bins=40, color="#0072B2")
        all_axes[0].set_xlabel(names[0])
    for (i, j), axes in zip(pairs, all_axes, strict=False):
        axes.plot(draws[:, j], draws[:, i], ".", color="#0072B2", markersize=2, alpha=0.5)
        axes.plot(fit.values[names[j]], fit.values[names[i]], "+", color="#D55E00", markersize=11, markeredgewidth=2)
        for k, scale in ((j, axes.set_xscale), (i, axes.set_yscale)):
            low, high = np.quantile(draws[:, k], [0.005, 0.995])
            if _is_scale(fit, names[k]):
                scale("log")
                (axes.set_xlim if k == j else axes.set_ylim)(low / 1.02, high * 1.02)
                _few_ticks(axes.xaxis if k == j else axes.yaxis)
            else:
                margin = 0.05 * (high - low) or 1.0
                (axes.set_xlim if k == j else axes.set_ylim)(low - margin, high + margin)
        axes.set_xlabel(names[j])
        axes.set_ylabel(names[i])
    values = ", ".join(f"{name} {format_number(fit.values[name])}" for name in names)
    figure.suptitle(f"{fit.group}: {len(draws)} bootstrap refits; + {values}", fontsize=9)
    return figure


def _few_ticks(axis: Axis) -> None:
    """Set three labels on a logarithmic axis of a small plot, which may span less than a decade."""
    low, high = np.log(axis.get_view_interval())
    axis.set_major_locator(FixedLocator(list(np.exp(np.linspace(low, high, 7)[1:6:2]))))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value, 2)))
    axis.set_minor_locator(NullLocator())


def _is_scale(fit: FitResult, name: str) -> bool:
    """Return whether a parameter is a scale of N or D, which needs a logarithmic axis."""
    return fit.law.parameters[fit.law.names.index(name)].relative_to in ("N", "D")
