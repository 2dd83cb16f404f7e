"""Anyone's table as records: columns renamed, rows chosen and checked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd
import pyarrow as pa

from scalelab.errors import DataError, UsageError
from scalelab.records.schema import (
    NEEDED,
    OK,
    PLAUSIBLE,
    POSITIVE,
    RECORD_SCHEMA,
    STATUSES,
    USED,
    conform,
)
from scalelab.units import parse_count

# What trackers of experiments call the same. A run that still runs is none of these: its loss is not its last.
_SAME = {"finished": OK, "completed": OK, "crashed": "failed", "killed": "interrupted", "oom": "out_of_memory"}
SHORT_NAMES = {"N": "n_params", "P": "n_streams", "D": "n_tokens", "loss": "loss"}  # as the field writes them
# 100M, 7b or .5T, or a quoted text, which is to be left alone.
_COUNT = re.compile(r"""'[^']*'|"[^"]*"|(?<![\w.])(?:\d+\.?\d*|\.\d+)[kmbgtKMBGT]\b""")
_CONDITION = (  # what a condition is made of: no calls, no attributes
    *(ast.Expression, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Name, ast.Constant, ast.List, ast.Tuple),
    *(ast.expr_context, ast.cmpop, ast.boolop, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.unaryop),
)


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used, and why. Rows count from 1, headings apart."""

    file: str
    row: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: column {self.column!r}, row {self.row}: {self.value} is not {self.reason}"


@dataclass(frozen=True)
class Rows:
    """What became of the rows of one table."""

    records: pd.DataFrame  # of runs that are ok
    unfinished: pd.DataFrame  # of the others, which may have no loss
    rejected: list[Rejected]
    left_out: int  # rows that `where` did not ask for


def to_records(table: pd.DataFrame, file: str, columns: Mapping[str, str], where: str | None) -> Rows:
    """The rows of one table as records, sorted by whether they can be used.

    `columns` says which column of the table holds which of `RECORD_SCHEMA`. A run that is not ok
    needs no loss. Raises `DataError` naming the file where a needed column is missing, `UsageError`
    for a `where` that is none.
    """
    table = _rename(table, file, columns)
    for name in NEEDED:
        if name not in table:
            have = ", ".join(map(str, table.columns))
            raise DataError(
                f"{file}: no column {name!r} (it has: {have}); name the one that holds it with "
                f"`columns={{{name!r}: COLUMN}}`"
            )
    table = table.reset_index(drop=True)
    bad: dict[int, Rejected] = {}
    table["status"] = _statuses(table, file, bad)
    ok = (table["status"] == OK).to_numpy(dtype=bool)
    faults: dict[int, Rejected] = {}
    for field in RECORD_SCHEMA:
        if field.name in table and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
            # What a fit does not use is no reason to refuse a row.
            table[field.name] = _numbers(table[field.name], field.name, file, faults if field.name in USED else {})
    for row, fault in faults.items():
        if ok[row]:
            bad.setdefault(row, fault)
    wanted, names = (np.ones(len(table), dtype=bool), set()) if where is None else _mask(table, where)
    # A row that `where` does not ask for is not missed, unless the fault is what `where` looks at.
    rejected = [bad[row] for row in sorted(bad) if wanted[row] or bad[row].column in names]
    usable = np.ones(len(table), dtype=bool)
    usable[list(bad)] = False
    chosen, others = (conform(table[wanted & usable & which]).assign(file=file) for which in (ok, ~ok))
    return Rows(chosen, others, rejected, len(table) - len(rejected) - len(chosen) - len(others))


def _statuses(table: pd.DataFrame, file: str, bad: dict[int, Rejected]) -> pd.Series:
    """How each row's run ended; ok where nothing is said. Rows that say something unknown are added to `bad`."""
    if "status" not in table:
        return pd.Series(OK, index=table.index, dtype="string")
    given = table["status"].astype(object)
    words = given.map(lambda v: v.strip().lower().replace(" ", "_") if isinstance(v, str) else v)
    empty = words.map(lambda v: pd.api.types.is_scalar(v) and (pd.isna(v) or v == ""))
    words = words.where(~empty.astype(bool), OK).map(lambda v: _SAME.get(v, v) if isinstance(v, str) else v)
    unknown = words.map(lambda v: not isinstance(v, str) or v not in STATUSES).to_numpy(dtype=bool)
    _reject(bad, given, unknown, "status", file, f"one of {', '.join(STATUSES)}")
    return words.where(~unknown, "failed").astype("string")


