"""Records written to disk: atomically, one Parquet file a run."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalelab.records.schema import CURVE_SCHEMA, RECORD_SCHEMA


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
