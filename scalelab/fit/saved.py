"""Save and load fits as JSON, without loss of digits."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from scalelab.errors import DataError, UsageError
from scalelab.fit.data import FitData
from scalelab.fit.mixture import LawWeight
from scalelab.fit.options import FitOptions
from scalelab.fit.result import FitResult, Note, Severity, Status
from scalelab.laws import LAWS, Law
from scalelab.laws.base import VARIABLES
from scalelab.laws.tied import tied

_FORMAT = 4
_BEFORE_AVERAGES = 3  # fits of one law can still be read
_BEFORE_DIGESTS = 2  # and those without a digest
_WEIGHT = ("label", "law", "delta", "weight", "reason")
# Values of a fit that another law of the same runs has of its own.
_OF_LAW = {
    *("law", "parameters", "options", "status", "params", "fixed", "objective", "r_squared", "agreement"),
    *("start_spread", "residuals", "covariance", "draws", "notes"),
}


def save_fit(fit: FitResult, path: str | Path) -> None:
    """Write `fit` as JSON, atomically."""
    from scalelab.atomic import write_text

    write_text(Path(path), fit_text(fit) + "\n")


def fit_text(fit: FitResult, indent: int | None = 1) -> str:
    """Return `fit` as the JSON that `load_fit` reads from a file; without `indent`, on one line."""
    data = fit.data
    saved = _values(fit)
    saved |= {"known": data.known, "runs": data.rows, "data_hash": data.digest}
    saved["others"] = {name: values.tolist() for name, values in data.others.items()}
    saved["run_ids"] = None if data.run is None else data.run.tolist()
    saved |= {"format": _FORMAT, "latex": fit.law.latex, "equation": fit.equation(digits=17)}
    saved["laws"] = [
        {name: getattr(entry, name) for name in _WEIGHT}
        | {"fit": None if entry.fit is None else {k: v for k, v in _values(entry.fit).items() if k in _OF_LAW}}
        for entry in fit.laws
    ]
    separators = (",", ":") if indent is None else None
    return json.dumps(saved | {"digest": _digest(saved)}, indent=indent, separators=separators, allow_nan=False)


def _values(fit: FitResult) -> dict[str, Any]:
    """Return the fields of `fit` without its rows and laws; its law by name."""
    saved = asdict(replace(fit, law=None, data=None, laws=()))  # type: ignore[arg-type]
    del saved["data"], saved["laws"]
    # An open bound is infinite, which JSON cannot represent.
    limits = fit.options.bounds.items()
    saved["options"]["bounds"] = {k: [v if math.isfinite(v) else None for v in ends] for k, ends in limits}
    saved["residuals"] = saved.pop("log_residuals")  # the name in the file format
    return saved | {"law": fit.law.name, "parameters": list(fit.law.names)}


def load_fit(path: str | Path, law: Law | None = None) -> FitResult:
    """Load a saved fit.

    A fit of a custom law needs its `law` again, since no code is loaded from a saved fit.

    Raises:
        UsageError: there is no such file, or `law` is not the law that was fitted.
        DataError: the file is not a saved fit, or was changed.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path}: no such file; save a fit first, with scalelab fit or FitResult.save") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; give a saved fit (JSON) in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a saved fit ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from None
    try:
        saved: dict[str, Any] = json.loads(text, parse_constant=_refuse)
        _check_seal(saved)
        parts = (saved.pop("runs"), tuple(saved.pop("known")), saved.pop("others", {}), saved.pop("run_ids", None))
        data, digest = FitData.of_rows(*parts), saved.pop("data_hash")
        if not data.loss.size or digest != data.digest:
            raise ValueError("its runs are incomplete or changed")
        entries = saved.pop("laws", [])
        name, names = saved.pop("law"), tuple(saved.pop("parameters"))
        fit = _fit_of(saved, law or LAWS.get(name), names, data)
    except (UsageError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not a saved fit ({error})") from None
    found = fit.law
    if found is None:
        raise UsageError(f"{path}: a fit of the custom law {name!r}; give it with `law=file.py:NAME`")
    if found.name != name or found.names != names:
        raise UsageError(f"{path}: a fit of the law {name!r} ({', '.join(names)}), not of {found.name!r}")
    _check_losses(fit, path)
    try:
        fit = replace(fit, laws=tuple(_weight_of(entry, fit) for entry in entries))
        if fit.laws and not math.isclose(sum(entry.weight for entry in fit.laws), 1.0, rel_tol=1e-9):
            raise ValueError("the weights of its laws do not add up to 1")
    except (UsageError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not a saved fit ({error})") from None
    for entry in fit.laws:
        if entry.fit is not None:
            _check_losses(entry.fit, path)
    return fit


def _fit_of(saved: dict[str, Any], law: Law | None, names: tuple[str, ...], data: FitData) -> FitResult:
    """Return the fit with the values `saved`. Raises `ValueError` and others for values that do not make one."""
    notes = tuple(Note(**note) for note in saved.pop("notes"))
    chosen: dict[str, Any] = {k: _tuples(v) for k, v in saved.pop("options").items()}
    limits = chosen.pop("bounds", {}).items()
    bounds = {k: (-math.inf if low is None else low, math.inf if high is None else high) for k, (low, high) in limits}
    options = FitOptions(**chosen, bounds=bounds)
    saved["log_residuals"] = saved.pop("residuals")
    known = {f.name for f in fields(FitResult)}
    values: dict[str, Any] = {k: _tuples(v) for k, v in saved.items() if k in known}
    law = tied(law, options.tie) if law is not None else None
    fit = FitResult(law=law, options=options, notes=notes, data=data, **values)  # type: ignore[arg-type]
    rows = (fit.params, *fit.draws, *fit.covariance)
    if any(len(row) != len(names) for row in rows) or not all(math.isfinite(v) for row in rows for v in row):
        raise ValueError("wrong number of parameters")
    if len(data.loss) != len(fit.log_residuals):
        raise ValueError("its runs are incomplete or changed")
    if fit.status not in get_args(Status) or any(n.severity not in get_args(Severity) for n in notes):
        raise ValueError("unknown status or severity")
    if not {*fit.known} <= {*VARIABLES} or not {*fit.fixed} <= {*names}:
        raise ValueError("unknown variable or parameter")
    return fit


def _weight_of(entry: dict[str, Any], fit: FitResult) -> LawWeight:
    """Return a law of an average, with its fit to the rows of `fit`."""
    about: dict[str, Any] = {name: entry[name] for name in _WEIGHT}
    if not (math.isfinite(about["weight"]) and 0 <= about["weight"] <= 1):
        raise ValueError("a weight is not between 0 and 1")
    own = entry["fit"]
    if own is None:
        return LawWeight(**about)
    name, names = own.pop("law"), tuple(own.pop("parameters"))
    law = LAWS.get(name)
    if law is None or law.names != names:
        raise ValueError(f"its law {name!r} is not one of this version")
    shared = {k: getattr(fit, k) for k in ("group", "versions", "columns", "origin")}
    return LawWeight(**about, fit=_fit_of({**own, **shared}, law, names, fit.data))


def _check_losses(fit: FitResult, path: Path) -> None:
    """Raise `DataError` if the law predicts other losses than when it was fitted."""
    with np.errstate(all="ignore"):
        residuals = np.log(fit.law.loss(np.array(fit.params), fit.data.points) / fit.data.loss)
    if not np.allclose(residuals, fit.log_residuals, rtol=0, atol=1e-9):
        raise DataError(
            f"{path}: the law {fit.law.name!r} has changed since the fit: it predicts other losses; fit again"
        )


def _digest(saved: dict[str, Any]) -> str:
    """Return the digest of the content of a saved fit."""
    return hashlib.sha256(json.dumps(saved, sort_keys=True).encode()).hexdigest()[:32]


def _check_seal(saved: dict[str, Any]) -> None:
    """Remove format and digest from `saved`. Raises `ValueError` for another format or an edited file."""
    digest = saved.pop("digest", None)
    whole = _digest(saved)
    version = saved.pop("format", None)
    if version not in (_FORMAT, _BEFORE_AVERAGES, _BEFORE_DIGESTS):
        raise ValueError("written by another version; fit again")
    if digest != whole and (version != _BEFORE_DIGESTS or digest is not None):
        raise ValueError("it was edited; fit again")


def _refuse(constant: str) -> float:
    raise ValueError(f"it contains {constant}")


def _tuples(value: Any) -> Any:
    """Return `value` with its lists as tuples, also inside mappings, as in the dataclasses."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
