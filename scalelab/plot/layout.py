"""Panels of a figure, with headings and legends that fit."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scalelab.errors import UsageError, choice_error
from scalelab.plot.style import GREY, Look, ShownAxes, ShownFigure, Size
from scalelab.visible import shortened

AxesLike = Axes | Sequence[Axes] | np.ndarray  # what `ax` takes

_TITLE = 120  # characters of a line over a plot, before it is wrapped
_NARROWEST = 1.5  # inches of a panel in a paper
_SPACE = "\N{NO-BREAK SPACE}"
_LETTER = 0.6  # mean width of a letter, em
_Cells = Sequence[tuple[int, int]]


@dataclass
class Panels:
    """Axes to draw into.

    Attributes:
        figure: The figure, or the part of a person's figure that the panels have for themselves.
        axes: The axes, in the order asked for.
        owns_figure: `figure` holds nothing else, so that it may have a heading and a legend.
        in_paper: The size is that of a paper, where the caption replaces the heading.
    """

    figure: Figure | SubFigure
    axes: list[Axes]
    owns_figure: bool
    in_paper: bool = False

    @property
    def root(self) -> Figure:
        """The whole figure."""
        root = self.axes[0].get_figure(root=True)
        assert root is not None
        return root

    def heading(self, text: str) -> None:
        """Set a heading as plain text, so that $ in names is not mathematics; long lines are shortened and wrapped."""
        if self.in_paper or not text:
            return
        size = _points(rcParams["axes.titlesize"]) * 0.9
        text = text.replace(" / ", f"{_SPACE}/{_SPACE}")  # an equation is broken between its terms
        if len(self.axes) == 1:
            width = self.figure.bbox.width / self.root.dpi - 1.0
            self.axes[0].set_title(_wrapped(text, width, size), fontsize=size, parse_math=False)
        elif self.owns_figure:
            width = self.figure.bbox.width / self.root.dpi - 0.2
            self.figure.suptitle(_wrapped(text, width, size), fontsize=size, parse_math=False)

    def legend(self, handles: Sequence[Any], labels: Sequence[str], title: str | None = None) -> None:
        """Explain marks below all panels; in axes of a person's own figure, where they cover least.

        Call it last: it also wraps labels of axes to the size of their panel.
        """
        for axes in self.axes if self.owns_figure else ():
            self._wrap_labels(axes)
        if not labels:
            return
        if self.owns_figure:
            rows = legend_below(self.figure, handles, labels, title)
            if self.figure is self.root:  # each further row has its own room
                height = (rows - 1) * 1.6 * _points(rcParams["legend.fontsize"]) / 72
                self.root.set_figheight(self.root.get_figheight() + height)
        else:
            self.axes[-1].legend(handles, labels, loc="best", title=title)

    def _wrap_labels(self, axes: Axes) -> None:
        place = axes.get_subplotspec()
        rows, columns = place.get_gridspec().get_geometry() if place else (1, 1)
        width, height = (float(size) for size in np.divide(self.figure.bbox.size, self.root.dpi) / (columns, rows))
        for label, room in ((axes.xaxis.label, width - 0.5), (axes.yaxis.label, height - 0.95)):
            text = label.get_text()
            if text and "\n" not in text:
                label.set_text("\n".join(wrap(text, max(14, int(room * 72 / (_LETTER * float(label.get_fontsize())))))))
        if len(self.axes) > 1:
            most = max(12, int((width - 0.75) * 72 / (_LETTER * float(axes.title.get_fontsize()))))
            axes.title.set_text(shortened(axes.get_title(), most))


def new_panels(
    count: int = 1,
    ax: AxesLike | None = None,
    size: Size | None = None,
    *,
    panel: tuple[float, float] = (2.9, 2.4),
    columns: int = 3,
    cells: _Cells | None = None,
    extra: float = 0.5,
) -> Panels:
    """Return panels in a new figure, or in a person's axes.

    Args:
        count: Number of panels.
        ax: The axes, as many as there are panels; or one axes, which is replaced by all panels.
        size: Size of a new figure. In a paper, its width is given and there are as many columns as fit.
        panel: Width and height of a panel on the screen, inches.
        columns: The most panels in a row.
        cells: Row and column of each panel, instead of rows from left to right.
        extra: Height for heading and legend on the screen, inches.

    Raises:
        UsageError: There are not as many axes as panels.
    """
    if ax is not None:
        return _given_panels(count, ax, columns, cells)
    in_paper = size not in (None, "screen")
    width = rcParams["figure.figsize"][0]
    if in_paper:
        columns = max(1, min(columns, int(width / _NARROWEST)))
    cells = _rows(count, columns) if cells is None else cells
    n_rows, n_columns = (1 + max(cell[i] for cell in cells) for i in (0, 1))
    if in_paper:
        of_panel = max(1.15, min(panel[1], width / n_columns * panel[1] / panel[0]))
        height = n_rows * of_panel + 0.5 * extra
    else:
        width, height = panel[0] * n_columns, panel[1] * n_rows + extra
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    figure.size = size
    kind: dict[str, Any] = {"axes_class": ShownAxes} if count == 1 else {}
    grid = figure.add_gridspec(n_rows, n_columns)
    return Panels(figure, [figure.add_subplot(grid[cell], **kind) for cell in cells], True, in_paper)


def _given_panels(count: int, ax: AxesLike, columns: int, cells: _Cells | None) -> Panels:
    if isinstance(ax, Axes):
        if count == 1:
            figure = ax.get_figure(root=False)
            assert figure is not None
            return Panels(figure, [ax], False)
        place = ax.get_subplotspec()
        if place is None:
            raise UsageError(f"this figure has {count} panels: give a list of {count} axes", argument="ax")
        parent = ax.get_figure(root=False)
        assert parent is not None
        ax.remove()
        part = parent.add_subfigure(place)
        cells = _rows(count, columns) if cells is None else cells
        grid = part.add_gridspec(*(1 + max(cell[i] for cell in cells) for i in (0, 1)))
        return Panels(part, [part.add_subplot(grid[cell]) for cell in cells], True)
    given = list(np.asarray(ax, dtype=object).ravel())
    if len(given) != count:
        raise UsageError(
            f"this figure has {count} panels: give a list of {count} axes, not {len(given)}", argument="ax"
        )
    return Panels(given[0].get_figure(root=False), given, False)


def only_kind(kind: str | None, name: str) -> None:
    """Raise `UsageError` unless `kind` is None or the one kind of figure that a result has."""
    if kind not in (None, name):
        raise choice_error("kind", kind, (name,))


def _rows(count: int, columns: int) -> _Cells:
    """Return cells from left to right, in rows that are as equal as possible."""
    columns = -(-count // -(-count // columns))
    return [divmod(i, columns) for i in range(count)]


def legend_below(
    figure: Figure | SubFigure, handles: Sequence[Any], labels: Sequence[str], title: str | None = None
) -> int:
    """Put a legend below all plots, whose entries read along its rows; return the number of rows it takes."""
    em = _points(rcParams["legend.fontsize"])
    room = figure.bbox.width / figure.get_figure(root=True).dpi * 72 / em - 1.0
    columns = next(n for n in range(len(labels), 0, -1) if n == 1 or _legend_width(labels, n) <= room)
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)
    order = [i for first in range(columns) for i in range(first, len(labels), columns)]  # matplotlib fills columns
    legend = figure.legend(
        [handles[i] for i in order],
        [shortened(labels[i], 60) for i in order],
        loc="outside lower center",
        ncols=columns,
        title=title,
        columnspacing=1.4,
        handlelength=1.8,
        handletextpad=0.5,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return rows


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Return the width of a legend with so many columns, em."""
    return sum(max(text_width(label) for label in labels[i::columns]) + 1.8 + 0.5 + 1.4 for i in range(columns))


def text_width(text: str) -> float:
    """Return about the width of a text, em."""
    return sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else _LETTER for letter in text)


def level_handle(look: Look, line: Any = "-") -> Line2D:
    """Return the legend's sign of one level: its line and marker."""
    return Line2D([], [], linestyle=line, **look.points())


def band_handle() -> Patch:
    """Return the legend's sign of an interval."""
    return Patch(facecolor=GREY, alpha=0.3, linewidth=0)


def dashed_handle() -> Line2D:
    """Return the legend's sign of a dashed line."""
    return Line2D([], [], color=GREY, linestyle="--", linewidth=1.0)


def _wrapped(text: str, inches: float, size: float) -> str:
    """Return a heading in lines that fit; a name is cut in the middle before it fills more than five lines."""
    columns = max(20, int(inches * 72 / (0.58 * size)))
    lines = [shortened(line, max(_TITLE, 5 * columns)) for line in text.splitlines()]
    return "\n".join(part for line in lines for part in wrap(line, columns))


def _points(size: Any) -> float:
    """Return a font size such as "small" in points."""
    return float(FontProperties(size=size).get_size_in_points())
