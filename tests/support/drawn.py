"""Measurements of drawn figures: do texts overlap, leave the canvas, or cover data?"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def drawn(figure: Figure) -> RendererAgg:
    """Draw a figure once, and return its renderer."""
    if not isinstance(figure.canvas, FigureCanvasAgg) or not hasattr(figure.canvas, "renderer"):
        FigureCanvasAgg(figure)
        figure.set_dpi(60)
        figure.canvas.draw()
    return figure.canvas.get_renderer()


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return every text that a figure shows, with its box in pixels; not the labels along contours."""
    renderer = drawn(figure)
    texts: list[Text] = []
    for axes in figure.axes:
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                texts += [text for tick in axis._update_ticks() for text in (tick.label1, tick.label2)]
                texts.append(axis.label)
        inner = [text for text in axes.texts if not text.get_rotation() % 90]
        texts += [axes.title, *inner, *(axes.get_legend().get_texts() if axes.get_legend() else [])]
    parents = [figure, *figure.subfigs]
    for parent in parents:
        texts += [text for legend in parent.legends for text in (*legend.get_texts(), legend.get_title())]
        texts += [text for text in (parent._suptitle, parent._supxlabel, parent._supylabel) if text is not None]
    shown = [text for text in texts if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Return pairs of texts that cover each other."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(boxes(figure), 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]


def outside(figure: Figure) -> list[str]:
    """Return texts that are cut at an edge of the figure."""
    width, height = figure.canvas.get_width_height()
    return [
        text for text, box in boxes(figure) if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]


def covered(figure: Figure) -> int:
    """Return the number of points of data under a legend."""
    drawn(figure)
    legends = [legend for parent in (figure, *figure.subfigs) for legend in parent.legends]
    legends += [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    count = 0
    for axes in figure.axes:
        points = [axes.transData.transform(line.get_xydata()) for line in axes.lines if len(line.get_xydata())]
        points += [
            axes.transData.transform(np.asarray(c.get_offsets()))
            for c in axes.collections
            if isinstance(c, PathCollection)
        ]
        for legend in legends:
            box = legend.get_window_extent()
            count += sum(int(box.count_contains(xy)) for xy in points)
    return count
