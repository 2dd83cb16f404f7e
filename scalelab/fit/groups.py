"""Which records may be fitted together: the same text, tokens, set-up and tokens seen."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

from scalelab.errors import DataError
from scalelab.units import format_count

_MUST_AGREE = ["corpus_digest", "tokenizer_digest", "setup", "n_tokens"]

N_COLUMNS = {
    "paper": "n_params",
    "backbone": "n_params_backbone",
    "total": "n_params_total",
}


@dataclass(frozen=True)
class Group:
    """Comparable records, with a title for people and a slug for file names."""

    title: str
    slug: str
    records: pd.DataFrame


def group_records(records: pd.DataFrame) -> list[Group]:
    """Split records so that corpora, tokenizers and set-ups are never mixed in one fit."""
    records = records.copy()
    # Foreign tables may know their corpus by name alone.
    records["corpus_digest"] = records["corpus_digest"].fillna(records["corpus"])
    pieces = [rows for _, rows in records.groupby(_MUST_AGREE, dropna=False, sort=False)]
    names = _distinct_names(pieces)
    groups = []
    for rows, name in zip(pieces, names, strict=True):
        slug = re.sub(r"[^a-z0-9.]+", "-", "-".join(name).lower()).strip("-.")
        groups.append(Group(", ".join(name), slug, rows.reset_index(drop=True)))
    return sorted(groups, key=lambda g: g.title)


def _distinct_names(pieces: list[pd.DataFrame]) -> list[tuple[str, ...]]:
    """A name for each group. Hashes tell people nothing, so they appear only where names collide."""
    names = [_name(rows) for rows in pieces]
    for column, label in (("setup", "setup"), ("tokenizer_digest", "tokenizer"), ("corpus_digest", "corpus")):
        if len(set(names)) == len(names):
            break
        names = [
            (*name, f"{label} {str(rows[column].iloc[0])[:8]}") if names.count(name) > 1 else name
            for rows, name in zip(pieces, names, strict=True)
        ]
    return names


def _name(rows: pd.DataFrame) -> tuple[str, ...]:
    first = rows.iloc[0]
    parts = [str(first[c]) for c in ("corpus", "tokenizer") if pd.notna(first[c])]
    if pd.notna(first["n_tokens"]):
        parts.append(f"D {format_count(float(first['n_tokens']))}")
    return tuple(parts) or ("records",)


def n_values(group: Group, convention: str) -> pd.Series:
    """N of each record under a convention of `N_COLUMNS`. Raises `DataError` if not recorded."""
    column = N_COLUMNS[convention]
    values = group.records[column]
    if values.isna().any():
        raise DataError(f"{group.title}: {int(values.isna().sum())} records have no {column!r}; use --count paper")
    return values.astype(float)
