"""Which records may be fitted together: the same text, tokens, set-up and tokens seen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scalelab.errors import DataError
from scalelab.units import format_count

_MUST_AGREE = ["corpus_digest", "tokenizer_digest", "setup", "n_tokens"]


@dataclass(frozen=True)
class Convention:
    """A way to count N: the record's column, and what it counts."""

    column: str
    meaning: str


CONVENTIONS = {
    "paper": Convention("n_params", "non-embedding parameters with streams"),
    "backbone": Convention("n_params_backbone", "non-embedding parameters without streams"),
    "total": Convention("n_params_total", "all parameters"),
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
    # Foreign tables may know their corpus and tokenizer by name alone, or not at all: then what
    # stands in one file belongs together.
    records["tokenizer_digest"] = records["tokenizer_digest"].fillna(records["tokenizer"])
    records["corpus_digest"] = records["corpus_digest"].fillna(records["corpus"])
    if "file" in records:
        records["corpus_digest"] = records["corpus_digest"].fillna(records["file"])
    pieces = [rows for _, rows in records.groupby(_MUST_AGREE, dropna=False, sort=False)]
    groups: dict[str, Group] = {}
    for rows, name in zip(pieces, _distinct_names(pieces), strict=True):
        slug = base = re.sub(r"[^\w.]+", "-", "-".join(name).lower()).strip("-.") or "records"
        while slug in groups:
            slug = f"{base}-{len(groups) + 1}"
        groups[slug] = Group(", ".join(name), slug, rows.reset_index(drop=True))
    return sorted(groups.values(), key=lambda g: g.title)


def _distinct_names(pieces: list[pd.DataFrame]) -> list[tuple[str, ...]]:
    """A name for each group. What tells people little appears only where names collide."""
    names = [_name(rows.iloc[0]) for rows in pieces]
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


def _name(first: pd.Series) -> tuple[str, ...]:
    parts = [str(first[c]) for c in ("corpus", "tokenizer") if pd.notna(first[c])]
    if pd.notna(first["n_tokens"]):
        parts.append(f"D {format_count(float(first['n_tokens']))}")
    return tuple(parts) or ("records",)


def n_values(group: Group, convention: str) -> pd.Series:
    """N of each record under one of `CONVENTIONS`. Raises `DataError` if not recorded."""
    column = CONVENTIONS[convention].column
    values = group.records[column]
    if values.isna().any():
        raise DataError(f"{group.title}: {int(values.isna().sum())} records have no {column!r}; use --count paper")
    return values.astype(float)
