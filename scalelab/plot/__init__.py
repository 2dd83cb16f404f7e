"""Figures of results. Each function returns a matplotlib Figure."""

from scalelab.plot.checks import plot_draws, plot_predicted, plot_profiles, plot_residuals
from scalelab.plot.cost import Step, plot_cost
from scalelab.plot.loss import plot_contours, plot_loss
from scalelab.plot.plan import plot_plan

__all__ = [
    "Step",
    "plot_contours",
    "plot_cost",
    "plot_draws",
    "plot_loss",
    "plot_plan",
    "plot_predicted",
    "plot_profiles",
    "plot_residuals",
]
