"""Every law on tables with something wrong: a fit, or one clear line and exit code 1 or 2, and never a warning."""

import numpy as np
import pandas as pd
import pytest

import scalelab as sl
from scalelab.errors import ScalelabError
from scalelab.fit.data import COLUMNS
from scalelab.laws import LAWS

LEVELS = {
    "N": np.geomspace(1e7, 1e10, 5),
    "P": np.array([1.0, 2, 4, 8]),
    "D": np.geomspace(1e9, 1e12, 5),
    "C": np.geomspace(1e18, 1e23, 12),
    "U": np.array([1e9, 1e10]),
    "X": np.array([1.0, 4, 16, 64]),
    "R": np.array([1.0, 2, 4, 8]),
    "lr": np.geomspace(1e-4, 1e-2, 4),
    "B": np.geomspace(1e5, 4e6, 4),
}
CELLS = {"zero": 0.0, "negative": -1.0, "nan": np.nan, "inf": np.inf, "huge": 1e300}
WHOLE = {
    "zeros": lambda values: np.zeros(len(values)),
    "no numbers": lambda values: np.full(len(values), np.nan),
    "beyond floats": lambda values: values * 1e300,
}


def table_for(law):
    """Losses that fall smoothly with each variable of the law, or have an optimum of it, with noise."""
    rng = np.random.default_rng(0)
    rows = 300 if "lr" in law.variables else 36
    levels = dict(LEVELS)
    if len(law.variables) == 1:
        levels = {v: np.geomspace(values[0], values[-1], 12) for v, values in LEVELS.items()}
    at = {v: rng.choice(levels[v], rows) for v in law.variables}
    gains = sum(0.3 * (values / LEVELS[v][0]) ** -0.15 for v, values in at.items() if v not in ("lr", "B"))
    away = sum(np.log(at[v] / best) ** 2 for v, best in (("lr", 1e-3), ("B", 6e5)) if v in at)
    loss = (1.7 + gains) * np.exp(0.002 * away + 3e-4 * rng.standard_normal(rows))
    return pd.DataFrame({COLUMNS[v]: values for v, values in at.items()} | {"loss": loss})


def spoiled(table):
    """(what is wrong, table) for each way."""
    yield "nothing", table
    yield "one row", table.iloc[:1]
    yield "two rows", table.iloc[:2]
    yield "doubled rows", pd.concat([table] * 3, ignore_index=True)
    yield "the same row", pd.concat([table.iloc[:1]] * 12, ignore_index=True)
    columns = list(table)
    for i, (name, value) in enumerate(CELLS.items()):  # each in another column
        column = columns[i % len(columns)]
        cells = table.astype(object)
        cells.loc[3, column] = value
        yield f"{name} in {column}", cells
    for column in columns:
        yield f"constant {column}", table.assign(**{column: table[column].iloc[0]})
    for i, (name, change) in enumerate(WHOLE.items()):
        column = columns[-1 - i % len(columns)]
        yield f"{name} in {column}", table.assign(**{column: change(table[column].to_numpy())})


def fit_or_error(path, law):
    """The fit and its summary, or the error that the command line would print as one line."""
    try:
        return sl.fit_law(path, law.name, starts=2, draws=4).summary(), None
    except ScalelabError as error:
        return "", error


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
@pytest.mark.filterwarnings("ignore:overflow encountered in multiply:RuntimeWarning:tests")  # of the tables made here
def test_a_spoiled_table_gives_a_fit_or_one_clear_line(tmp_path, law):
    fitted = []
    for wrong, table in spoiled(table_for(law)):
        table.to_csv(tmp_path / "runs.csv", index=False)
        summary, error = fit_or_error(tmp_path / "runs.csv", law)
        if error is None:
            assert summary, wrong
            fitted.append(wrong)
        else:
            assert error.exit_code in (1, 2), wrong
            assert str(error), wrong
            assert "\n" not in str(error), wrong
    assert {"nothing", "doubled rows"} <= {*fitted}
