import numpy as np
import pytest

from scalelab.errors import UsageError
from scalelab.fit.derived import (
    compute_optimal,
    doubling_gain,
    extrapolation_notes,
    n_equivalent,
    predicted,
)
from tests.support.tables import fit_table


def test_n_equivalent_of_the_parallel_law_is_its_definition(make_records):
    fit = fit_table(make_records(noise=1e-3))
    k = fit.values["k"]
    found = n_equivalent(fit, 2e9, 8)
    assert found.value == pytest.approx(2e9 * (1 + k * np.log(8)), rel=1e-9)
    draws = 2e9 * (1 + np.array(fit.draws)[:, 2] * np.log(8))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), rel=5e-3)
    assert n_equivalent(fit, 2e9, 1).value == pytest.approx(2e9, rel=1e-9)


def test_no_plain_model_may_be_as_good(table_of):
    """With a gain of P apart from N, a large model with streams is beyond any plain one."""
    fit = fit_table(table_of("additive", (0.7, 1e7, 0.25, 0.08, 1.0)), "additive")
    assert np.isinf(n_equivalent(fit, 1e14, 8).value)
    near = n_equivalent(fit, 1e9, 2)
    assert fit.predict(near.value, 1) == pytest.approx(float(fit.predict(1e9, 2)), rel=1e-9)


def test_doubling_gain_and_prediction_are_the_laws_losses(make_records):
    fit = fit_table(make_records(noise=1e-3))
    gain = doubling_gain(fit, 1e9, 2)
    assert gain.value == pytest.approx(float(fit.losses(1e9, 2) - fit.losses(1e9, 4)), rel=1e-12)
    assert gain.low < gain.value < gain.high
    at = predicted(fit, 1e9, 2)
    low, high = fit.band(1e9, 2)
    assert (at.low, at.high) == pytest.approx((float(low), float(high)), abs=2e-4)


def test_compute_optimal_is_the_closed_form(table_of):
    """For E + (A/N)^α + (B/D)^β: α(A/N)^α = β(B/D)^β at the optimum (Hoffmann et al., equation 4)."""
    fit = fit_table(table_of("joint", (0.7, 1e7, 0.5, 0.3, 1e9, 0.35), D=(1e9, 4e9, 2e10, 1e11)), "joint")
    v = fit.values
    for P in (1, 8):
        best = compute_optimal(fit, 1e22, P)
        N, D = best.N.value, best.D.value
        assert best.flops / (6 * N * D * P) == pytest.approx(1, rel=1e-9)
        size = (v["A"] / (N * (v["k"] * np.log(P) + 1))) ** v["alpha"]
        assert v["alpha"] * size == pytest.approx(v["beta"] * (v["B"] / D) ** v["beta"], rel=1e-4)
        assert best.loss.value == pytest.approx(float(fit.predict(N, P, D)), rel=1e-12)
        around = [float(fit.predict(N * f, P, D / f)) for f in (0.9, 1.1)]
        assert best.loss.value < min(around)
        assert best.N.low < N < best.N.high


def test_extrapolation_is_named_with_its_factor(make_records):
    fit = fit_table(make_records(noise=1e-3))
    assert extrapolation_notes(fit, 1e9, 4) == []
    (far,) = extrapolation_notes(fit, 4.4e10, 4)
    assert (far.severity, far.figures) == ("serious", {"N_factor": pytest.approx(10, rel=1e-3)})
    near = extrapolation_notes(fit, 2.5e8, 16)
    assert [(n.severity, round(next(iter(n.figures.values())), 2)) for n in near] == [
        ("warning", 2.0),
        ("warning", 2.0),
    ]


def test_what_a_law_does_not_know_is_refused(make_records, table_of):
    fit = fit_table(make_records(noise=1e-3))
    with pytest.raises(UsageError, match="has no D: it is valid for the D of its data"):
        fit.predict(1e9, 2, 1e9)
    with pytest.raises(UsageError, match="does not depend on both N and D, so it has no best N and D"):
        compute_optimal(fit, 1e21)
    with pytest.raises(UsageError, match="must be positive"):
        fit.losses(-1.0, 2)
    chinchilla = fit_table(
        table_of("chinchilla", (1.7, 1e7, 0.34, 1e9, 0.28), P=(1,), D=(1e9, 1e10, 1e11)), "chinchilla"
    )
    with pytest.raises(UsageError, match="depends on D: give `D`"):
        chinchilla.predict(1e9)
    with pytest.raises(UsageError, match="has no P; leave out `P`"):
        chinchilla.predict(1e9, 2, 1e9)


def test_without_draws_there_are_numbers_and_no_intervals(make_records):
    fit = fit_table(make_records(noise=1e-3), draws=0)
    assert (predicted(fit, 1e9, 2).low, predicted(fit, 1e9, 2).high) == (None, None)
    assert fit.interval("k") is None
