"""Loss over N, a curve for each P: the picture of a fit (Figure 2 of arXiv 2505.10475)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalelab.fit import CONVENTIONS, FitResult
from scalelab.plot.style import colours, count_axis, new_axes


def plot_loss(fit: FitResult, axes: Axes | None = None) -> Figure:
    """Measured losses, the fitted law, and its 95 % bootstrap band, by P.

    Curves run a little past the measured N; dashes mark where they are extrapolation.
    """
    figure, axes = (axes.figure, axes) if axes is not None else new_axes()  # type: ignore[assignment]
    runs = np.array(fit.runs)
    low, high = fit.N_range
    grid = np.geomspace(low / 1.25, high * 1.6, 200)
    inside = (grid >= low * 0.999) & (grid <= high * 1.001)
    for P, colour in colours(fit.P_levels).items():
        mine = runs[runs[:, 1] == P]
        axes.plot(mine[:, 0], mine[:, 2], "o", color=colour, markersize=5, label=f"P = {P}")
        curve = fit.predict(grid, P)
        axes.plot(grid, curve, "--", color=colour, linewidth=0.9, alpha=0.7)
        axes.plot(grid[inside], curve[inside], "-", color=colour, linewidth=1.4)
        if fit.draws:
            axes.fill_between(grid, *fit.band(grid, P), color=colour, alpha=0.12, linewidth=0)
    count_axis(axes)
    axes.set_xlabel(f"N, {CONVENTIONS[fit.convention].meaning}")
    axes.set_ylabel("validation loss, nats per token")
    axes.set_title(f"{fit.group}\n{fit.law_object.equation(fit.values)}", fontsize=9, parse_math=False)
    axes.legend(frameon=False)
    return figure  # type: ignore[return-value]
