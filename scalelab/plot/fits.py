"""Figures of fits by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalelab.errors import UsageError, choice_error
from scalelab.fit.answers import Profiles
from scalelab.fit.many import FitResults
from scalelab.fit.profile import Profile
from scalelab.fit.result import FitResult
from scalelab.plot.checks import plot_draws, plot_predicted, plot_profiles, plot_residuals
from scalelab.plot.contours import plot_contours
from scalelab.plot.layout import AxesLike, only_kind
from scalelab.plot.loss import plot_loss, plot_loss_panels
from scalelab.plot.save import save_figure
from scalelab.plot.style import Size

Kind = Literal["loss", "contours", "residuals", "profiles", "pairs", "predicted"]
KINDS: tuple[Kind, ...] = ("loss", "contours", "residuals", "profiles", "pairs", "predicted")
PANELS = "panels"  # a figure of all groups: loss over N, side by side


def plot_fit(
    fit: FitResult, kind: Kind | None = None, ax: AxesLike | None = None, size: Size | None = None
) -> Axes | Figure:
    """Draw a fit: ``loss`` over N (the default), ``contours``, ``residuals``, ``profiles``, ``pairs`` or ``predicted``.

    Args:
        fit: The fit.
        kind: Kind of figure.
        ax: Axes to draw into; as many as there are panels, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Returns:
        The axes, or the figure if it has several axes.

    Raises:
        UsageError: There is no such kind, or this fit has no figure of it; the message gives the reason.
    """
    if kind is not None and kind not in KINDS:
        raise choice_error("kind", kind, KINDS)
    figure = figure_of(fit, kind or "loss", ax, size)
    if figure is None:
        raise UsageError(
            "this fit has no such figure: it has no draws, only one P, or no N", argument="kind", value=kind
        )
    if isinstance(ax, Axes) and ax.figure is not None:
        return ax
    return figure.axes[0] if len(figure.axes) == 1 else figure


def figure_of(
    fit: FitResult,
    kind: Kind,
    ax: AxesLike | None = None,
    size: Size | None = None,
    profiles: Mapping[str, Profile] | None = None,
) -> Figure | None:
    """Return one figure; None where this fit has none of that kind. `profiles` spares making them again."""
    if kind == "profiles":
        profiles = fit.profile().profiles if profiles is None else profiles
        return plot_profiles(fit, list(profiles.values()), ax=ax, size=size) if profiles else None
    if kind == "pairs":
        return plot_draws(fit, ax=ax, size=size) if fit.draws else None
    if kind == "contours" and not ({"N", "P"} <= set(fit.law.variables) and len(fit.P_levels) > 1):
        return None
    if kind == "residuals" and "N" not in fit.known:
        return None
    if ax is not None and not isinstance(ax, Axes):
        raise UsageError("this figure has one panel: give one axes", argument="ax")
    draw: dict[Kind, Any] = {
        "loss": plot_loss,
        "contours": plot_contours,
        "residuals": plot_residuals,
        "predicted": plot_predicted,
    }
    return draw[kind](fit, ax=ax, size=size)


def plot_profile_set(
    found: Profiles, kind: str | None = None, ax: AxesLike | None = None, size: Size | None = None
) -> Figure:
    """Draw profiles: the rise of the objective along each parameter, with its threshold and interval."""
    only_kind(kind, "profiles")
    if not found.profiles:
        raise UsageError("no parameter of this fit has a profile")
    return plot_profiles(found.fit, list(found.profiles.values()), ax=ax, size=size)


def plot_fits(
    fits: FitResults, kind: Kind | Literal["panels"] | None = None, ax: AxesLike | None = None, size: Size | None = None
) -> dict[str, Any] | Figure:
    """Draw a figure for each group, by group name; or loss over N of all groups side by side, as ``panels``.

    Raises:
        UsageError: There is no such kind, or `ax` is given for a figure for each group.
    """
    if kind == PANELS:
        return plot_loss_panels(fits, ax=ax, size=size)
    if kind is not None and kind not in KINDS:
        raise choice_error("kind", kind, (*KINDS, PANELS))
    if ax is not None:
        raise UsageError("there is a figure for each group: draw one group, or kind='panels'", argument="ax")
    return {name: plot_fit(fit, kind, size=size) for name, fit in fits.items()}


def save_figures(
    fits: FitResults,
    groups: Sequence[str],
    folder: Path,
    kinds: Sequence[str],
    profiles: Mapping[str, Mapping[str, Profile]],
    ending: str = "png",
    size: Size | None = None,
) -> dict[str, list[Path]]:
    """Save figures of the fits of `groups` next to their files in `folder`, and return the paths by group.

    Args:
        fits: Fits of all groups.
        groups: Groups to draw.
        folder: Folder of the files.
        kinds: Kinds of figures; ``panels`` is drawn once, for all groups, where there are several.
        profiles: Profiles by group and parameter.
        ending: Format of the files: png, pdf, svg, …
        size: Size of the figures.
    """
    paths: dict[str, list[Path]] = {}
    for group in groups:
        fit, paths[group] = fits[group], []
        for kind in kinds:
            if kind == PANELS:
                continue
            figure = figure_of(fit, kind, size=size, profiles=profiles.get(group))  # type: ignore[arg-type]
            if figure is not None:
                path = folder / f"{fits.stem(group)}{'' if kind == 'loss' else f'-{kind}'}.{ending}"
                save_figure(figure, path)
                paths[group].append(path)
    if PANELS in kinds and len(groups) > 1:
        path = folder / f"{PANELS}.{ending}"
        save_figure(plot_loss_panels({group: fits[group] for group in groups}, size=size), path)
        paths[groups[-1]].append(path)
    return paths
