"""Convert histories of runs to records and loss curves, with the origin of each run."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from scalelab.atomic import remove_abandoned
from scalelab.errors import DataError, ScalelabError, UsageError, choice_error
from scalelab.importers.columns import COMMON, Column
from scalelab.importers.sources import KINDS, History, kind_of
from scalelab.records.expressions import compute, known_names
from scalelab.records.numbers import to_floats
from scalelab.records.schema import RECORD_SCHEMA
from scalelab.records.store import curve_path, record_path, record_status, write_record
from scalelab.shown import Shown
from scalelab.units import parse_count

_TOKENS_TOO_FEW = 1e3  # a smaller D cannot be a number of tokens


@dataclass(frozen=True)
class Imported(Shown):
    """Imported runs: their records and curves, errors of unusable runs, and the mapping of columns."""

    table: pd.DataFrame
    curves: Mapping[str, list[tuple[int, int | None, float]]]
    errors: tuple[str, ...]
    columns: Mapping[str, str]
    files: tuple[Path, ...] = ()  # of the records, after `write_runs`

    _report: ClassVar[str] = "scalelab.reports.imports:imported_report"
    _json: ClassVar[str] = "scalelab.reports.imports:imported_json"

    @property
    def runs(self) -> list[str]:
        """Names of the runs in their source."""
        return [json.loads(config)["imported"]["run"] for config in self.table["config"]]

    def to_frame(self) -> pd.DataFrame:
        """Return the records, one row per run."""
        return self.table

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"<Imported {len(self)} runs, {len(self.errors)} not usable>"


def import_runs(
    source: str | Path,
    source_kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    n_from: Mapping[str, str | float] | None = None,
    strict: bool = True,
) -> Imported:
    """Read the runs of `source` as records.

    Args:
        source: a file or folder written by one of `KINDS`.
        source_kind: one of `KINDS`; detected from the files by default.
        columns: the column of a run's history or config, or an expression over them, for columns of the schema, such
            as ``{"loss": "eval/c4/loss"}``.
        n_from: N by run name: ``{"190M": 190354176}`` for every run with 190M in its name; * and ? are wildcards. The
            longest matching pattern is used.
        strict: raise an error for the first unusable run, instead of listing it in `errors`.

    Raises:
        UsageError: the source, kind or column does not exist.
        DataError: a file cannot be read, a required column is missing, or (`strict`) a run cannot be used.
    """
    source, columns = Path(source), dict(columns or {})
    kind = source_kind or kind_of(source)
    if kind not in KINDS:
        raise choice_error("source_kind", kind, KINDS)
    for name in columns:
        if name not in RECORD_SCHEMA.names:
            raise choice_error("columns", name, [c.name for c in COMMON])
    histories = list(KINDS[kind](source))
    if not histories:
        raise DataError(f"{source}: no runs of kind {kind!r} here; name another with `source_kind`")
    present = {str(c) for h in histories for c in (*h.table.columns, *h.config)}
    chosen = _chosen(present, columns, source, bool(n_from))
    rows, curves, errors = [], {}, []
    for history in histories:
        try:
            record, curve = _record(history, chosen, n_from or {}, source, kind)
        except ScalelabError as error:
            if strict:
                raise
            errors.append(str(error))
            continue
        rows.append(record)
        curves[record["key"]] = curve
    if not rows:
        raise DataError(f"{errors[0]}; none of {len(errors)} runs can be used")
    return Imported(pd.DataFrame(rows), curves, tuple(errors), chosen)


def write_runs(imported: Imported, folder: str | Path) -> Imported:
    """Write records and curves below `folder`, as a sweep does, and return them with `files`; existing ones stay."""
    folder, files = Path(folder), []
    keys = [str(key) for key in imported.table["key"]]
    remove_abandoned([path(folder, key) for path in (curve_path, record_path) for key in keys])
    for record in imported.table.astype(object).to_dict("records"):
        plain = {str(k): None if pd.api.types.is_scalar(v) and pd.isna(v) else v for k, v in record.items()}
        path = record_path(folder, str(plain["key"]))
        if record_status(path) is None:
            path = write_record(folder, plain, imported.curves[plain["key"]])  # type: ignore[arg-type]
        files.append(path)
    return replace(imported, files=tuple(files))


def _chosen(present: set[str], mapped: Mapping[str, str], source: Path, sizes: bool) -> dict[str, str]:
    """Return the source of each column: as mapped, or the first declared path that some run has."""
    found = dict(mapped)
    for column in COMMON:
        if column.name in found or (column.name == "n_params" and sizes):
            continue
        here = [path for path in column.paths if path in present]
        if here:
            found[column.name] = here[0]
        elif column.required:
            close = sorted(p for p in present if column.name.removeprefix("n_")[:4] in p.lower())
            listed = known_names(close or sorted(present))
            hint = ", or give N by run name with `n_from`" if column.name == "n_params" else ""
            raise DataError(
                f"{source}: no column for {column.name}; map one with `columns={{{column.name!r}: COLUMN}}`{hint} "
                f"(there are: {listed})"
            )
    return found


def _record(
    history: History, chosen: Mapping[str, str], n_from: Mapping[str, str | float], source: Path, kind: str
) -> tuple[dict[str, Any], list[tuple[int, int | None, float]]]:
    """Return the record of a run, from the last row with a loss, and its curve."""
    constants = {k: v for k, v in history.config.items() if k not in history.table.columns}
    table = history.table.reset_index(drop=True).assign(**constants)
    where = f"{history.file}: run {history.run!r}"
    if history.table.empty:
        raise DataError(f"{where}: has no rows; it ended before it logged any, or is still being written")
    values: dict[str, pd.Series] = {}
    for column in COMMON:
        if column.name in chosen:
            found = _values(table, chosen[column.name], column, where, column.name in chosen)
            if found is not None:
                values[column.name] = found
    if n_from:
        values["n_params"] = pd.Series(_size(history.run, n_from, where), index=table.index)
    if "loss" not in values or values["loss"].isna().all():
        raise DataError(
            f"{where}: no loss in column {chosen.get('loss')!r}; map another with `columns={{'loss': COLUMN}}`"
        )
    at = int(values["loss"].last_valid_index())  # type: ignore[arg-type]  # the index is the row number
    record: dict[str, Any] = {}
    for column in COMMON:
        series = values.get(column.name)
        value = None if series is None else series.loc[:at].ffill().iloc[-1]
        if column.name == "peak_lr" and series is not None:
            value = series.max()
        value = column.default if value is None or pd.isna(value) else value
        if value is None and column.required:
            raise DataError(f"{where}: no {column.name}; give it with `columns` or `n_from`")
        if value is not None:
            record[column.name] = round(float(value)) if column.type == "count" else float(value)
    if record["loss"] <= 0 or record["n_params"] <= 0:
        raise DataError(f"{where}: N {record['n_params']:g} and loss {record['loss']:g} must be positive")
    if 0 < (record.get("n_tokens") or 0) < _TOKENS_TOO_FEW:
        reason = f"D {record['n_tokens']:g} is too small for a number of tokens"
        raise DataError(f"{where}: {reason}; map another column with `columns={{'n_tokens': COLUMN}}`")
    digest = hashlib.sha256(history.file.read_bytes() if history.file.is_file() else history.run.encode()).hexdigest()
    provenance = {
        "source": str(history.file),
        "run": history.run,
        "sha256": digest,
        "kind": kind,
        "columns": dict(chosen),
    }
    identity = json.dumps([provenance["run"], digest, dict(chosen), record["n_params"]], sort_keys=True)
    record |= {
        "key": hashlib.sha256(identity.encode()).hexdigest()[:16],
        "status": history.status,
        "corpus": source.resolve().name,
        "corpus_digest": f"import:{source.resolve().name}",
        "config": json.dumps({"imported": provenance}, sort_keys=True),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return record, _curve(table, values)


def _values(table: pd.DataFrame, path: str, column: Column, where: str, must: bool) -> pd.Series | None:
    """Return a column, or an expression over columns, as numbers; None if this run does not have it."""
    if path in table:
        return to_floats(table[path])
    try:
        return compute(path, table)[0]
    except KeyError:
        return None
    except ValueError as error:
        raise UsageError(f"{where}: {error}", argument="columns", value={column.name: path}) from None


def _size(run: str, n_from: Mapping[str, str | float], where: str) -> float:
    fits = [p for p in n_from if (fnmatch.fnmatch(run, p) if set(p) & set("*?[") else p in run)]
    if not fits:
        raise DataError(f"{where}: its name matches no pattern of `n_from` ({', '.join(n_from)}); add one")
    return parse_count(n_from[max(fits, key=len)])


def _curve(table: pd.DataFrame, values: Mapping[str, pd.Series]) -> list[tuple[int, int | None, float]]:
    loss = values["loss"]
    steps = to_floats(table["step"]) if "step" in table else pd.Series(range(len(table)), dtype=float)
    tokens = values.get("n_tokens")
    points = []
    for i in loss.index[loss.notna() & steps.notna()]:
        seen = None if tokens is None or pd.isna(tokens[i]) else round(float(tokens[i]))
        points.append((round(float(steps[i])), seen, float(loss[i])))
    return points
