"""Write records to disk: atomically, one Parquet file per run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalelab.atomic import atomic_write
from scalelab.errors import ScalelabError
from scalelab.records.files import CURVES, RUNS, read_record
from scalelab.records.schema import CURVE_SCHEMA, DIGEST_KEY, content_digest, is_accuracy_column, schema_of
from scalelab.status import RunStatus


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows to `path` atomically, with a digest by which readers detect later changes."""
    table = _as_table(rows, schema)
    table = table.replace_schema_metadata({**(schema.metadata or {}), DIGEST_KEY: content_digest(table)})
    with atomic_write(path, clean=False) as file:  # a folder of many records would be listed for each
        pq.write_table(table, file, write_page_checksum=True)


def check_record(record: Mapping[str, Any]) -> None:
    """Raise `ScalelabError` if `record` cannot be written, so that a run fails early."""
    _as_table([record], schema_of(record))


def _as_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    rows = list(rows)
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:  # UnicodeError is a ValueError
        for field in schema:
            try:
                pa.array([row.get(field.name) for row in rows], field.type)
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                values = next((row[field.name] for row in rows if row.get(field.name) is not None), None)
                raise ScalelabError(f"{field.name} {values!a:.200} cannot be in a record: {error}") from None
        raise ScalelabError(f"the record cannot be written: {error}") from None


def record_path(folder: Path, key: str) -> Path:
    """Return the path of the record of run `key` in the sweep folder `folder`."""
    return folder / RUNS / f"{key}.parquet"


def curve_path(folder: Path, key: str) -> Path:
    """Return the path of the loss curve of run `key` in the sweep folder `folder`."""
    return folder / CURVES / f"{key}.parquet"


def record_status(path: Path) -> str | None:
    """Return the status of the run whose record is at `path`; None if there is no such file.

    Raises `DataError` naming the file if it is not a record, or that of another run.
    """
    if not path.exists() and not path.is_symlink():
        return None
    return read_record(path)["status"]


def write_record(folder: Path, record: Mapping[str, Any], curve: list[tuple[int, int, float]]) -> Path:
    """Write one run of any status below `folder`, first its loss curve, if there is one, then its record.

    A record that is ok marks a finished run and is never replaced by one that is not; then nothing is
    written. Accuracies of an older record of the run are kept.

    Returns:
        The path of the record.

    Raises:
        ValueError: the status is unknown, or it is ok without a loss.
        DataError: the existing record cannot be read.
    """
    status, loss = record.get("status") or RunStatus.OK, record.get("loss")
    if status not in [*RunStatus]:
        raise ValueError(f"status {status!r} must be one of {', '.join(RunStatus)}")
    if status == RunStatus.OK and (loss is None or (isinstance(loss, float) and not math.isfinite(loss))):
        raise ValueError(f"the record {record['key']!r} is {RunStatus.OK}, so its loss must be finite, not {loss}")
    path = record_path(folder, record["key"])
    old_status = record_status(path)
    if status != RunStatus.OK and old_status == RunStatus.OK:
        return path
    if old_status == RunStatus.OK:  # the run was trained again, for example to save its model
        record = {name: value for name, value in _row(path).items() if is_accuracy_column(name)} | dict(record)
    if curve or status == RunStatus.OK:
        rows = [dict(zip(CURVE_SCHEMA.names, point, strict=True)) for point in curve]
        write_table(curve_path(folder, record["key"]), rows, CURVE_SCHEMA)
    write_table(path, [record], schema_of(record))
    return path


def update_record(folder: Path, key: str, columns: Mapping[str, Any]) -> Path:
    """Add `columns` to the record of the finished run `key`, and return its path. Raises `DataError`."""
    path = record_path(folder, key)
    read_record(path)  # verifies it
    record = _row(path) | dict(columns)
    write_table(path, [record], schema_of(record))
    return path


def _row(path: Path) -> dict[str, Any]:
    """Return the columns of a record that was verified, with None for missing values."""
    with path.open("rb") as stream, pq.ParquetFile(stream, pre_buffer=False) as opened:
        return opened.read(use_threads=False).to_pylist()[0]
