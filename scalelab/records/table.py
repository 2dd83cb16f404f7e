"""Anyone's table as records: Parquet, CSV, JSONL or pandas, columns renamed, rows chosen and checked."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scalelab.errors import DataError, UsageError
from scalelab.records.schema import (
    CURVE_KIND,
    KIND_KEY,
    NEEDED,
    PLAUSIBLE,
    POSITIVE,
    RECORD_KIND,
    RECORD_SCHEMA,
    USED,
    conform,
)
from scalelab.units import parse_count

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
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


def read_file(file: Path) -> tuple[pd.DataFrame, bool] | None:
    """The table in a file as it stands there, all text if it is text, and whether a sweep wrote it.

    None for a loss curve.

    Raises `DataError` naming the file.
    """
    suffix = file.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            return _read_csv(file, "\t" if suffix == ".tsv" else ","), False
        if suffix in (".jsonl", ".ndjson"):
            return _read_jsonl(file), False
        table = pq.ParquetFile(file).read()
    except (pa.ArrowException, OSError, ValueError, pd.errors.ParserWarning) as error:
        kind = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSONL", ".ndjson": "JSONL"}.get(suffix, "Parquet")
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise DataError(f"{file}: not a readable {kind} file ({reason}); move it away or mend it") from None
    kind = (table.schema.metadata or {}).get(KIND_KEY)
    if kind == CURVE_KIND:
        return None
    # Without pandas' own metadata: an index that was saved stays a column.
    names = [f"column {i}" for i in range(len(table.column_names))]
    frame = table.rename_columns(names).to_pandas(ignore_metadata=True)
    return frame.set_axis(table.column_names, axis=1), kind == RECORD_KIND


def _read_csv(file: Path, separator: str) -> pd.DataFrame:
    with warnings.catch_warnings():
        # pandas would take the first column for an index where rows are longer than the headings.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        options: dict = {"dtype": str, "sep": separator, "skipinitialspace": True, "index_col": False}
        frame = pd.read_csv(file, **options)
        headings = pd.read_csv(file, header=None, nrows=1, **options).iloc[0].fillna("")
    return frame.set_axis(headings.tolist(), axis=1)


def _read_jsonl(file: Path) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            rows.append(row)
    return pd.DataFrame(rows)


def to_records(
    table: pd.DataFrame, file: str, columns: Mapping[str, str], where: str | None
) -> tuple[pd.DataFrame, list[Rejected], int]:
    """Records of one table, its unusable rows, and how many rows `where` left out.

    `columns` says which column of the table holds which of `RECORD_SCHEMA`. Raises `DataError`
    naming the file where a needed column is missing, `UsageError` for a `where` that is none.
    """
    table = _rename(table, file, columns)
    for name in NEEDED:
        if name not in table:
            have = ", ".join(map(str, table.columns))
            raise DataError(
                f"{file}: no column {name!r} (it has: {have}); name the one that holds it with --map {name}=COLUMN"
            )
    table = table.reset_index(drop=True)
    bad: dict[int, Rejected] = {}
    for field in RECORD_SCHEMA:
        if field.name in table and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
            # What a fit does not use is no reason to refuse a row.
            faults = bad if field.name in USED else {}
            table[field.name] = _numbers(table[field.name], field.name, file, faults)
    wanted, names = (np.ones(len(table), dtype=bool), set()) if where is None else _mask(table, where)
    # A row that `where` does not ask for is not missed, unless the fault is what `where` looks at.
    rejected = [bad[row] for row in sorted(bad) if wanted[row] or bad[row].column in names]
    usable = np.ones(len(table), dtype=bool)
    usable[list(bad)] = False
    chosen = table[wanted & usable]
    return conform(chosen).assign(file=file), rejected, len(table) - len(rejected) - len(chosen)


def _rename(table: pd.DataFrame, file: str, columns: Mapping[str, str]) -> pd.DataFrame:
    table = table.rename(columns=str)
    twice = table.columns[table.columns.duplicated()].tolist()
    if twice:
        raise DataError(f"{file}: more than one column {twice[0]!r}; rename or remove one")
    for name, source in columns.items():
        if source not in table:
            raise UsageError(
                f"--map {name}={source}: {file} has no column {source!r}; it has {', '.join(table.columns)}"
            )
    return table.assign(**{name: table[source] for name, source in columns.items()})


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


def _reject(bad: dict[int, Rejected], given: pd.Series, wrong: pd.Series, name: str, file: str, wish: str) -> None:
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
        raise UsageError(f"--where {where!r}: {reason}; columns are {', '.join(table.columns)}") from None
    if not (isinstance(mask, pd.Series) and pd.api.types.is_bool_dtype(mask)):
        raise UsageError(f"--where {where!r}: not a condition such as 'n_tokens > 100M'")
    return mask.fillna(False).to_numpy(dtype=bool), {node.id for node in nodes if isinstance(node, ast.Name)}
