"""File names of saved fits, which contain all options that are not the default."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.file_names import short_name, slug
from scalelab.fit.options import FitOptions
from scalelab.fit.result import FitResult
from scalelab.fit.saved import load_fit, save_fit

_LONGEST = 160  # bytes of a name without its suffix
_LONG = 40  # characters of a condition in a name, before its hash


def fit_name(base: str, fit: FitResult) -> str:
    """Return the file name of a fit, without suffix: its group, and every option that is not the default."""
    options, default = fit.options, FitOptions()
    words = [base]
    words += [fit.law.name] if fit.law.name != "parallel" else []
    words += [getattr(options, n) for n in ("convention", "objective") if getattr(options, n) != getattr(default, n)]
    words += [f"delta-{options.delta:g}"] if options.delta != default.delta else []
    words += [f"{name}-{value:g}" for name, value in options.fix.items()]
    words += [f"{name}-is-{other}" for name, other in options.tie.items()]
    words += [f"{name}-{low:g}-to-{high:g}" for name, (low, high) in options.bounds.items()]
    words += [options.bootstrap] if options.bootstrap != default.bootstrap else []
    words += ["best"] if options.best else []
    words += [f"points-{fit.origin['points']}"] if fit.origin.get("points", "auto") != "auto" else []
    words += [_short(fit.origin[name]) for name in ("where",) if fit.origin.get(name)]
    return short_name("-".join(words), _LONGEST)


def save_fits(
    fits: Mapping[str, FitResult], folder: str | Path, slugs: Mapping[str, str] | None = None, force: bool = False
) -> tuple[dict[str, Path], dict[str, ScalelabError]]:
    """Save each fit in `folder` under its `fit_name`.

    Returns:
        The files by group, and by group the reason why a fit was not saved: it does not describe its runs, which
        `force` overrides, or its file cannot be written.

    Raises:
        UsageError: a file holds another fit, and `force` is false; nothing is saved.
    """
    names = {
        group: Path(folder) / f"{fit_name((slugs or {}).get(group) or slug(group), fit)}.json"
        for group, fit in fits.items()
    }
    failures: dict[str, ScalelabError] = {}
    for group, path in names.items():
        fit = fits[group]
        if not force and fit.failure:
            failures[group] = ScalelabError(f"{group}: {fit.failure}; not saved (`force` saves it anyway)")
        elif not force and path.exists() and (other := _other(path, fit)):
            raise UsageError(f"{path}: holds another fit, {other}; choose another folder, or replace it with `force`")
    saved: dict[str, Path] = {}
    for group, path in names.items():
        if group in failures:
            continue
        try:
            save_fit(fits[group], path)
            saved[group] = path
        except OSError as error:  # the other groups can still be saved
            failures[group] = ScalelabError(f"{group}: cannot save {path}: {error.strerror or error}")
    return saved, failures


def _other(path: Path, fit: FitResult) -> str:
    """Return how the fit at `path` differs from `fit`, except in rows, seeds and draws; empty if it does not."""
    try:
        old = load_fit(path, getattr(fit.law, "law", fit.law))
    except (DataError, UsageError):
        return ""  # damaged, or from an older version
    for name in ("source", "where", "map", "points"):
        before, now = old.origin.get(name, ""), fit.origin.get(name, "")
        if old.origin and before != now:
            return f"with {name} {before or 'none'!r} instead of {now or 'none'!r}"
    for name in ("convention", "objective", "delta", "bootstrap", "fix", "bounds", "tie", "best"):
        if getattr(old.options, name) != getattr(fit.options, name):
            return f"with a different {name}"
    return ""


def _short(condition: str) -> str:
    word = re.sub(r"[^\w.]+", "-", condition.lower().replace("<", "below").replace(">", "above")).strip("-.")
    digest = hashlib.sha256(condition.encode()).hexdigest()[:6]
    return f"where-{word[:_LONG].rstrip('-.')}-{digest}"
