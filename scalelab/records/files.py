"""Files of records: find them below a folder, read them, and check that they are intact."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scalelab.errors import DataError
from scalelab.records.schema import (
    CURVE_KIND,
    CURVE_SCHEMA,
    DIGEST_KEY,
    EVALUATION_KIND,
    KIND_KEY,
    RECORD_KIND,
    RECORD_SCHEMA,
    REQUIRED,
    content_digest,
)
from scalelab.records.text import (
    LINES,
    MOST_BYTES,
    SHEETS,
    TEXT,
    decoded,
    inner_suffix,
    lines_of,
    read_delimited,
    read_json,
    read_sheet,
    unpacked,
)
from scalelab.status import RunStatus

FORMATS = (".parquet", *TEXT, *LINES, ".json", *SHEETS)
# Folders of a sweep; checkpoints are in one folder per phase, models in one per run.
RUNS, CURVES, QUARANTINE, CHECKPOINTS, MODELS = "runs", "curves", "quarantine", "checkpoints", "models"
EVALUATIONS = "evaluations"
# Kinds of files that are no records.
BESIDE = (CURVE_KIND.decode(), EVALUATION_KIND.decode())
_KINDS = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSONL", ".ndjson": "JSONL", ".json": "JSON"} | dict.fromkeys(
    SHEETS, "Excel"
)

MOST_ROWS = 5_000_000
_SEALED = frozenset(
    {"n_tokens_streams", "n_tokens_unique", "warm_up_seconds"}
)  # columns that were added after the digest


@dataclass(frozen=True)
class Content:
    """The content of a file. `kind` is that of a sweep's file, such as "record" or "curve"; None for other tables."""

    kind: str | None
    table: pd.DataFrame


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files below `folder`, sorted, except hidden ones and those in quarantine.

    Folders below it whose names begin with ``_`` are left out, as Spark and Arrow do: they are read by their own names.
    Raises `OSError` for a folder that cannot be read, so that no file is missed silently.
    """
    found = (path for path in walk(folder) if path.suffix == ".parquet" and not path.name.startswith("."))
    return sorted(path for path in found if not any(p.startswith("_") for p in path.relative_to(folder).parts[:-1]))


def walk(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder`, including hidden ones, except those in quarantine. Raises `OSError`."""

    def fail(error: OSError) -> None:
        # A running sweep may remove checkpoints meanwhile.
        if not isinstance(error, FileNotFoundError) or Path(error.filename) == folder:
            raise error

    for path, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if name != QUARANTINE]
        yield from (Path(path) / name for name in names)


def read_file(file: Path, needed: Callable[[str], bool] | None = None) -> Content:
    """Return the table in a file, with all cells as text if it is a text file; for a loss curve only its kind.

    Of a Parquet file that no sweep wrote, only columns that are `needed` are read. Raises `DataError` naming the file.
    """
    if inner_suffix(file) == ".parquet":
        return read_parquet(file, curves=False, needed=needed)
    kind = _KINDS.get(inner_suffix(file), "text")
    try:
        content, suffix = unpacked(file)
        kind = _KINDS.get(suffix, "text")
        return Content(None, _parsed(content, suffix))
    except (OSError, ValueError, RecursionError, MemoryError, csv.Error) as error:
        raise _unreadable(file, kind, error) from None


def _parsed(content: bytes, suffix: str) -> pd.DataFrame:
    if suffix in SHEETS:
        return read_sheet(content)
    text = decoded(content)
    if suffix in LINES:
        return _read_jsonl(text)
    return read_json(text) if suffix == ".json" else read_delimited(text, suffix)


def read_parquet(file: Path, curves: bool = True, needed: Callable[[str], bool] | None = None) -> Content:
    """Return the table in a Parquet file; a file of a sweep is verified by its digest.

    Without `curves`, a loss curve is returned as its kind only. Of a table that no sweep wrote only the `needed`
    columns are read; `table.attrs["columns"]` lists all. Raises `DataError` naming a file that cannot
    be read, was changed after it was written, or is in the wrong folder of a sweep.
    """
    try:
        if not file.is_file():  # a pipe would block
            raise OSError("no such file" if not file.exists() else "not a regular file")
        # Single-threaded: an Arrow thread may still hold buffers of Python's stream after the read, and would
        # abort the process (std::terminate) if it released them while the interpreter shuts down.
        options: dict = {"pre_buffer": False, "page_checksum_verification": True}
        with file.open("rb") as stream, pq.ParquetFile(stream, **options) as opened:
            metadata = opened.schema_arrow.metadata or {}
            kind = metadata.get(KIND_KEY)
            names = opened.schema_arrow.names
            foreign = kind is None and DIGEST_KEY not in metadata and sweep_folder(file) is None
            some = needed is not None and foreign and len(names) == len(set(names))
            unread = [name for name in names if not needed(name)] if some and needed is not None else []
            wanted = [name for name in names if name not in unread] if unread else None
            table = _read_columns(opened, wanted) if curves or kind != CURVE_KIND else None
        if DIGEST_KEY in metadata and table is not None and metadata[DIGEST_KEY] != content_digest(table):
            raise ValueError("it was changed after it was written")
        if kind not in (RECORD_KIND, CURVE_KIND, EVALUATION_KIND) and (kind is not None or DIGEST_KEY in metadata):
            raise ValueError("its kind must be record, curve or evaluation")
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _unreadable(file, "Parquet", error) from None
    _check_place(file, kind, table)
    if sweep_folder(file) is not None and DIGEST_KEY not in metadata:
        _check_seal(file, metadata, table)
    if kind == RECORD_KIND and table is not None:
        table = _with_typed_nulls(table)
    frame = pd.DataFrame() if table is None else _to_pandas(table)
    frame.attrs["columns"] = list(names)
    return Content(None if kind is None else kind.decode(), frame)


