"""Look of figures: style sheet and sizes, colours and markers by P, headings and legends."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from io import BytesIO
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, to_hex
from matplotlib.figure import Figure

from scalelab.errors import UsageError, choice_error

Size = Literal["screen", "one-column", "two-columns"]
SIZES: tuple[Size, ...] = ("screen", "one-column", "two-columns")

GREY = "#777777"
BLUE, RED = "#0072B2", "#D55E00"
_LOOK_GROUPS = {
    *(
        "axes",
        "axes3d",
        "boxplot",
        "contour",
        "errorbar",
        "figure",
        "grid",
        "hatch",
        "hist",
        "image",
        "legend",
        "lines",
    ),
    *("markers", "mathtext", "patch", "path", "pdf", "polaraxes", "ps", "savefig", "scatter", "svg", "text"),
    *("xaxis", "xtick", "yaxis", "ytick", "font"),
}
_FONTS = ("font.", "mathtext.")  # a person's own settings of these are kept

_Params = ParamSpec("_Params")
_Drawn = TypeVar("_Drawn")


class Look(NamedTuple):
    """Colour and marker of one level of P, D or the batch size."""

    color: str
    marker: str

    def points(self, scale: float = 1.0) -> dict[str, Any]:
        """Return options of `Axes.plot` for markers, which look equally large in all looks."""
        size = scale * mpl.rcParams["lines.markersize"] * _SCALE.get(self.marker, 1.0)
        return dict(color=self.color, marker=self.marker, markersize=size, markeredgecolor="white", markeredgewidth=0.4)


_SCALE = {"^": 1.25, "v": 1.25, "D": 0.95, "P": 1.3, "X": 1.3}
# Okabe & Ito (2008): distinguishable with any colour vision. By P: 1, 2, 4, 8, 16, 32 and 64.
_LOOKS = tuple(
    map(
        Look,
        ("#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9"),
        ("o", "s", "^", "D", "v", "P", "X"),
    )
)


def looks(levels: Iterable[Any]) -> dict[Any, Look]:
    """Return a colour and a marker for each level, in ascending order.

    A power of two up to 64 has the same look in all figures. Other sets are numbered; more than seven levels have
    colours from light to dark.
    """
    known = sorted(levels)
    if {*known} <= {2**i for i in range(len(_LOOKS))}:
        return {level: _LOOKS[int(math.log2(level))] for level in known}
    if len(known) <= len(_LOOKS):
        return dict(zip(known, _LOOKS, strict=False))
    return {level: Look(color, _LOOKS[i % len(_LOOKS)].marker) for i, (level, color) in enumerate(ramp(known).items())}


def ramp(levels: Iterable[Any]) -> dict[Any, str]:
    """Return colours from light to dark for sizes or streams, in ascending order."""
    known = sorted(levels)
    shades = colormaps["viridis_r"](np.linspace(0.12, 1.0, len(known)) if len(known) > 1 else [1.0])
    return {level: to_hex(shade) for level, shade in zip(known, shades, strict=True)}


def colours(levels: Iterable[Any]) -> dict[Any, str]:
    """Return a colour for each level, in ascending order."""
    return {level: look.color for level, look in looks(levels).items()}


def pale_map() -> Colormap:
    """Return the colour map of filled contours: light enough for black lines and labels on top."""
    shades = colormaps["viridis_r"](range(256))
    return ListedColormap(1 - 0.55 * (1 - shades[:, :3]), name="pale")


@functools.cache
def _sheet(name: str) -> dict[Any, Any]:
    return dict(mpl.rc_params_from_file(str(files("scalelab.plot") / f"{name}.mplstyle"), use_default_template=False))


@functools.cache
def _defaults() -> dict[Any, Any]:
    """Return matplotlib's defaults of everything that changes how a figure looks."""
    return {name: value for name, value in mpl.rcParamsDefault.items() if name.partition(".")[0] in _LOOK_GROUPS}


@contextmanager
def style(size: Size | None = None) -> Iterator[None]:
    """Apply the style sheet within a `with` block; settings of matplotlib are as before afterwards.

    Fonts that a person chose (`font.family`, `mathtext.fontset`) are kept.

    Args:
        size: ``screen`` (the default), ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such size.
    """
    if size is not None and size not in SIZES:
        raise choice_error("size", size, SIZES)
    fonts: dict[Any, Any] = {name: value for name, value in mpl.rcParams.items() if name.startswith(_FONTS)}
    sizes: dict[Any, Any] = _sheet(size) if size not in (None, "screen") else {}
    with mpl.rc_context({**_defaults(), **fonts, **_sheet("scalelab"), **sizes}):
        yield


def styled(draw: Callable[_Params, _Drawn]) -> Callable[_Params, _Drawn]:
    """Make a function draw in scalelab's style, unless it is given axes of a figure that has its own.

    The function takes ``ax`` and ``size``.
    """

    @functools.wraps(draw)
    def drawn(*args: _Params.args, **options: _Params.kwargs) -> _Drawn:
        size: Any = options.get("size")
        if options.get("ax") is None:
            with style(size):
                return draw(*args, **options)
        if size is not None:
            raise UsageError("the figure of `ax` has its own size; leave one out", argument="size", value=size)
        return draw(*args, **options)

    return drawn


class ShownFigure(Figure):
    """A figure in scalelab's style that Jupyter shows, made without pyplot and its global state."""

    size: Size | None = None

    def draw(self, renderer: Any) -> None:
        """Draw in scalelab's style: matplotlib makes ticks only now."""
        with style(self.size):
            super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save to a file in scalelab's style, with fonts that conferences accept."""
        with style(self.size):
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


class ShownAxes(Axes):
    """Axes that Jupyter shows as their whole figure."""

    def _repr_png_(self) -> bytes | None:
        figure = self.get_figure(root=True)
        return figure._repr_png_() if isinstance(figure, ShownFigure) else None
