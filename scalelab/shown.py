"""Base class of results: summary as text, HTML in notebooks, figures and plain values."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

WIDTH = 100  # columns of text without a terminal


class Shown:
    """A result with a report, JSON values and, for some, figures.

    Subclasses name the functions that make these as ``module:function``. The functions are imported on first use, so
    results do not depend on the packages that render them.
    """

    _report: ClassVar[str]
    _figure: ClassVar[str] = ""
    _json: ClassVar[str] = ""

    def report(self, **options: Any) -> Any:
        """Return the tables and sentences of the result as a `scalelab.reports.Report`."""
        return load_name(self._report)(self, **options)

    def summary(self, width: int = WIDTH, **options: Any) -> str:
        """Return the report as text, as a terminal of `width` columns shows it."""
        return self.report(**options).text(width)

    def to_dict(self) -> Any:
        """Return the result as values for JSON, unrounded; infinities are "inf"."""
        return load_name(self._json)(self)

    def plot(self, kind: str | None = None, **options: Any) -> Axes | Any:
        """Draw the result.

        Args:
            kind: Kind of figure, for results that have several.
            options: ``ax``, to draw into axes of your own: one, or a list where there are several panels. ``size``, of
                a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

        Returns:
            The axes, or the figure if it has several axes.

        Raises:
            UsageError: The result has no figure of this kind; the message lists the choices.
        """
        from scalelab.errors import UsageError

        if not self._figure:
            raise UsageError(f"a {type(self).__name__} has no figure")
        return load_name(self._figure)(self, kind, **options)

    def _repr_html_(self) -> str:
        return self.report().html()

    def __rich_console__(self, console: Console, options: Any) -> Any:
        yield from load_name("scalelab.reports.terminal:render")(self.report(), console.width)


def load_name(path: str) -> Any:
    """Return the object ``package.module:name``, imported on use, as results name their reports and figures."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
