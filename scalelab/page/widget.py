"""The explorer in a notebook: the page in a frame, which needs neither a server nor IPython."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from scalelab.errors import UsageError
from scalelab.fit.result import FitResult
from scalelab.page.explorer import explorer_page

_LEAST, _MOST = 300, 5000  # pixels


@dataclass(frozen=True)
class Widget:
    """A page that Jupyter shows in a frame. It may run its own scripts, but not reach the notebook."""

    page: str
    height: int

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.page)}" width="100%" height="{self.height}" title="Law explorer" '
            'sandbox="allow-scripts allow-downloads" style="border: 0; border-radius: 8px"></iframe>'
        )

    def __repr__(self) -> str:
        return "<Widget: shown in Jupyter; scalelab explore serves the same page>"


def explore(fits: Iterable[FitResult], height: int) -> Widget:
    """Return the explorer of `fits` as a widget. Raises `UsageError` for a height that cannot be shown."""
    if not _LEAST <= height <= _MOST:
        raise UsageError(f"choose from {_LEAST} to {_MOST} pixels", argument="height", value=height)
    return Widget(explorer_page(fits), height)
