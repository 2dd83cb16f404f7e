import numpy as np
import pandas as pd
import pytest

from scalelab.errors import UsageError
from scalelab.fit import FitOptions
from scalelab.fit.bootstrap import residual_errors, wild_errors
from scalelab.fit.data import fit_data
from scalelab.fit.influence import covariance, leave_one_out
from scalelab.fit.options import build_objective
from scalelab.fit.profile import profile, profile_fit
from scalelab.fit.solver import minimise
from scalelab.laws import LAWS
from tests.support.tables import fit_table


def fitted(table: pd.DataFrame, **options):
    data = fit_data(table)
    objective = build_objective(LAWS["parallel"], data, FitOptions(**options))
    return objective, data, minimise(objective, objective.to_target(data.loss), data.weight, 50).z


@pytest.mark.parametrize(("method", "sets", "least"), [("residual", 40, 34), ("wild", 20, 14), ("pairs", 20, 16)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(make_records, method, sets, least):
    """At least 34 of 40 nominal 95 % intervals cover (fewer has a chance of 1 %), without being wide."""
    hits, widths = 0, []
    for seed in range(sets):
        result = fit_table(make_records(noise=2e-3, seed=seed), bootstrap=method, starts=30, seed=seed)
        low, high = result.interval("k")
        hits += low < 0.4 < high
        widths.append(high - low)
    assert hits >= least
    assert 0.02 < np.median(widths) < 0.12


def test_one_outlier_does_not_take_the_intervals_from_the_estimate(make_records):
    table = make_records(noise=2e-3)
    table.loc[5, "loss"] *= 1.5
    result = fit_table(table)
    for name, truth in {"E": 0.7, "k": 0.4, "alpha": 0.2}.items():
        low, high = result.interval(name)
        assert low < result.values[name] < high
        assert low < truth < high
    assert result.interval("k")[1] - result.interval("k")[0] < 0.5


def test_errors_have_the_size_and_the_levels_of_those_behind_the_residuals(make_records):
    """Known noise 0.004 within and 0.003 between configurations of 24, ten seeds each."""
    rng = np.random.default_rng(3)
    between = 0.003 * rng.standard_normal(24)
    tables = [make_records() for _ in range(10)]
    for table in tables:
        table["loss"] *= np.exp(between + 0.004 * rng.standard_normal(24))
    objective, data, z = fitted(pd.concat(tables, ignore_index=True), objective="log")
    for make in (residual_errors, wild_errors):
        errors = make(objective, data, z, 500, np.random.default_rng(0))
        cells = np.stack([errors[:, data.config == c] for c in range(24)], axis=1)  # [draws, configs, seeds]
        assert cells.mean(axis=2).std() == pytest.approx(np.hypot(0.003, 0.004 / 10**0.5), rel=0.35)
        assert cells.std(axis=2, ddof=1).mean() == pytest.approx(0.004, rel=0.15)


def test_repeating_what_was_measured_adds_no_certainty_about_the_law(make_records):
    """Ten copies of each run: one configuration's error is shared, so intervals stay about as wide."""
    table = make_records(noise=3e-3, seed=2)
    once = fit_table(table, draws=400).interval("k")
    often = fit_table(pd.concat([table] * 10, ignore_index=True), draws=400).interval("k")
    assert often[1] - often[0] == pytest.approx(once[1] - once[0], rel=0.25)


def test_linear_covariance_is_that_of_many_simulated_fits(make_records):
    """By least squares and small noise, where the approximation holds."""
    estimates = []
    for seed in range(80):
        objective, data, z = fitted(make_records(noise=3e-4, seed=seed), objective="log")
        estimates.append(objective.to_params(z))
    local = covariance(objective, data, z)
    spread = np.std([np.log(e[[0, 1, 3]]) for e in estimates], axis=0)
    assert np.sqrt(np.diag(local))[[0, 1, 3]] == pytest.approx(spread, rel=0.3)
    assert np.sqrt(local[2, 2]) == pytest.approx(np.std([e[2] for e in estimates]), rel=0.3)


def test_profile_interval_of_least_squares_is_the_likelihood_ratio(make_records):
    """For normal errors the rise at the ends is s² F(1, n − f)/2, to the noise of the calibration."""
    from scipy.stats import f as f_distribution

    objective, data, z = fitted(make_records(noise=2e-3, seed=5), objective="log")
    found = profile(objective, data, z, "k")
    target = objective.to_target(data.loss)
    variance = (objective.residuals(z, target) ** 2).sum() / 20
    assert found.threshold == pytest.approx(variance * f_distribution.ppf(0.95, 1, 20) / 2, rel=0.25)
    low, high = found.interval
    assert low < 0.4 < high
    assert min(found.rise) == pytest.approx(0, abs=1e-12)


def test_profile_ends_are_where_a_refit_reaches_the_threshold(make_records):
    table = make_records(noise=2e-3, seed=4)
    result = fit_table(table)
    found = profile_fit(result, "k")
    for end in found.interval:
        held = fit_table(table, fix={"k": end}, draws=0)
        assert held.objective - result.objective == pytest.approx(found.threshold, rel=0.05)


def test_an_end_that_the_data_do_not_close_is_open(make_records):
    """Three sizes with noise cannot tell the floor from nothing: no lower end of E."""
    result = fit_table(make_records(N=(1e9, 1.5e9, 2e9), noise=5e-3, seed=1))
    low, high = profile_fit(result, "E").interval
    assert low is None
    assert high is not None


def test_no_profile_of_what_was_not_fitted(make_records):
    result = fit_table(make_records(noise=1e-3), fix={"k": 0.4})
    assert profile_fit(result, "k") is None
    objective, data, z = fitted(make_records(noise=1e-3), fix={"k": 0.4})
    with pytest.raises(UsageError, match="no profile of k"):
        profile(objective, data, z, "k")


def test_leave_one_out_finds_the_run_that_the_fit_hangs_on(make_records):
    """Against refits without each run in turn."""
    table = make_records(noise=1e-3)
    table.loc[20, "loss"] *= 1.03
    objective, data, z = fitted(table)
    local = covariance(objective, data, z)
    variance = (objective.residuals(z, objective.to_target(data.loss)) ** 2).sum() / 20
    run, name, shift = leave_one_out(objective, data, z, local)
    shifts = []
    for i in range(24):
        without = fit_table(make_table(data).drop(index=i), starts=50, draws=0)
        errors = np.sqrt(np.diag(local) * (np.array(without.log_residuals) ** 2).sum() / 19 / variance)
        shifts.append(np.abs(objective.from_params(np.array(without.params)) - z) / errors)
    assert np.max(shifts) == pytest.approx(shift, rel=1e-3)
    assert np.argmax(np.max(shifts, axis=1)) == run
    assert objective.free_names[int(np.argmax(shifts[run]))] == name


def make_table(data) -> pd.DataFrame:
    return pd.DataFrame({"n_params": data.N, "n_streams": data.P, "loss": data.loss})
