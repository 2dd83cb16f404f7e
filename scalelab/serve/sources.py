"""Fits to explore: saved ones, or those of a table, a folder of records or the paper."""

from __future__ import annotations

from pathlib import Path

from scalelab.api.fitting import fit_law, load_fit
from scalelab.errors import ScalelabError
from scalelab.fit import FitResult
from scalelab.fit.many import FitResults
from scalelab.laws import LAWS, get_law


def fits_of(source: str | Path, law: str | None = None) -> tuple[list[FitResult], list[ScalelabError]]:
    """Return the fits of `source`, and the errors of what could not be used beside them.

    Args:
        source: A saved fit (JSON), a folder of saved fits, or data as for `fit_law`.
        law: Law to fit to data, "parallel" by default; for a saved fit of a custom law, that law.

    Raises:
        ScalelabError: nothing in `source` can be used.
    """
    path = Path(source)
    saved = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.suffix.lower() == ".json" else []
    if not saved:
        found = fit_law(source, law or "parallel")
        return (list(found.values()), list(found.failures.values())) if isinstance(found, FitResults) else ([found], [])
    own = None if law is None or law in LAWS else get_law(law)
    fits: list[FitResult] = []
    failures: list[ScalelabError] = []
    for file in saved:
        try:
            fits.append(load_fit(file, own))
        except ScalelabError as error:
            failures.append(error)
    if not fits:
        raise failures[0]
    return fits, failures
