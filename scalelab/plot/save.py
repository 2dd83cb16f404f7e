"""Atomic writing of figures to files."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

from scalelab.atomic import atomic_write


def save_figure(drawn: Any, path: Path) -> None:
    """Save a figure, or the figure of axes, in the format of the file name extension; a symbolic link is replaced."""
    canvas, content = drawn if hasattr(drawn, "savefig") else drawn.figure, BytesIO()
    with warnings.catch_warnings():
        # The font lacks some scripts: the name of a corpus is then boxes in the figure, and whole in the fit.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        canvas.savefig(content, dpi=150, format=path.suffix.removeprefix(".").lower() or "png")
    with atomic_write(path) as file:
        file.write(content.getvalue())
