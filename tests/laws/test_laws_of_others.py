"""Laws of other variables than N, P and D, or of one alone: as their sources write them, and recovered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scalelab import records
from scalelab.errors import UsageError
from scalelab.fit import FitOptions, fit_group, group_records, load_fit, save_fit
from scalelab.fit.data import COLUMNS
from scalelab.fit.derived import hoffmann_coefficients
from scalelab.fit.select import fit_chosen
from scalelab.laws import LAWS, Points
from tests.support.laws_of_others import TRUTHS


def table_of_law(name: str, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Losses of a law on a grid of its variables, in the records' columns."""
    law, rng = LAWS[name], np.random.default_rng(seed)
    levels = {
        "N": np.geomspace(1e7, 1e11, 12 if len(law.variables) == 1 else 6),
        "P": np.array([1.0, 2, 4, 8, 32]),
        "D": np.geomspace(1e8, 1e12, 16 if len(law.variables) == 1 else 5),
        "C": np.geomspace(1e18, 1e24, 24),
        "U": np.array([1e8, 1e9, 1e10]),
        "X": np.array([1.0, 4, 16, 64]),
        "R": np.array([1.0, 2, 4, 8]),
        "lr": np.geomspace(2e-4, 2e-2, 7),
        "B": np.geomspace(5e4, 5e6, 7),
    }
    if name == "broken-params":
        levels["N"] = np.geomspace(1e7, 1e11, 24)
    grid = dict(zip(law.variables, (a.ravel() for a in np.meshgrid(*(levels[v] for v in law.variables))), strict=True))
    if name == "data-constrained":
        keep = (grid["D"] >= grid["U"]) & (grid["D"] <= 300 * grid["U"])
        grid = {v: a[keep] for v, a in grid.items()}
    rows = len(next(iter(grid.values())))
    n, p, d = (grid.get(v, np.full(rows, np.nan)) for v in "NPD")
    points = Points(n, p, d, others={v: a for v, a in grid.items() if v not in "NPD"})
    loss = law.loss(np.array(TRUTHS[name]), points) * np.exp(noise * rng.standard_normal(rows))
    return pd.DataFrame({COLUMNS[v]: a for v, a in grid.items()} | {"loss": loss})


def fitted(name: str, table: pd.DataFrame, **options):
    (group,) = group_records(records.read(table), by_tokens=False, by_loops=False)
    return fit_group(group, name, FitOptions(**{"draws": 0, **options}))


@pytest.mark.parametrize("name", [name for name in TRUTHS if name != "lr-batch"])
def test_a_law_recovers_its_own_parameters(name):
    fit = fitted(name, table_of_law(name), objective="log")
    assert fit.r_squared > 1 - 1e-8
    assert fit.params == pytest.approx(TRUTHS[name], rel=2e-3, abs=2e-3)


def test_the_best_learning_rate_and_batch_size_are_recovered(tmp_path):
    fit = fitted("lr-batch", table_of_law("lr-batch", noise=2e-4), draws=100)
    rate, batch = fit.law.optimum(np.array(fit.params), 5e10, 5e12)
    assert rate == pytest.approx(2e-3 * 50**-0.7 * 50**0.3, rel=0.1)
    assert batch == pytest.approx(5e5 * 50**0.05 * 50**0.5, rel=0.1)
    low, high = fit.interval("lr_N")
    assert low < -0.7 < high
    assert high - low < 0.1
    save_fit(fit, tmp_path / "fit.json")
    assert load_fit(tmp_path / "fit.json") == fit


def test_fits_of_other_variables_predict_and_are_saved(tmp_path):
    fit = fitted("compute", table_of_law("compute", noise=1e-3), draws=100)
    save_fit(fit, tmp_path / "fit.json")
    again = load_fit(tmp_path / "fit.json")
    assert again == fit
    assert float(again.predict(C=1e21)) == pytest.approx(1.6 + (1e17 / 1e21) ** 0.1, rel=3e-3)
    with pytest.raises(UsageError, match="depends on C: give `C`"):
        fit.predict(1e9)
    with pytest.raises(UsageError, match="has no U; leave out `U`"):
        fit.predict(C=1e21, U=1e9)


def test_tied_exponents_are_one_parameter(table_of, tmp_path):
    table = table_of("chinchilla", (0.7, 1e7, 0.3, 1e9, 0.3), P=(1,), D=(1e9, 1e10, 1e11), noise=1e-3)
    (group,) = group_records(table, by_tokens=False)
    fit = fit_group(group, "chinchilla", FitOptions(draws=100, tie={"beta": "alpha"}))
    assert fit.law.names == ("E", "A", "alpha", "B")
    assert fit.values["alpha"] == pytest.approx(0.3, abs=0.02)
    save_fit(fit, tmp_path / "fit.json")
    assert load_fit(tmp_path / "fit.json").params == fit.params
    for wrong in ({"beta": "q"}, {"beta": "beta"}):
        with pytest.raises(UsageError, match=r"tie={'beta': "):
            fit_group(group, "chinchilla", FitOptions(tie=wrong))


def test_coefficients_in_hoffmanns_form(table_of):
    """E 1.69, A 406.4, α 0.34, B 410.7, β 0.28 (arXiv 2203.15556, appendix D.3)."""
    params = (1.69, 406.4 ** (1 / 0.34), 0.34, 410.7 ** (1 / 0.28), 0.28)
    table = table_of("chinchilla", params, P=(1,), D=np.geomspace(1e9, 1e12, 6), noise=1e-5)
    (group,) = group_records(table, by_tokens=False)
    found = hoffmann_coefficients(fit_group(group, "chinchilla", FitOptions(draws=100)))
    for name, value in {"A": 406.4, "B": 410.7}.items():
        assert found[name].value == pytest.approx(value, rel=0.01)
        assert found[name].low < found[name].value < found[name].high


def test_the_law_that_made_the_losses_is_chosen_by_what_was_left_out():
    for name in ("data-constrained", "experts", "experts-started", "compute"):
        (group,) = group_records(records.read(table_of_law(name, noise=3e-4)), by_tokens=False)
        comparison, fit = fit_chosen(group, FitOptions(draws=0))
        assert fit.law.name == name
        assert comparison.chosen.startswith(name)
