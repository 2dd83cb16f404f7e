"""Records on disk: written atomically, one Parquet file a run; read from any folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scalelab.errors import DataError, UsageError
from scalelab.records.schema import CURVE_KIND, CURVE_SCHEMA, KIND_KEY, RECORD_SCHEMA, REQUIRED, conform


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows to `path` so that a reader sees the whole file or none."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def record_path(folder: Path, key: str) -> Path:
    return folder / "runs" / f"{key}.parquet"


def write_record(folder: Path, record: Mapping[str, Any], curve: list[tuple[int, int, float]]) -> Path:
    """Write one finished run below `folder`: first its loss curve, then its record.

    The record's file is the mark of a finished run. Returns its path.
    """
    names = CURVE_SCHEMA.names
    rows = [dict(zip(names, point, strict=True)) for point in curve]
    write_table(folder / "curves" / f"{record['key']}.parquet", rows, CURVE_SCHEMA)
    path = record_path(folder, record["key"])
    write_table(path, [record], RECORD_SCHEMA)
    return path


def read_records(source: str | Path) -> pd.DataFrame:
    """Every record of a Parquet file, or of all those below a folder, in a stable order.

    Columns are those of `RECORD_SCHEMA` (missing ones null) and `file`. A record found twice
    (same key) counts once. Raises `UsageError` for a path that is not there or holds no
    records, and `DataError` naming file and column for one that cannot be used.
    """
    source = Path(source)
    if source.is_file():
        files = [source]
    elif source.is_dir():
        files = sorted(p for p in source.rglob("*.parquet") if not p.name.startswith("."))
    else:
        raise UsageError(f"{source}: no such file or folder")
    frames = [frame for frame in map(_read_file, files) if frame is not None]
    if not frames:
        raise UsageError(f"{source}: no records here; make some with: scalelab sweep --out {source}")
    records = pd.concat(frames, ignore_index=True)
    keyed = records["key"].notna()
    return records[~(keyed & records.duplicated("key"))].reset_index(drop=True)


def _read_file(file: Path) -> pd.DataFrame | None:
    """The records of one file, checked; None for a loss curve."""
    try:
        table = pq.ParquetFile(file).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file}: not a readable Parquet file ({reason}); move it away or restore it") from None
    if (table.schema.metadata or {}).get(KIND_KEY) == CURVE_KIND:
        return None
    for name in REQUIRED:
        if name not in table.column_names:
            have = ", ".join(table.column_names)
            raise DataError(f"{file}: no column {name!r} (it has: {have}); rename the column that holds it")
    frame = table.to_pandas()
    for name in REQUIRED:
        _check_positive(file, name, frame[name])
    return conform(frame).assign(file=str(file))


def _check_positive(file: Path, name: str, column: pd.Series) -> None:
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{file}: column {name!r}, row {row + 1}: {column.tolist()[row]!r} is not a positive number "
            f"({int(bad.sum())} such of {len(bad)} rows); remove or mend the row"
        )
