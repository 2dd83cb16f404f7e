"""Convert tables to records: map columns, select and check rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa

from scalelab.errors import DataError, UsageError
from scalelab.records.evaluations import with_errors
from scalelab.records.expressions import all_columns, compute, is_expression, known_names, rows_where
from scalelab.records.names import recognise, source_words
from scalelab.records.numbers import to_floats
from scalelab.records.runs import find_runs
from scalelab.records.schema import (
    NEEDED,
    ONLY_MAPPED,
    PLAUSIBLE,
    POSITIVE,
    RECORD_SCHEMA,
    REQUIRED,
    USED,
    VARIABLE_COLUMNS,
    conform,
)
from scalelab.status import RunStatus

# Statuses of experiment trackers. A run that is still running has no equivalent, as its loss is not final.
_SAME = (
    dict.fromkeys(("finished", "completed", "complete", "success", "succeeded", "successful", "done"), RunStatus.OK)
    | dict.fromkeys(("crashed", "error", "errored", "failure", "nan"), RunStatus.FAILED)
    | dict.fromkeys(
        ("killed", "cancelled", "canceled", "timeout", "timed_out", "preempted", "stopped"), RunStatus.INTERRUPTED
    )
    | dict.fromkeys(("oom", "out_of_mem"), RunStatus.OUT_OF_MEMORY)
    | {"diverging": RunStatus.DIVERGED}
)
_ROUNDED = 1.01  # counts such as 1.2B are rounded


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used, with the reason. Rows are numbered from 1, without the header."""

    file: str
    row: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: column {self.column!r}, row {self.row}: {self.value} is not {self.reason}"


@dataclass(frozen=True)
class Rows:
    """The rows of one table, sorted by use."""

    records: pd.DataFrame  # of runs that are ok
    unfinished: pd.DataFrame  # of other runs, which may lack a loss
    rejected: list[Rejected]
    left_out: int  # number of rows that `where` excluded
    notes: tuple[str, ...] = ()  # recognised and unused columns
    columns: Mapping[str, str] = field(default_factory=dict)  # column of the schema: name in the table


def to_records(
    table: pd.DataFrame,
    file: str,
    columns: Mapping[str, str],
    where: str | None,
    own: bool = False,
    keep: Mapping[str, str] = MappingProxyType({}),
) -> Rows:
    """Return the rows of one table as records, sorted by whether they can be used.

    `columns` maps columns of `RECORD_SCHEMA` to columns of the table, or to expressions over them. In tables of a sweep
    (`own`), columns have their names in the schema; in other tables usual names are recognised too, and columns that
    would change a fit, such as weight, are used only if mapped. A run that is not ok needs no loss. `keep` adds columns
    of numbers of its own names, from columns of the table or expressions; cells that are no numbers are missing.

    Raises:
        DataError: a required column is missing or ambiguous.
        UsageError: `where` or an entry of `columns` is not valid.
    """
    table = table.rename(columns=lambda name: str(name).strip()).reset_index(drop=True)
    own = own or {"key", "status", *REQUIRED} <= {*table.columns}  # an export of records
    sources = {} if own else recognise(table.columns, file, columns)
    given = table = with_errors(table) if own else table
    table = _taken(table, file, {**sources, **columns, **keep})
    for name in table.columns[table.columns.duplicated()].unique():
        if name in (*NEEDED, *VARIABLE_COLUMNS):
            raise DataError(f"{file}: more than one column {name!r}; rename or remove one")
    table = table.loc[:, ~table.columns.duplicated()]
    if "loss" not in table or not any(name in table for name in VARIABLE_COLUMNS):
        name = "loss" if "loss" not in table else "n_params"
        raise DataError(
            f"{file}: no column {name!r} (it has: {known_names(all_columns(given))}); map one with "
            f"`columns={{{name!r}: COLUMN}}`"
        )
    notes = [] if own else _notes(given, sources, columns)
    idle = [] if own else [name for name in ONLY_MAPPED if name in table and name not in columns]
    bad: dict[int, Rejected] = {}
    statuses = _statuses(table.drop(columns=idle), file, bad)
    if "status" not in idle:
        table["status"] = statuses
    ok = (statuses == RunStatus.OK).to_numpy(dtype=bool)
    faults: dict[int, Rejected] = {}
    for column in RECORD_SCHEMA:
        number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if column.name in table and column.name not in idle and number:
            # Columns that a fit does not use are no reason to reject a row.
            used = column.name in (*USED, *columns)
            table[column.name] = _numbers(table[column.name], column.name, file, faults if used else {})
    _check_counts(table.drop(columns=idle), file, faults)
    for row, fault in faults.items():
        if ok[row]:
            bad.setdefault(row, fault)
    wanted, names = (np.ones(len(table), dtype=bool), set()) if where is None else rows_where(table, where)
    table = table.drop(columns=idle).assign(status=statuses)
    if not own:
        runs, note = find_runs(table, file, "run" in columns)
        table = table.drop(columns="run", errors="ignore")
        if runs is not None:
            table["run"] = runs
            notes += [note]
    # A bad row that `where` excludes is ignored, unless `where` uses the bad column.
    rejected = [bad[row] for row in sorted(bad) if wanted[row] or bad[row].column in names]
    usable = np.ones(len(table), dtype=bool)
    usable[list(bad)] = False
    kept = {name: to_floats(table[name]) for name in keep}
    chosen, others = (
        conform(table[rows]).assign(file=file, **{name: values[rows] for name, values in kept.items()})
        for rows in (wanted & usable & ok, wanted & usable & ~ok)
    )
    left_out = len(table) - len(rejected) - len(chosen) - len(others)
    return Rows(chosen, others, rejected, left_out, tuple(notes), {**sources, **columns})


