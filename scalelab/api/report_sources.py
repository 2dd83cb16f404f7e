"""Sources of a report: whatever holds runs or fits, opened as runs with the fits that came with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from scalelab.api.fitting import read
from scalelab.api.runs import Runs, list_runs
from scalelab.errors import UsageError
from scalelab.file_names import slug
from scalelab.fit import FitResult, load_fit
from scalelab.fit.data import COLUMNS, CONVENTIONS
from scalelab.fit.many import FitResults
from scalelab.laws import LAWS, Law
from scalelab.records.schema import conform
from scalelab.status import RunStatus

if TYPE_CHECKING:
    from scalelab.records import RunTable

_FIT_KEYS = {"law", "parameters", "runs", "draws"}


@dataclass(frozen=True)
class Source:
    """Runs, and the fits that were given with them by slug. `name` is as a command takes it, empty for objects."""

    name: str
    runs: Runs
    fits: Mapping[str, FitResult] = field(default_factory=dict[str, FitResult])


def open_sources(
    sources: Sequence[Any], columns: Mapping[str, str] | None, where: str | None, law: Law | None
) -> list[Source]:
    """Return the sources; a folder of saved fits, or several fits in one result, become one each.

    Raises:
        UsageError: A source does not exist or is of another kind, or rows of a fit were to be selected.
        DataError: A file cannot be read.
    """
    own = None if law is None or law.name in LAWS else law  # fits of the library's laws know theirs
    found = [one for source in sources for one in _open(source, columns, where, own)]
    if (columns or where) and all(one.fits for one in found):
        reason = "selects rows of tables, and every source is a fit; fit again with it"
        raise UsageError(reason, argument="columns" if columns else "where")
    return found


def _open(source: Any, columns: Mapping[str, str] | None, where: str | None, law: Law | None) -> list[Source]:
    if isinstance(source, FitResult):
        return [_of_fit(source, "")]
    if isinstance(source, FitResults):
        return [_of_fit(fit, "") for fit in source.values()]
    if isinstance(source, Runs):
        return [Source("", source)]
    if isinstance(source, str | Path):
        files = _saved_fits(Path(source))
        if files:
            return [_of_fit(load_fit(file, law), str(file)) for file in files]
        if not columns:
            return [Source(str(source), replace(list_runs(source, where=where), title=_short(source)))]
        return [Source(str(source), _runs_of(read(source, columns, where), _short(source)))]
    return [Source("", _runs_of(read(source, columns, where), "table"))]


def _short(source: str | Path) -> str:
    """Return a path as a title: an absolute one would tell readers about this machine."""
    path = Path(source)
    return f"{path.parent.name}/{path.name}" if path.is_absolute() else str(source)


def _saved_fits(path: Path) -> list[Path]:
    """Return the saved fits that a path means: itself, or all JSON files of a folder that holds nothing but fits."""
    if path.is_file():
        return [path] if _is_fit(path) else []
    files = sorted(path.glob("*.json")) if path.is_dir() else []
    return files if files and not any(path.rglob("*.parquet")) and all(_is_fit(file) for file in files) else []


def _is_fit(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # read as records, which says what is wrong with it
    return isinstance(content, dict) and {*content} >= _FIT_KEYS


def _runs_of(table: RunTable, title: str) -> Runs:
    parts = [part for part in (table.records, table.others) if len(part)] or [table.records]
    return Runs(title, pd.concat(parts, ignore_index=True), table)


def _of_fit(fit: FitResult, name: str) -> Source:
    """Return the rows of a fit as runs: its numbers are all that is known of them."""
    from scalelab.records import RunTable

    data = fit.data
    columns = {**COLUMNS, "N": CONVENTIONS[fit.options.convention].column}
    frame = pd.DataFrame({columns[v]: data.values(v) for v in data.known} | {"loss": data.loss, "weight": data.weight})
    if "N" in data.known:
        frame = frame.assign(n_params=data.N, n_params_backbone=data.size)
    frame = conform(frame.assign(n_streams=data.P, status=RunStatus.OK, corpus=fit.group)).assign(file="")
    return Source(
        name, Runs(_short(name) if name else fit.group, frame, RunTable(frame, (), 0)), {slug(fit.group): fit}
    )
