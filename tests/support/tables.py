"""Fits of tables."""

from __future__ import annotations

import pandas as pd


def fit_table(table: pd.DataFrame, law="parallel", **options):
    """The fit of a table that is one group; 200 bootstrap draws unless told."""
    from scalelab.fit import FitOptions, fit_group, group_records
    from scalelab.laws import get_law

    law = get_law(law)
    (group,) = group_records(table, by_tokens="D" not in law.variables)
    return fit_group(group, law, FitOptions(**({"draws": 200} | options)))
