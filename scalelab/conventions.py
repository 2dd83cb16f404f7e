"""Conventions for counting the parameters N of a model, shared by fits, prices and records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """A parameter-count convention: the column of a record, the property of an architecture, and the meaning."""

    column: str
    attribute: str
    meaning: str


CONVENTIONS: dict[str, Convention] = {
    "paper": Convention("n_params", "n_params", "non-embedding parameters with streams"),
    "backbone": Convention("n_params_backbone", "backbone_params", "non-embedding parameters without streams"),
    "total": Convention("n_params_total", "total_params", "all parameters"),
}
