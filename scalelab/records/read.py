"""Read records from a folder, a file, a pandas table, or the data set in the package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import pandas as pd

from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.records.files import BESIDE, CHECKPOINTS, FORMATS, MODELS, RUNS, parquet_files, read_file, walk
from scalelab.records.names import ALIASES, comparable, needed_columns
from scalelab.records.numbers import to_floats
from scalelab.records.paper import NAME, paper_records
from scalelab.records.schema import RECORD_KIND, RECORD_SCHEMA, conform, describe_statuses
from scalelab.records.table import Rejected, Rows, to_records
from scalelab.records.text import PACKED, inner_suffix
from scalelab.shown import Shown
from scalelab.units import plural

Source = str | Path | pd.DataFrame
_Batch = list[tuple[pd.DataFrame, str]]  # tables with their names
_REPEATS = 0.01  # difference of losses, as a share, up to which records of one key are repeats of its run


@dataclass(frozen=True)
class RunTable(Shown):
    """The result of reading: records of runs that are ok, of other runs, and rejected rows.

    Only `records` are fitted. `others` have the same columns, and may lack a loss.
    """

    records: pd.DataFrame
    rejected: tuple[Rejected, ...]  # unusable rows, with the reason
    left_out: int  # number of rows that `where` excluded
    others: pd.DataFrame = field(default_factory=lambda: conform(pd.DataFrame()).assign(file=""))
    notes: tuple[str, ...] = ()  # recognised and unused columns of the user's table
    columns: Mapping[str, str] = field(default_factory=dict)  # column of the schema: name in the user's table

    _report: ClassVar[str] = "scalelab.reports.runs:table_report"

    def to_frame(self) -> pd.DataFrame:
        """Return the records of runs that are ok."""
        return self.records

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        rejected = plural(len(self.rejected), "row")
        return f"<RunTable of {plural(len(self.records), 'run')}, {rejected} not usable, {len(self.others)} not ok>"

    @property
    def unfinished(self) -> dict[str, int]:
        """Number of runs that are not ok, by status."""
        return {str(status): int(count) for status, count in self.others["status"].value_counts().items()}


def read(
    source: Source,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    keep: Mapping[str, str] | None = None,
) -> RunTable:
    """Read all records of `source`, in a stable order.

    In a folder, all Parquet files below it are read, except those in quarantine, or if there are none, tables of
    other formats. A file may be Parquet, CSV, TSV, text, JSON, JSONL or Excel, compressed or not. `columns` maps or
    computes columns: ``{"n_params": "N", "loss": "ln(ppl)"}``; columns with usual names are recognised without it.
    `where` selects rows: ``"n_tokens > 100M"``. The result has the columns of `RECORD_SCHEMA` (null if missing) and
    `file`. `keep` adds columns of numbers under other names. A record of a sweep that occurs twice (same key and
    numbers) is used once.

    Raises:
        UsageError: `source`, a column name or the condition does not exist or is not valid.
        DataError: a file cannot be used, or no run is ok.
    """
    table = gather(source, columns, where, keep=keep)
    if len(table.records):
        return table
    if len(table.others):
        name = "the table" if isinstance(source, pd.DataFrame) else source
        raise DataError(f"{name}: no run is ok, so there is no loss to fit ({describe_statuses(table.unfinished)})")
    raise nothing_there(source, table, where)


def gather(
    source: Source,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    faults: list[DataError] | None = None,
    keep: Mapping[str, str] | None = None,
) -> RunTable:
    """Read records as `read` does, also from a source without a run that is ok, or without any run.

    With `faults`, errors of unusable files are appended to it, and the files are skipped.
    """
    columns = columns or {}
    keep = {name: source for name, source in (keep or {}).items() if name not in RECORD_SCHEMA.names}
    for name in columns:
        if name not in RECORD_SCHEMA.names:
            reason = f"no such column; choose one of {', '.join(RECORD_SCHEMA.names)}"
            raise UsageError(reason, argument="columns", value=name)
    frames, others, rejected, left_out = [], [], [], 0
    notes: dict[str, None] = {}
    sources: dict[str, str] = dict(columns)
    needed = needed_columns([*columns, *columns.values(), *keep.values(), *([where] if where else [])])
    for batch, own in _batches(_tables(source, faults, needed)):
        for rows in _rows(batch, columns, where, faults, own, keep):
            notes |= dict.fromkeys(rows.notes)
            sources |= rows.columns
            frames.append(rows.records.assign(own=own))
            others.append(rows.unfinished.assign(own=own))
            rejected += rows.rejected
            left_out += rows.left_out
    records, repeated = _without_copies(_stacked(frames), faults)
    notes[repeated] = None
    unfinished = _stacked(others)
    # A failed run that was repeated with success, here or in another folder, is not missing.
    again = unfinished["own"] & (unfinished["key"].isin(records["key"].dropna()) | unfinished.duplicated("key"))
    unfinished = unfinished[~(again & unfinished["key"].notna())]
    return RunTable(
        records.drop(columns="own").reset_index(drop=True),
        tuple(rejected),
        left_out,
        unfinished.drop(columns="own").reset_index(drop=True),
        tuple(note for note in notes if note),
        sources,
    )


def load(source: Source, columns: Mapping[str, str] | None = None, where: str | None = None) -> pd.DataFrame:
    """Return `read(...).records`. Raises `DataError` naming the first row that cannot be used, if any."""
    table = read(source, columns, where)
    if table.rejected:
        raise DataError(f"{table.rejected[0]} ({plural(len(table.rejected), 'such row')}); remove or correct them")
    return table.records


def _tables(
    source: Source, faults: list[DataError] | None, needed: Callable[[str], bool]
) -> Iterator[tuple[pd.DataFrame, str, bool]]:
    """Yield each table, its name, and true if a sweep wrote it."""
    if isinstance(source, pd.DataFrame):
        yield source, "table", False
        return
    path = Path(source)
    if str(source) == NAME and not path.exists():
        yield paper_records(), NAME, True
        return
    if path.is_file():
        files = [path]
        if inner_suffix(path) not in (*FORMATS, *PACKED):
            raise UsageError(f"{path}: not a table; its name must end in one of {', '.join(FORMATS)}")
    elif path.is_dir():
        files = parquet_files(path)
        if not files:
            files = sorted(f for f in walk(path) if inner_suffix(f) in FORMATS and not _is_kept_beside(f, path))
    else:
        raise UsageError(f"{path}: no such file or folder")
    foreign: _Batch = []
    for file in files:
        try:
            found = read_file(file, needed)
        except DataError as error:
            if faults is None:
                raise
            faults.append(error)
            continue
        if found.kind == RECORD_KIND.decode():
            yield found.table, str(file), True
        elif found.kind not in BESIDE:
            foreign.append((found.table, str(file)))
    for table, file in _one_per_run(foreign, source):
        yield table, file, False


def _is_kept_beside(file: Path, folder: Path) -> bool:
    """Return true if `file` is hidden, or belongs to a sweep without being a record: checkpoints, models, logs."""
    parts = file.relative_to(folder).parts
    is_sweep = any((folder / name).is_dir() for name in (RUNS, ".locks"))
    own = {CHECKPOINTS, MODELS, "logs", "tensorboard"} if is_sweep else set()
    return any(part.startswith(".") for part in parts) or not own.isdisjoint(parts[:-1])


def _one_per_run(tables: _Batch, source: Source) -> _Batch:
    """Return `tables` concatenated if each is one run: a single row, or a curve with steps; else unchanged."""
    if len(tables) < 2:
        return tables
    single = all(len(table) == 1 for table, _ in tables)
    curves = all(_has_steps(table) for table, _ in tables)
    if not (single or curves):
        return tables
    named = []
    for table, file in tables:
        stem = str(Path(file).relative_to(str(source)).with_suffix(""))
        named.append(table if "run" in table or single else table.assign(run=stem))
    return [(pd.concat(named, ignore_index=True), str(source))]


def _has_steps(table: pd.DataFrame) -> bool:
    steps = [c for c in table.columns if comparable(c) in ("step", *ALIASES["step"])]
    return len(table) > 1 and len(steps) == 1 and to_floats(table[steps[0]]).is_monotonic_increasing


def _batches(tables: Iterable[tuple[pd.DataFrame, str, bool]]) -> Iterator[tuple[_Batch, bool]]:
    """Yield batches of tables with their names, and true if sweeps wrote them: sweep tables in one batch."""
    for own, some in groupby(tables, key=lambda each: each[2]):
        batch = [(table, file) for table, file, _ in some]
        yield from [(batch, own)] if own else [([each], own) for each in batch]


def _rows(
    batch: _Batch,
    columns: Mapping[str, str],
    where: str | None,
    faults: list[DataError] | None,
    own: bool,
    keep: Mapping[str, str],
) -> Iterator[Rows]:
    """Yield the rows of a batch: of all tables at once, which is much faster, or one by one to locate an error."""
    if len(batch) > 1:
        files = [file for table, file in batch for _ in range(len(table))]
        with suppress(ScalelabError):
            rows = to_records(
                pd.concat([table for table, _ in batch], ignore_index=True), "", columns, where, own, keep
            )
            if not rows.rejected:
                for frame in (rows.records, rows.unfinished):
                    frame["file"] = pd.Series([files[i] for i in frame.index], index=frame.index, dtype=object)
                yield rows
                return
    for table, file in batch:
        try:
            yield to_records(table, file, columns, where, own, keep)
        except DataError as error:
            if faults is None:
                raise
            faults.append(error)


def nothing_there(source: Source, table: RunTable, where: str | None) -> Exception:
    """Return the error to raise if `table`, read from `source`, has no run."""
    name = "the table" if isinstance(source, pd.DataFrame) else source
    if table.left_out:
        return UsageError(f"{name}: none of {plural(table.left_out, 'row')} satisfies `where={where!r}`")
    if table.rejected:
        return DataError(f"{table.rejected[0]}; none of {plural(len(table.rejected), 'row')} can be used")
    if isinstance(source, pd.DataFrame) or not Path(source).is_dir():
        return UsageError(f"{name}: the table has no rows")
    return UsageError(f"{name}: no records (*.parquet) here; run a sweep first with `run_sweep`")


def _stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    if filled:
        return pd.concat(filled, ignore_index=True)
    return conform(pd.DataFrame()).assign(file="", own=False).astype({"file": "string", "own": bool})


def _without_copies(records: pd.DataFrame, faults: list[DataError] | None) -> tuple[pd.DataFrame, str]:
    """Return `records` with one record of each run of a sweep, and a note if repeated runs have other losses.

    Repeats on another machine differ by rounding, which training can amplify; the first record is kept. In other tables
    `key` has no meaning.
    """
    own = records[records["key"].notna() & records["own"]]
    repeats = own[own.duplicated("key", keep=False)]
    if not len(repeats):
        return records, ""
    runs = repeats.groupby("key", sort=False)
    spread = runs["loss"].max() - runs["loss"].min()
    same = (runs[["n_params", "n_streams"]].nunique() == 1).all(axis=1) & (spread <= _REPEATS * runs["loss"].min())
    if not same.all():
        key = same.index[~same][0]
        files = repeats.loc[repeats["key"] == key, "file"].tolist()
        error = DataError(
            f"{files[0]} and {files[1]}: two different records have the key {key!r}; "
            "a key identifies one run, so keep one of them"
        )
        if faults is None:
            raise error
        faults.append(error)
    note = (
        f"{plural(int((spread > 0).sum()), 'run')} with several records, whose losses differ by up to "
        f"{spread.max():.2g}: the first of each is used"
    )
    return records.drop(index=own.index[own.duplicated("key")]), note if spread.max() > 0 else ""
