"""Fits of tables."""

from __future__ import annotations

import pandas as pd


def fit_table(table: pd.DataFrame, law="parallel", **options):
    """Return the fit of a table with one group; 200 bootstrap draws by default."""
    from scalelab.fit import FitOptions, fit_group, group_records
    from scalelab.laws import get_law

    law = get_law(law)
    (group,) = group_records(table, by_tokens="D" not in law.variables)
    return fit_group(group, law, FitOptions(**({"draws": 200} | options)))
