"""Figures for notebooks and files. Each function returns a matplotlib Figure."""

from scalelab.plot.checks import plot_draws, plot_predicted, plot_profiles, plot_residuals
from scalelab.plot.loss import plot_contours, plot_loss

__all__ = ["plot_contours", "plot_draws", "plot_loss", "plot_predicted", "plot_profiles", "plot_residuals"]
