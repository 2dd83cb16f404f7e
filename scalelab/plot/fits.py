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
from scalelab.plot.loss import plot_contours, plot_loss
from scalelab.plot.save import save_figure

Kind = Literal["loss", "contours", "residuals", "profiles", "pairs", "predicted"]
KINDS: tuple[Kind, ...] = ("loss", "contours", "residuals", "profiles", "pairs", "predicted")


def plot_fit(fit: FitResult, kind: Kind | None = None, axes: Axes | None = None) -> Axes | Figure:
    """Draw a fit: ``loss`` over N (the default), ``contours``, ``residuals``, ``profiles``, ``pairs`` or ``predicted``.

    Returns:
        The axes, or the figure if it has several axes.

    Raises:
        UsageError: There is no such kind, or this fit has no figure of it; the message gives the reason.
    """
    if kind is not None and kind not in KINDS:
        raise choice_error("kind", kind, KINDS)
    figure = figure_of(fit, kind or "loss", axes)
    if figure is None:
        raise UsageError(
            "this fit has no such figure: it has no draws, only one P, or no N", argument="kind", value=kind
        )
    return figure.axes[0] if len(figure.axes) == 1 else figure


def figure_of(
    fit: FitResult, kind: Kind, axes: Axes | None = None, profiles: Mapping[str, Profile] | None = None
) -> Figure | None:
    """Return one figure; None where this fit has none of that kind. `profiles` spares making them again."""
    if kind == "profiles":
        profiles = fit.profile().profiles if profiles is None else profiles
        return plot_profiles(fit, list(profiles.values())) if profiles else None
    if kind == "contours":
        both = {"N", "P"} <= set(fit.law.variables) and len(fit.P_levels) > 1
        return plot_contours(fit, axes=axes) if both else None
    if kind == "residuals" and "N" not in fit.known:
        return None
    if kind == "pairs":
        return plot_draws(fit) if fit.draws else None
    return {"loss": plot_loss, "residuals": plot_residuals, "predicted": plot_predicted}[kind](fit, axes)


def plot_profile_set(found: Profiles, kind: str | None = None) -> Figure:
    """Draw profiles: the rise of the objective along each parameter, with its threshold and interval."""
    if not found.profiles:
        raise UsageError("no parameter of this fit has a profile")
    return plot_profiles(found.fit, list(found.profiles.values()))


def plot_fits(fits: FitResults, kind: Kind | None = None) -> dict[str, Any]:
    """Draw a figure for each group, by group name."""
    return {name: plot_fit(fit, kind) for name, fit in fits.items()}


def save_figures(
    fits: FitResults,
    groups: Sequence[str],
    folder: Path,
    kinds: Sequence[Kind],
    profiles: Mapping[str, Mapping[str, Profile]],
) -> dict[str, list[Path]]:
    """Save figures of the fits of `groups` as PNG next to their files in `folder`, and return the paths by group."""
    paths: dict[str, list[Path]] = {}
    for group in groups:
        fit, paths[group] = fits[group], []
        for kind in kinds:
            figure = figure_of(fit, kind, profiles=profiles.get(group))
            if figure is not None:
                path = folder / f"{fits.stem(group)}{'' if kind == 'loss' else f'-{kind}'}.png"
                save_figure(figure, path)
                paths[group].append(path)
    return paths
