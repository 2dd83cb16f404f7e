"""Reports of runs: columns and formats of tables, CSV and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from scalelab.errors import UsageError
from scalelab.records.schema import RECORD_SCHEMA, describe_statuses, is_accuracy_column
from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.evaluations import accuracy_headings, evaluations_table
from scalelab.status import RunStatus
from scalelab.units import format_count, format_number, format_seconds, plural

if TYPE_CHECKING:
    from scalelab.api.runs import Runs
    from scalelab.records import RunTable

_MOST_MESSAGES = 20
_MOST_REJECTED = 5
_MOST_ROWS = 60


@dataclass(frozen=True)
class _Column:
    heading: str  # a leading < aligns it left
    name: str  # in the record
    show: Callable[[Any], str]


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _loss(value: float) -> str:
    return f"{value:.4f}"


_USUAL = (
    _Column("N", "n_params", format_count),
    _Column("backbone", "n_params_backbone", format_count),
    _Column("active", "n_params_active", format_count),
    _Column("P", "n_streams", _whole),
    _Column("D", "n_tokens", format_count),
    _Column("plain D", "n_tokens_plain", format_count),
    _Column("seed", "seed", _whole),
    _Column("<status", "status", lambda value: RunStatus(value).words),
    _Column("loss", "loss", _loss),
    _Column("±", "loss_stderr", _loss),
    _Column("bits/byte", "bits_per_byte", _loss),
    _Column("tokens/s", "tokens_per_s", format_count),
    _Column("memory GiB", "peak_memory_bytes", lambda value: f"{value / 2**30:.3g}"),
    _Column("MFU", "mfu", lambda value: f"{value:.1%}"),
    _Column("time", "train_seconds", format_seconds),
)
# Shown if the runs differ in them.
_DISTINGUISHING = (
    _Column("<corpus", "corpus", str),
    _Column("<tokenizer", "tokenizer", str),
    _Column("<setup", "setup", lambda value: str(value)[:8]),
    _Column("<schedule", "schedule", str),
    _Column("loops", "n_loops", _whole),
    _Column("peak lr", "peak_lr", format_number),
    _Column("<dtype", "dtype", str),
    _Column("<device", "device", str),
)
_NAMES = {column.heading.removeprefix("<"): column.name for column in (*_USUAL, *_DISTINGUISHING)}


def column_name(word: str, argument: str) -> str:
    """Return the column of records for a name or heading.

    Raises:
        UsageError: There is no such column; the message lists the choices.
    """
    if word in (*RECORD_SCHEMA.names, "file") or is_accuracy_column(word):
        return word
    if word not in _NAMES:
        raise no_column(word, argument, (*_NAMES, *RECORD_SCHEMA.names, "file"))
    return _NAMES[word]


def no_column(word: str, argument: str, names: Sequence[str]) -> UsageError:
    """Return the error for a column that is not one of `names`."""
    near = get_close_matches(word, names, 1, 0.6)
    meant = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"no such column; {meant}choose from {', '.join(names)}", argument=argument, value=word)


def sort_runs(runs: pd.DataFrame, column: str | None, descending: bool) -> pd.DataFrame:
    """Return runs sorted by a column, those without a value last; by default the newest first."""
    by = column or "created_utc"
    if not runs[by].notna().any():
        return runs
    numeric = pd.api.types.is_numeric_dtype(runs[by])
    return runs.sort_values(
        by,
        ascending=not (descending or column is None),
        kind="stable",
        na_position="last",
        key=None if numeric else lambda values: values.astype("string"),
        ignore_index=True,
    )


@dataclass(frozen=True)
class ShownColumn:
    """A column of runs: its heading, which starts with < if it is aligned left, texts and exact values."""

    heading: str
    name: str  # in the record
    texts: list[str]
    values: list[Any]  # None where missing


def shown_columns(frame: pd.DataFrame, names: Sequence[str] = ()) -> list[ShownColumn]:
    """Return the columns `names` of a table of runs, by default those that hold something or differ."""
    made = []
    for column in _chosen(names) if names else _relevant_columns(frame):
        values = [None if _is_empty(value) else value for value in frame[column.name]]
        texts = ["" if value is None else column.show(value) for value in values]
        made.append(ShownColumn(column.heading, column.name, texts, values))
    return made


def runs_report(runs: Runs) -> Report:
    """Return a row for each run, messages of failed runs, and counts by status."""
    frame = runs.frame
    columns = shown_columns(frame, runs.columns)
    table = Table(runs.title, [column.heading for column in columns], drops=not runs.columns)
    for row in zip(*(column.texts for column in columns), strict=True):
        table.add(*row)
    blocks: list[Table | Line] = [table]
    lost = frame[(frame["status"] != RunStatus.OK) & frame["message"].notna()]
    for run in lost.head(_MOST_MESSAGES).to_dict("records"):
        sizes = [("N", "n_params"), ("P", "n_streams"), ("D", "n_tokens")]
        words = [f"{short} {format_count(run[name])}" for short, name in sizes if not _is_empty(run[name])]
        words += [] if _is_empty(run["seed"]) else [f"seed {run['seed']:.0f}"]
        message = " ".join(str(run["message"]).split())
        blocks.append(Line(f"{RunStatus(run['status']).words}: {'  '.join(words)}: {message}"))
    if len(lost) > _MOST_MESSAGES:
        more = plural(len(lost) - _MOST_MESSAGES, "more message")
        blocks.append(Line(f"and {more}; to list all: `columns` key status message"))
    scored = evaluations_table(runs.evaluations)
    return Report.of([*blocks, *_counts(runs), *([scored] if scored.rows else [])])


def _counts(runs: Runs) -> Iterator[Line]:
    found = runs.table
    counts = {RunStatus.OK: len(found.records), **found.unfinished}
    left_out = f"; {found.left_out} left out by `where`" if found.left_out else ""
    yield Line(f"{plural(sum(counts.values()), 'run')}: {describe_statuses(counts)}{left_out}")
    yield from (Line(str(row), "left out") for row in found.rejected)
    yield from (Line(str(fault), "left out") for fault in runs.faults)


def rejected_lines(table: RunTable) -> list[Line]:
    """Return the columns that were used, rows that cannot be used, and the number of rows."""
    lines = [Line(note, "info") for note in table.notes]
    lines += [Line(str(row), "left out") for row in table.rejected[:_MOST_REJECTED]]
    if len(table.rejected) > _MOST_REJECTED:
        more = len(table.rejected) - _MOST_REJECTED
        lines.append(Line(f"{plural(more, 'more row')} that cannot be used", "left out"))
    others = [f", {table.left_out} left out by `where`"] if table.left_out else []
    others += [f", not ok: {describe_statuses(table.unfinished)}"] if table.unfinished else []
    if others or table.rejected:
        used = f"{plural(len(table.records), 'row')} used{''.join(others)}, {len(table.rejected)} not usable"
        lines.append(Line(used, "info"))
    return lines


def table_report(table: RunTable) -> Report:
    """Return the runs that can be fitted, and the rows that were left out."""
    columns = _relevant_columns(table.records)
    made = Table(f"{plural(len(table.records), 'run')}", [column.heading for column in columns], drops=True)
    for run in table.records.head(_MOST_ROWS).to_dict("records"):
        made.add(*("" if _is_empty(run[column.name]) else column.show(run[column.name]) for column in columns))
    more = len(table.records) - _MOST_ROWS
    cut = [Line(f"and {plural(more, 'more row')}; see `records` for all", "dim")] if more > 0 else []
    return Report.of([made, *cut, *rejected_lines(table)])


def as_csv(runs: pd.DataFrame, names: Sequence[str] | None) -> str:
    """Return runs as CSV with exact values, which `records.read` can read; lists are JSON."""
    rows = [
        {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
        for row in _json_rows(runs, names)
    ]
    text = io.StringIO()
    pd.DataFrame(rows, dtype=object).to_csv(text, index=False)
    return text.getvalue()


def as_json(runs: pd.DataFrame, names: Sequence[str] | None) -> str:
    """Return runs as a JSON list of objects; missing values are null."""
    return json.dumps(_json_rows(runs, names), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _json_rows(runs: pd.DataFrame, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return rows of JSON values, None for missing ones; without `names`, of all columns that are not empty."""
    chosen = list(dict.fromkeys(names)) if names else [str(name) for name in runs if runs[name].notna().any()]
    return [{name: _json_value(name, row[name]) for name in chosen} for row in runs.to_dict("records")]


