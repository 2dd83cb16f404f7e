"""Figures for notebooks and files. Each function returns a matplotlib Figure."""

from scalelab.plot.loss import plot_loss

__all__ = ["plot_loss"]
