"""Records written to disk: atomically, one Parquet file a run."""

from __future__ import annotations

import errno
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalelab.records.files import CURVES, RUNS, read_record
from scalelab.records.schema import CURVE_SCHEMA, DIGEST_KEY, RECORD_SCHEMA, content_digest
from scalelab.status import RunStatus

_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{32}\.tmp$")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write `path` through: it appears there complete, or what was there stays.

    What a killed process leaves behind is a hidden file that no reader looks at (`is_temporary`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether `path` is named like a file that `whole_file` had not finished."""
    return _TEMPORARY.match(path.name) is not None


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
            raise
    finally:
        os.close(handle)


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows to `path` so that a reader sees the whole file or none, and notices any change to it."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    table = table.replace_schema_metadata({**(schema.metadata or {}), DIGEST_KEY: content_digest(table)})
    with whole_file(path) as file:
        pq.write_table(table, file, write_page_checksum=True)


def record_path(folder: Path, key: str) -> Path:
    return folder / RUNS / f"{key}.parquet"


def curve_path(folder: Path, key: str) -> Path:
    return folder / CURVES / f"{key}.parquet"


def record_status(path: Path) -> str | None:
    """The status of the run whose record is at `path`; None where there is no such file.

    Raises `DataError` naming the file if it holds no record, or another run's.
    """
    if not path.exists() and not path.is_symlink():
        return None
    return read_record(path)["status"]


def write_record(folder: Path, record: Mapping[str, Any], curve: list[tuple[int, int, float]]) -> Path:
    """Write one run below `folder`, whatever became of it: first its loss curve, if it got so far, then its record.

    A record that is ok is the mark of a finished run, and is never replaced by one that is not: then
    nothing is written. Returns the record's path. Raises `ValueError` for an unknown status or a run that
    is ok and has no loss, `DataError` naming the file if what stands there cannot be read.
    """
    status, loss = record.get("status") or RunStatus.OK, record.get("loss")
    if status not in [*RunStatus]:
        raise ValueError(f"status {status!r} is none of {', '.join(RunStatus)}")
    if status == RunStatus.OK and (loss is None or (isinstance(loss, float) and not math.isfinite(loss))):
        raise ValueError(f"the record {record['key']!r} is {RunStatus.OK} and its loss is {loss}")
    path = record_path(folder, record["key"])
    if status != RunStatus.OK and record_status(path) == RunStatus.OK:
        return path
    if curve or status == RunStatus.OK:
        rows = [dict(zip(CURVE_SCHEMA.names, point, strict=True)) for point in curve]
        write_table(curve_path(folder, record["key"]), rows, CURVE_SCHEMA)
    write_table(path, [record], RECORD_SCHEMA)
    return path