def _read_columns(opened: pq.ParquetFile, names: list[str] | None) -> pa.Table:
    """Return the columns `names` of a file, or all of them, unless they may not fit in memory.

    Raises:
        ValueError: The table is too large: half a megabyte can hold forty million rows.
    """
    metadata = opened.metadata
    if metadata.num_rows > MOST_ROWS:
        raise ValueError(
            f"it has {metadata.num_rows:,} rows, above the limit of {MOST_ROWS:,}; keep the last point of each run"
        )
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if size <= MOST_BYTES:
        return opened.read(names, use_threads=False)
    if names is None:
        raise _too_large(size)
    # Not by the sizes of single columns: in damaged metadata they crash the process.
    batches, size = [], 0
    for batch in opened.iter_batches(columns=names, use_threads=False):
        batches.append(batch)
        size += batch.nbytes
        if size > MOST_BYTES:
            raise _too_large(size)
    return pa.Table.from_batches(batches)


def _too_large(size: int) -> ValueError:
    return ValueError(f"it has {size / 2**30:.1f} GiB unpacked, above the limit of {MOST_BYTES / 2**30:g} GiB")


def _with_typed_nulls(table: pa.Table) -> pa.Table:
    """Return `table` with the schema's types for all-null columns, whose types the digest does not cover."""
    for i, field in enumerate(table.schema):
        wanted = RECORD_SCHEMA.field(field.name).type if field.name in RECORD_SCHEMA.names else field.type
        if field.type != wanted and table.column(i).null_count == len(table):
            table = table.set_column(i, pa.field(field.name, wanted), pa.nulls(len(table), wanted))
    return table


def read_record(file: Path) -> dict[str, Any]:
    """Return one run's record, with its status filled in. Raises `DataError` naming a file without one."""
    found = read_parquet(file)
    if len(found.table) != 1 or not {*REQUIRED} <= {*found.table}:
        raise DataError(f"{file}: not the record of a run; {_advice(file)}")
    record = {str(name): value for name, value in found.table.iloc[0].items()}
    return record | {"status": RunStatus.OK if pd.isna(record.get("status")) else record["status"]}


def read_curve(file: Path) -> pd.DataFrame:
    """Return a loss curve with columns step, n_tokens and loss (nats per token). Raises `DataError` naming the file."""
    found = read_parquet(file)
    if found.kind != CURVE_KIND.decode() or list(found.table) != CURVE_SCHEMA.names:
        raise DataError(f"{file}: not a loss curve; {_advice(file)}")
    return found.table


def sweep_folder(file: Path) -> Path | None:
    """Return the folder of the sweep whose records or loss curves `file` is among, or None.

    Requires both folders, since one called runs or curves alone may be unrelated.
    """
    parent = file.absolute().parent
    partner = {RUNS: CURVES, CURVES: RUNS}.get(parent.name)
    return file.parent.parent if partner and (parent.parent / partner).is_dir() else None


def _check_place(file: Path, kind: bytes | None, table: pa.Table | None) -> None:
    """Raise `DataError` unless runs/KEY.parquet is the record of run KEY, or curves/KEY.parquet a loss curve."""
    folder = file.absolute().parent.name
    if folder not in (RUNS, CURVES) or ((folder == CURVES or kind is None) and sweep_folder(file) is None):
        return
    if folder == CURVES:
        if kind != CURVE_KIND:
            raise DataError(f"{file}: not a loss curve; {_advice(file)}")
        return
    if kind in (CURVE_KIND, EVALUATION_KIND) or table is None or "key" not in table.column_names:
        what = "a loss curve" if kind == CURVE_KIND else "another table"
        raise DataError(f"{file}: {what} in place of a run's record; {_advice(file)}")
    keys = table.column("key").to_pylist()
    if keys != [file.stem]:
        held = repr(keys[0]) if len(keys) == 1 else f"{len(keys)} rows"
        raise DataError(f"{file}: has the record of another run ({held}); rename it, or {_advice(file)}")


def _check_seal(file: Path, metadata: Mapping[bytes, bytes], table: pa.Table | None) -> None:
    """Raise `DataError` if a record lost its digest; only records of the first versions have none."""
    if b"pandas" in metadata or (table is not None and not _SEALED.isdisjoint(table.column_names)):
        raise DataError(
            f"{file}: its checksum is missing, so it was changed after the sweep wrote it; restore it, or "
            f"{_advice(file)}"
        )


def _unreadable(file: Path, kind: str, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    reason = (str(reason).splitlines() or ["unknown"])[0]
    return DataError(f"{file}: not a readable {kind} file ({reason}); {_advice(file)}")


def _advice(file: Path) -> str:
    folder = sweep_folder(file)
    return f"move it away{f' (scalelab results check {folder} finds all such files)' if folder else ' or repair it'}"


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    # Without pandas' metadata, so that a saved index stays a column.
    names = [f"column {i}" for i in range(len(table.column_names))]
    frame = table.rename_columns(names).to_pandas(ignore_metadata=True, use_threads=False)
    return frame.set_axis(table.column_names, axis=1)


def _read_jsonl(text: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(lines_of(text), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            rows.append(row)
    return pd.json_normalize(rows) if rows else pd.DataFrame()