def _taken(table: pd.DataFrame, file: str, sources: Mapping[str, str]) -> pd.DataFrame:
    """Return `table` with a column for each of `sources`: another column of it, or an expression."""
    found: dict[str, pd.Series] = {}
    left: dict[str, str] = {}
    for name, source in sources.items():
        if source in table:
            if isinstance(table[source], pd.DataFrame):
                raise DataError(f"{file}: more than one column {source!r}; rename or remove one")
            found[name] = table[source]
        elif source.strip("`'\"") in table:
            found[name] = table[source.strip("`'\"")]
        elif not is_expression(source):
            raise _no_column(name, source, file, source, table)
        else:
            left[name] = source
    table = table.assign(**found)
    while left:
        missing: dict[str, object] = {}
        for name, source in list(left.items()):
            try:
                value, used = compute(source, table)
                if name in used and name not in found and name not in table:
                    raise KeyError(name)
            except KeyError as error:
                missing[name] = error.args[0]
                continue
            except (ValueError, SyntaxError, UsageError) as error:
                raise UsageError(str(error), argument="columns", value={name: source}) from None
            found[name] = value
            table = table.assign(**{name: value})
            del left[name]
        if left and len(missing) == len(left) and not any(str(m) in left for m in missing.values() if m not in missing):
            name, column = next(iter(missing.items()))
            raise _no_column(name, left[name], file, column, table)
    return table


def _no_column(name: str, source: str, file: str, column: object, table: pd.DataFrame) -> UsageError:
    reason = f"{file} has no column {column!r}; it has {known_names(all_columns(table))}"
    return UsageError(reason, argument="columns", value={name: source})


def _notes(table: pd.DataFrame, sources: Mapping[str, str], mapped: Mapping[str, str]) -> list[str]:
    """Return notes on columns that were recognised by name, and on columns that are not used."""
    words = [source_words(name, source) for name, source in sources.items() if name != source]
    notes = [f"using {', '.join(words)}"] if words else []
    ignored = [name for name in ONLY_MAPPED if name in table and name not in mapped.values() and name not in mapped]
    if ignored:
        listed = ", ".join(repr(name) for name in ignored)
        notes.append(f"not used: {listed}; map with `columns={{{ignored[0]!r}: {ignored[0]!r}}}` to use")
    return notes


def _statuses(table: pd.DataFrame, file: str, bad: dict[int, Rejected]) -> pd.Series:
    """Return the status of each row's run, ok if empty. Rows with an unknown status are added to `bad`."""
    if "status" not in table:
        return pd.Series(RunStatus.OK, index=table.index, dtype="string")
    given = table["status"].astype(object)
    words = given.map(lambda v: v.strip().lower().replace(" ", "_") if isinstance(v, str) else v)
    empty = words.map(lambda v: pd.api.types.is_scalar(v) and (pd.isna(v) or v == ""))
    words = words.where(~empty.astype(bool), RunStatus.OK).map(lambda v: _SAME.get(v, v) if isinstance(v, str) else v)
    unknown = words.map(lambda v: not isinstance(v, str) or v not in [*RunStatus]).to_numpy(dtype=bool)
    _reject(bad, given, unknown, "status", file, f"one of {', '.join(RunStatus)}")
    return words.where(~unknown, RunStatus.FAILED).astype("string")


def _numbers(column: pd.Series, name: str, file: str, bad: dict[int, Rejected]) -> pd.Series:
    """Return `column` as numbers. Rows without a number, or with one that is not valid, are added to `bad`."""
    given = column.map(lambda v: v.strip() or None if isinstance(v, str) else v).astype(object)
    missing = given.isna()
    values = to_floats(given)
    wish, wrong = "a number", values.isna() & ~missing | np.isinf(values)
    if name in NEEDED:
        wrong |= missing
    if name in POSITIVE:
        wish = "a positive number"
        wrong |= values <= 0
    if name == "n_streams":
        wish = "a positive whole number"
        wrong |= values.notna() & (values % 1 != 0)
    if name in PLAUSIBLE:
        low, high = PLAUSIBLE[name]
        outside = ~wrong & values.notna() & ~values.between(low, high)
        _reject(bad, given, outside, name, file, f"{wish} from {low:g} to {high:g}")
    _reject(bad, given, wrong, name, file, wish)
    values = values.where(~wrong)
    whole = values.notna().all() and (values % 1 == 0).all() and (values.abs() < 2**63).all() and len(values) > 0
    return values.astype("int64") if whole and name not in ("loss", "weight") else values


def _check_counts(table: pd.DataFrame, file: str, bad: dict[int, Rejected]) -> None:
    """Add rows to `bad` whose counts of parameters contradict each other: backbone ≤ N ≤ total."""
    for smaller, larger in (("n_params_backbone", "n_params"), ("n_params", "n_params_total")):
        if smaller in table and larger in table:
            low, high = (pd.to_numeric(table[name], errors="coerce") for name in (smaller, larger))
            named = smaller if smaller != "n_params" else larger
            wish = "at most n_params" if named == smaller else "at least n_params"
            _reject(bad, table[named].astype(object), (low > high * _ROUNDED).to_numpy(bool), named, file, wish)


def _reject(
    bad: dict[int, Rejected], given: pd.Series, wrong: pd.Series | np.ndarray, name: str, file: str, wish: str
) -> None:
    for row in np.flatnonzero(wrong):
        value = given.iloc[row]
        empty = pd.api.types.is_scalar(value) and pd.isna(value)
        shown = "an empty cell" if empty else " ".join(repr(value).split())[:40]
        bad.setdefault(int(row), Rejected(file, int(row) + 1, name, shown, wish))
