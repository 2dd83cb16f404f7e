"""Anyone's table as records: Parquet, CSV, JSONL or pandas, columns renamed, rows chosen and checked."""

from __future__ import annotations

import ast
import re
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
from scalelab.records.schema import CURVE_KIND, KIND_KEY, NEEDED, PLAUSIBLE, POSITIVE, RECORD_SCHEMA, conform
from scalelab.units import parse_count

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
_COUNT = re.compile(r"""'[^']*'|"[^"]*"|(?<![\w.])\d+(?:\.\d+)?[kMBGT]\b""")  # or a quoted text, to leave alone
_CONDITION = (  # what a condition is made of: no calls, no attributes
    *(ast.Expression, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Name, ast.Constant, ast.List, ast.Tuple),
    *(ast.expr_context, ast.cmpop, ast.boolop, ast.operator, ast.unaryop),
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


def read_file(file: Path) -> pd.DataFrame | None:
    """The table in a file as it stands there, all text if it is text; None for a loss curve.

    Raises `DataError` naming the file.
    """
    suffix = file.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            return pd.read_csv(file, dtype=str, sep="\t" if suffix == ".tsv" else ",", skipinitialspace=True)
        if suffix in (".jsonl", ".ndjson"):
            return pd.read_json(file, lines=True, dtype=False)
        table = pq.ParquetFile(file).read()
    except (pa.ArrowException, OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        kind = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSONL", ".ndjson": "JSONL"}.get(suffix, "Parquet")
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise DataError(f"{file}: not a readable {kind} file ({reason}); move it away or restore it") from None
    if (table.schema.metadata or {}).get(KIND_KEY) == CURVE_KIND:
        return None
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if set(twice) & set(NEEDED):
        raise DataError(f"{file}: more than one column {twice[0]!r}; rename or remove one")
    # Without pandas' own metadata: an index that was saved stays a column.
    return table.select([name for name in names if name not in twice]).to_pandas(ignore_metadata=True)


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
            table[field.name] = _numbers(table[field.name], field.name, file, bad)
    rejected = [bad[row] for row in sorted(bad)]
    usable = table.drop(index=[r.row - 1 for r in rejected])
    chosen = usable if where is None else usable[_mask(usable, where)]
    return conform(chosen).assign(file=file), rejected, len(usable) - len(chosen)


def _rename(table: pd.DataFrame, file: str, columns: Mapping[str, str]) -> pd.DataFrame:
    table = table.rename(columns=str)
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


def _mask(table: pd.DataFrame, where: str) -> np.ndarray:
    """Which rows satisfy `where`, an expression such as ``n_tokens > 100M and corpus == 'c4'``."""
    expression = _COUNT.sub(lambda m: m[0] if m[0][0] in "'\"" else repr(parse_count(m[0])), where)
    table = table.copy()
    for name in table.columns:  # of text that is all numbers, the numbers
        numbers = pd.to_numeric(table[name].map(_plain), errors="coerce")
        if numbers.notna().sum() == table[name].notna().sum():
            table[name] = numbers
    try:
        if not all(isinstance(node, _CONDITION) for node in ast.walk(ast.parse(expression.strip(), mode="eval"))):
            raise ValueError("only names of columns, constants, comparisons and arithmetic may stand in it")
        mask = table.eval(expression, engine="python")
    except Exception as error:  # pandas raises whatever the expression makes Python raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"--where {where!r}: {reason}; columns are {', '.join(table.columns)}") from None
    if not (isinstance(mask, pd.Series) and pd.api.types.is_bool_dtype(mask)):
        raise UsageError(f"--where {where!r}: not a condition such as 'n_tokens > 100M'")
    return mask.fillna(False).to_numpy(dtype=bool)
