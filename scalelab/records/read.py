"""Read records: of a folder, a file, a pandas table, or a set shipped with the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scalelab.errors import DataError, UsageError
from scalelab.records.paper import NAME, paper_records
from scalelab.records.schema import RECORD_SCHEMA, REQUIRED
from scalelab.records.table import FORMATS, Rejected, read_file, to_records

Source = str | Path | pd.DataFrame


@dataclass(frozen=True)
class Table:
    """What was read: usable records, the rows that are none with the reason, and a count of rows left out."""

    records: pd.DataFrame
    rejected: tuple[Rejected, ...]
    left_out: int  # rows that `where` did not ask for


def read(source: Source, columns: Mapping[str, str] | None = None, where: str | None = None) -> Table:
    """Every record of `source`, in a stable order.

    A folder is read for the Parquet files below it; a file may also be CSV, TSV or JSONL. `columns`
    says where to find what: ``{"n_params": "N", "loss": "val_loss"}``. `where` chooses rows:
    ``"n_tokens > 100M"``. Columns of the result are those of `RECORD_SCHEMA` (missing ones null)
    and `file`. A sweep's record found twice (same key, same numbers) counts once. Raises `UsageError` for a
    source, column name or condition that is none, `DataError` naming the file that cannot be used.
    """
    columns = columns or {}
    for name in columns:
        if name not in RECORD_SCHEMA.names:
            raise UsageError(f"--map {name}: no such column; choose one of {', '.join(RECORD_SCHEMA.names)}")
    frames, own, rejected, left_out = [], [], [], 0
    for table, file, sweeps in _tables(source):
        records, bad, unwanted = to_records(table, file, columns, where)
        frames.append(records)
        own += [sweeps] * len(records)
        rejected += bad
        left_out += unwanted
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        raise _nothing(source, rejected, left_out, where)
    records = _without_copies(pd.concat(frames, ignore_index=True), np.array(own))
    return Table(records, tuple(rejected), left_out)


def load(source: Source, columns: Mapping[str, str] | None = None, where: str | None = None) -> pd.DataFrame:
    """`read(...).records`, where every row must be usable: raises `DataError` naming the first that is not."""
    table = read(source, columns, where)
    if table.rejected:
        raise DataError(f"{table.rejected[0]} ({len(table.rejected)} such rows); remove or mend them")
    return table.records


def _tables(source: Source) -> Iterator[tuple[pd.DataFrame, str, bool]]:
    """Each table, its name, and whether a sweep wrote it."""
    if isinstance(source, pd.DataFrame):
        yield source, "table", False
        return
    path = Path(source)
    if str(source) == NAME and not path.exists():
        yield paper_records(), NAME, True
        return
    if path.is_file():
        files = [path]
        if path.suffix.lower() not in FORMATS:
            raise UsageError(f"{path}: not a table; give a file that ends in {', '.join(FORMATS)}")
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*.parquet") if not p.name.startswith("."))
    else:
        raise UsageError(f"{path}: no such file or folder")
    for file in files:
        found = read_file(file)
        if found is not None:
            yield found[0], str(file), found[1]


def _nothing(source: Source, rejected: list[Rejected], left_out: int, where: str | None) -> Exception:
    name = "the table" if isinstance(source, pd.DataFrame) else source
    if left_out:
        return UsageError(f"{name}: no row satisfies --where {where!r} ({left_out} do not)")
    if rejected:
        return DataError(f"{rejected[0]}; none of {len(rejected)} rows can be used")
    if isinstance(source, pd.DataFrame) or not Path(source).is_dir():
        return UsageError(f"{name}: no rows in it")
    return UsageError(f"{name}: no records (*.parquet) here; make some with: scalelab sweep --out {name}")


def _without_copies(records: pd.DataFrame, sweeps: np.ndarray) -> pd.DataFrame:
    """Each record of a sweep once; foreign tables may mean anything by `key`. `sweeps` says which are, bool [n]."""
    own = records[records["key"].notna() & sweeps]
    copies = own.duplicated(["key", *REQUIRED])
    rest = own[~copies]
    conflict = rest[rest.duplicated("key", keep=False)]
    if len(conflict):
        key, files = conflict["key"].iloc[0], conflict["file"].iloc[:2].tolist()
        raise DataError(
            f"{files[0]} and {files[1]}: two different records have the key {key!r}; "
            "a key names one run: keep one of them"
        )
    return records.drop(index=own.index[copies]).reset_index(drop=True)
