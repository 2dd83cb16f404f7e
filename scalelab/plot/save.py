"""Atomic writing of figures to files."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scalelab.atomic import atomic_write
from scalelab.errors import ScalelabError, first_line
from scalelab.plot.style import ShownFigure, style

# Without the date and versions, the same figure is the same file.
_NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}


def save_figure(drawn: Any, path: Path) -> None:
    """Save a figure, or the figure of axes, in the format of the file name extension; a symbolic link is replaced.

    Fonts are embedded as TrueType. The same data give the same PNG, PDF or SVG file each time.

    Raises:
        ScalelabError: The format needs a program that is missing, as PGF needs LaTeX.
    """
    figure: Figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    kind, content = path.suffix.removeprefix(".").lower() or "png", BytesIO()
    with warnings.catch_warnings(), style(figure.size if isinstance(figure, ShownFigure) else None):
        # The font lacks some scripts: the name of a corpus is then boxes in the figure, and whole in the fit.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        try:
            figure.savefig(content, format=kind, metadata=_NO_DATE.get(kind))
        except RuntimeError as error:  # pgf without LaTeX
            raise ScalelabError(f"{path}: {first_line(error)}") from error
    with atomic_write(path) as file:
        file.write(content.getvalue())
