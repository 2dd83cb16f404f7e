"""Records on disk: written atomically, one Parquet file a run; read from any folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scalelab.errors import DataError, UsageError
from scalelab.records.schema import (
    CURVE_KIND,
    CURVE_SCHEMA,
    KIND_KEY,
    PLAUSIBLE_LOSS,
    POSITIVE,
    RECORD_SCHEMA,
    REQUIRED,
    conform,
)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write `path` through: it appears there complete, or what was there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows to `path` so that a reader sees the whole file or none."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    with whole_file(path) as file:
        pq.write_table(table, file)


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
    (same key, same numbers) counts once. Raises `UsageError` for a path that is not there or
    holds no records, and `DataError` naming file and column for one that cannot be used.
    """
    source = Path(source)
    if source.is_file():
        files = [source]
    elif source.is_dir():
        files = sorted(p for p in source.rglob("*.parquet") if not p.name.startswith("."))
    else:
        raise UsageError(f"{source}: no such file or folder")
    frames = [frame for frame in map(_read_file, files) if frame is not None and len(frame)]
    if not frames:
        raise UsageError(f"{source}: no records here; make some with: scalelab sweep --out {source}")
    return _without_copies(pd.concat(frames, ignore_index=True))


def _without_copies(records: pd.DataFrame) -> pd.DataFrame:
    keyed = records[records["key"].notna()]
    copies = keyed.duplicated(["key", *REQUIRED])
    rest = keyed[~copies]
    conflict = rest[rest.duplicated("key", keep=False)]
    if len(conflict):
        key, files = conflict["key"].iloc[0], conflict["file"].iloc[:2].tolist()
        raise DataError(
            f"{files[0]} and {files[1]}: two different records have the key {key!r}; "
            "a key names one run: keep one of them"
        )
    return records.drop(index=keyed.index[copies]).reset_index(drop=True)


def _read_file(file: Path) -> pd.DataFrame | None:
    """The records of one file, checked; None for a loss curve."""
    try:
        table = pq.ParquetFile(file).read()
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise DataError(f"{file}: not a readable Parquet file ({reason}); move it away or restore it") from None
    if (table.schema.metadata or {}).get(KIND_KEY) == CURVE_KIND:
        return None
    have = table.column_names
    for name in REQUIRED:
        if have.count(name) != 1:
            problem = "no column" if name not in have else "more than one column"
            raise DataError(f"{file}: {problem} {name!r} (it has: {', '.join(have)}); rename the column that holds it")
    known = table.select([name for name in RECORD_SCHEMA.names if have.count(name) == 1])
    # Without pandas' own metadata: an index that was saved stays a column.
    frame = known.to_pandas(ignore_metadata=True)
    for field in RECORD_SCHEMA:
        if field.name in frame and not pa.types.is_string(field.type) and not pa.types.is_list(field.type):
            frame[field.name] = _numbers(file, field, frame[field.name])
    return conform(frame).assign(file=str(file))


def _numbers(file: Path, field: pa.Field, column: pd.Series) -> pd.Series:
    """`column` as numbers; counts and the required columns must be positive, counts whole."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    bad = values.isna() & column.notna() | np.isinf(values)
    wish = "a number"
    if field.name in REQUIRED:
        bad |= values.isna()
    if field.name in POSITIVE:
        bad |= values <= 0
        wish = "a positive number"
    if pa.types.is_integer(field.type):
        bad |= values.notna() & ((values % 1 != 0) | (values >= 2**63))
        wish = wish.replace("number", "whole number")
    if field.name == "loss":
        bad |= ~values.between(*PLAUSIBLE_LOSS)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{file}: column {field.name!r}, row {row + 1}: {column.tolist()[row]!r} is not {wish} "
            f"({int(bad.sum())} such of {len(bad)} rows); remove or mend the row"
        )
    whole = pa.types.is_integer(field.type) and not values.isna().any()
    return values.astype("int64") if whole else values
