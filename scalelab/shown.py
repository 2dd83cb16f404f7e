"""The verbs that every result has: it shows itself as text, as HTML in a notebook, and as a figure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

WIDTH = 100  # columns of text where there is no terminal


class Shown:
    """A result that shows itself.

    A subclass names the function that makes its report, as ``module:function``, and if it has figures the one that
    draws them. Both are loaded when they are first needed, so that a result does not depend on how it is shown.
    """

    _report: ClassVar[str]
    _figure: ClassVar[str] = ""
    _json: ClassVar[str] = ""

    def report(self, **options: Any) -> Any:
        """Return the tables and sentences of this result, a `scalelab.report.Report`."""
        return _load(self._report)(self, **options)

    def summary(self, width: int = WIDTH, **options: Any) -> str:
        """Return the report as text of at most `width` columns, as the terminal shows it."""
        return self.report(**options).text(width)

    def to_dict(self) -> Any:
        """Return the result as plain values that JSON can hold, with every digit; infinities as "inf"."""
        return _load(self._json)(self)

    def plot(self, kind: str | None = None, **options: Any) -> Axes | Any:
        """Draw the result. Returns the axes, or an array of axes where a figure has several.

        Raises:
            UsageError: There is no figure of this kind; the message lists those there are.
        """
        from scalelab.errors import UsageError

        if not self._figure:
            raise UsageError(f"a {type(self).__name__} has no figure")
        return _load(self._figure)(self, kind, **options)

    def _repr_html_(self) -> str:
        return self.report().html()

    def __rich_console__(self, console: Console, options: Any) -> Any:
        yield from _load("scalelab.report.terminal:render")(self.report(), console.width)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
