"""Figures of results, in one look.

Each function takes `ax`, to draw into axes of your own figure, and `size`, the size of a new figure: ``screen``,
``one-column`` or ``two-columns`` of a paper. Each returns a matplotlib Figure. `style` applies the look to a figure of
your own, and ``plt.style.use("scalelab.plot.scalelab")`` does so for good.
"""

from scalelab.plot.checks import plot_draws, plot_predicted, plot_profiles, plot_residuals
from scalelab.plot.contours import plot_contours
from scalelab.plot.cost import Step, plot_cost
from scalelab.plot.loss import plot_loss, plot_loss_panels
from scalelab.plot.plan import plot_plan
from scalelab.plot.save import save_figure
from scalelab.plot.style import SIZES, style

__all__ = [
    "SIZES",
    "Step",
    "plot_contours",
    "plot_cost",
    "plot_draws",
    "plot_loss",
    "plot_loss_panels",
    "plot_plan",
    "plot_predicted",
    "plot_profiles",
    "plot_residuals",
    "save_figure",
    "style",
]
