"""Groups of comparable records: the same corpus, tokenizer and setup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from scalelab.errors import DataError, choice_error
from scalelab.file_names import slug
from scalelab.records import RunTable
from scalelab.records.expressions import known_names
from scalelab.records.runs import last_rows
from scalelab.records.schema import VARIABLE_COLUMNS, conform
from scalelab.status import RunStatus
from scalelab.units import format_count

Points = Literal["auto", "final", "all"]  # which rows to fit if runs have several
_MUST_AGREE = ["corpus_digest", "tokenizer_digest", "setup"]


@dataclass(frozen=True)
class Group:
    """Comparable records, with a title to show and a slug for file names."""

    title: str
    slug: str
    records: pd.DataFrame
    unfinished: Mapping[str, int] = field(default_factory=dict)  # number of such runs that are not ok, by status
    points: tuple[int, int] | None = None  # number of runs and of their rows, if runs have several rows
    columns: Mapping[str, str] = field(default_factory=dict)  # column of the schema: name in the user's table


def group_records(
    records: pd.DataFrame | RunTable, by_tokens: bool = True, points: Points = "auto", by_loops: bool = True
) -> list[Group]:
    """Split records so that no fit mixes corpora, tokenizers or setups.

    With `by_tokens`, for laws without D, also by the number of training tokens; with `by_loops`, for laws without R, by
    the number of loops. Runs that are not ok are counted and left out. If runs have several rows, such as the points of
    a curve, `points` chooses the last ("final"), all ("all"), or the last unless D would then be constant and the law
    needs it ("auto").

    Raises:
        UsageError: `points` is not one of these.
        DataError: there is no column for the loss, or none for a variable.
    """
    check_points(points)
    columns = records.columns if isinstance(records, RunTable) else {}
    if isinstance(records, RunTable):
        records = pd.concat([records.records, records.others]) if len(records.others) else records.records
    if "loss" not in records or not any(name in records for name in VARIABLE_COLUMNS):
        lacking = "loss" if "loss" not in records else "n_params"
        raise DataError(
            f"no column {lacking!r}; there are {known_names(records.columns)}; map one with `columns` when reading"
        )
    files = records["file"] if "file" in records else pd.Series(pd.NA, records.index)
    records = conform(records).assign(file=files.astype("string"))
    # Tables from elsewhere may give corpus and tokenizer by name only, or not at all; without a corpus, each file is
    # one group.
    records["tokenizer_digest"] = records["tokenizer_digest"].fillna(records["tokenizer"])
    records["corpus_digest"] = records["corpus_digest"].fillna(records["corpus"])
    records["corpus_digest"] = records["corpus_digest"].fillna(records["file"])
    records, counts = choose_points(records, by_tokens, points)
    records["n_loops"] = records["n_loops"].fillna(1)
    by = [*_MUST_AGREE, *(["n_tokens"] if by_tokens else []), *(["n_loops"] if by_loops else [])]
    kinds = [rows for _, rows in records.groupby(by, dropna=False, sort=False)]
    kinds = [rows for rows in kinds if _is_ok(rows).any()]
    pieces = [rows[_is_ok(rows)] for rows in kinds]
    groups: dict[str, Group] = {}
    for rows, name, every in zip(pieces, _distinct_names(pieces), kinds, strict=True):
        of_runs = points_of(rows, counts)
        rows = rows.reset_index(drop=True)
        stem = slug("-".join(name), groups)
        groups[stem] = Group(", ".join(name), stem, rows, _unfinished(every), of_runs, columns)
    return sorted(groups.values(), key=lambda g: g.title)


def check_points(points: str) -> Points:
    """Return `points`. Raises `UsageError` if it is not one of `Points`."""
    found: Points | None = next((name for name in get_args(Points) if name == points), None)
    if found is None:
        raise choice_error("points", points, get_args(Points))
    return found


def choose_points(records: pd.DataFrame, by_tokens: bool, points: Points) -> tuple[pd.DataFrame, pd.Series | None]:
    """Return the rows to fit, and the number of rows of each run; None if no run has several."""
    if "run" not in records or not records["run"].dropna().duplicated().any():
        return records, None
    counts = records["run"].value_counts()
    last = last_rows(records[records["run"].notna()])
    one_D = not by_tokens and last["n_tokens"].nunique() == 1 < records["n_tokens"].nunique()
    if points == "final" or (points == "auto" and not one_D):
        records = pd.concat([last, records[records["run"].isna()]])
    return records, counts


def points_of(rows: pd.DataFrame, counts: pd.Series | None) -> tuple[int, int] | None:
    """Return the number of runs in `rows`, and of all rows of these runs; None if each row is a run."""
    if counts is None or not rows["run"].notna().all():
        return None
    return int(rows["run"].nunique()), int(counts[rows["run"].unique()].sum())


def _is_ok(rows: pd.DataFrame) -> pd.Series:
    return ~rows["status"].isin([status for status in RunStatus if status != RunStatus.OK])


def _unfinished(rows: pd.DataFrame) -> dict[str, int]:
    counts = rows.loc[~_is_ok(rows), "status"].value_counts()
    return {str(status): int(count) for status, count in counts.items()}


def _distinct_names(pieces: list[pd.DataFrame]) -> list[tuple[str, ...]]:
    """Return a name for each group; hashes appear only where names collide."""
    names = [_name(rows) for rows in pieces]
    for column, label in (
        ("n_tokens", "exactly"),
        ("setup", "setup"),
        ("tokenizer_digest", "tokenizer"),
        ("corpus_digest", "corpus"),
    ):
        if len(set(names)) == len(names):
            break
        firsts = [rows[column].iloc[0] for rows in pieces]
        names = [
            (*name, f"{label} {_short(value)}") if names.count(name) > 1 and pd.notna(value) else name
            for value, name in zip(firsts, names, strict=True)
        ]
    return names


def _short(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, (int, float)) else Path(str(value)).name[:20]


def _name(rows: pd.DataFrame) -> tuple[str, ...]:
    parts = [str(rows[c].iloc[0]) for c in ("corpus", "tokenizer") if pd.notna(rows[c].iloc[0])]
    tokens = rows["n_tokens"].dropna()
    if len(tokens):
        ends = dict.fromkeys(format_count(float(end)) for end in (tokens.min(), tokens.max()))
        parts.append(f"D {'–'.join(ends)}")
    loops = dict.fromkeys(f"{end:.0f}" for end in (rows["n_loops"].min(), rows["n_loops"].max()))
    if [*loops] != ["1"]:
        parts.append(f"{'–'.join(loops)} loops")
    if not parts or pd.isna(rows["corpus"].iloc[0]):  # named after its file for want of a corpus
        file = rows["file"].iloc[0]
        parts.insert(0, Path(str(file)).stem if pd.notna(file) else "records")
    return tuple(parts)