def _rename(table: pd.DataFrame, file: str, columns: Mapping[str, str]) -> pd.DataFrame:
    table = table.rename(columns=str)
    twice = table.columns[table.columns.duplicated()].tolist()
    if twice:
        raise DataError(f"{file}: more than one column {twice[0]!r}; rename or remove one")
    for name, source in columns.items():
        if source not in table:
            raise UsageError(
                f"{file} has no column {source!r}; it has {', '.join(table.columns)}",
                argument="columns",
                value={name: source},
            )
    table = table.assign(**{name: table[source] for name, source in columns.items()})
    return table.assign(**{name: table[column] for name, column in _own_names(table)})


def _own_names(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Columns of the record that the table lacks, and those that it has under the field's own name, in any case."""
    for short, name in SHORT_NAMES.items():
        found = [column for column in table.columns if str(column).lower() == short.lower()]
        if name not in table and len(found) == 1:
            yield name, found[0]


def _numbers(column: pd.Series, name: str, file: str, bad: dict[int, Rejected]) -> pd.Series:
    """`column` as numbers; rows that hold none, or one that cannot be, are added to `bad`."""
    given = column.map(lambda v: v.strip() or None if isinstance(v, str) else v).astype(object)
    missing = given.isna()
    values = pd.to_numeric(given.map(_plain), errors="coerce").astype(float)
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
    whole = values.notna().all() and (values % 1 == 0).all() and (values.abs() < 2**63).all() and len(values) > 0
    return values.astype("int64") if whole and name not in ("loss", "weight") else values


def _reject(
    bad: dict[int, Rejected], given: pd.Series, wrong: pd.Series | np.ndarray, name: str, file: str, wish: str
) -> None:
    for row in np.flatnonzero(wrong):
        value = given.iloc[row]
        empty = pd.api.types.is_scalar(value) and pd.isna(value)
        shown = "an empty cell" if empty else " ".join(repr(value).split())[:40]
        bad.setdefault(int(row), Rejected(file, int(row) + 1, name, shown, wish))


def _plain(value: object) -> object:
    """7B as 7e9, numbers as floats, other text as it is; None for what is neither."""
    if isinstance(value, str):
        try:
            return parse_count(value)
        except UsageError:
            return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, Decimal)):
        return None  # a date, a list, a complex number
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return np.inf


def _mask(table: pd.DataFrame, where: str) -> tuple[np.ndarray, set[str]]:
    """Which rows satisfy `where`, and the columns it names: ``n_tokens > 100M and corpus == 'c4'``."""
    expression = _COUNT.sub(lambda m: m[0] if m[0][0] in "'\"" else repr(parse_count(m[0])), where)
    table = table.copy()
    for short, name in SHORT_NAMES.items():
        if short not in table and name in table:
            table[short] = table[name]
    for name in table.columns:  # of text that is all numbers, the numbers
        numbers = pd.to_numeric(table[name].map(_plain), errors="coerce")
        if numbers.notna().sum() == table[name].notna().sum():
            table[name] = numbers
    try:
        nodes = list(ast.walk(ast.parse(expression.strip(), mode="eval")))
        if not all(isinstance(node, _CONDITION) for node in nodes):
            raise ValueError("only names of columns, constants, comparisons and + - * / may stand in it")
        mask = table.eval(expression, engine="python")
    except Exception as error:  # pandas raises whatever the expression makes Python raise
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, SyntaxError):
            reason = "not a condition such as \"corpus == 'pile' and n_tokens > 100M\""
        raise UsageError(f"{reason}; columns are {', '.join(table.columns)}", argument="where", value=where) from None
    if not (isinstance(mask, pd.Series) and pd.api.types.is_bool_dtype(mask)):
        raise UsageError("not a condition such as 'n_tokens > 100M'", argument="where", value=where)
    return mask.fillna(False).to_numpy(dtype=bool), {node.id for node in nodes if isinstance(node, ast.Name)}