def _json_value(name: str, value: Any) -> Any:
    if _is_empty(value):
        return None
    if hasattr(value, "tolist"):  # NumPy
        value = value.tolist()
    whole = name in RECORD_SCHEMA.names and pa.types.is_integer(RECORD_SCHEMA.field(name).type)
    # pandas turns columns of whole numbers with missing values into floats.
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def _is_empty(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and (pd.isna(value) or value in (float("inf"), float("-inf"))))


def _chosen(names: Sequence[str]) -> list[_Column]:
    known = {column.name: column for column in (*_USUAL, *_DISTINGUISHING)}
    return [known.get(name, _Column(f"<{name}", name, _text)) for name in names]


def _relevant_columns(runs: pd.DataFrame) -> list[_Column]:
    columns = [column for column in _USUAL if runs[column.name].notna().any()]
    if (runs["n_params_active"].fillna(runs["n_params"]) == runs["n_params"]).all():
        columns = [column for column in columns if column.name != "n_params_active"]
    if (runs["n_tokens_plain"].fillna(0) == 0).all():
        columns = [column for column in columns if column.name != "n_tokens_plain"]
    headings = accuracy_headings(runs)
    scored = [_Column(heading, name, _loss) for name, heading in headings.items() if runs[name].notna().any()]
    place = next((i for i, column in enumerate(columns) if column.name == "bits_per_byte"), len(columns))
    columns[place:place] = scored
    return columns + [column for column in _DISTINGUISHING if runs[column.name].nunique(dropna=False) > 1]


def _text(value: Any) -> str:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value))
    return format_number(value, 6) if isinstance(value, float) else str(value)
