"""Draws of the laws given few runs, against laws with known parameters."""

import numpy as np
import pytest

from scalelab.designs.pool import make_pool
from scalelab.designs.posterior import posterior
from scalelab.designs.prior import support_of, with_prior
from scalelab.fit.data import FitData
from scalelab.fit.options import FitOptions, build_objective
from scalelab.fit.select import CandidateLaw, candidates
from scalelab.laws import LAWS, Points

TRUTH = np.array([0.7, 1.1e7, 0.4, 0.2])  # E, A, k, α of the parallel law
SIZES = np.array([1e8, 2e8, 4e8, 8e8, 1.6e9, 3.2e9])
AT = Points(np.array([6.4e9]), np.array([4.0]), np.array([np.nan]))


def pool_of(n, noise, seed=0):
    rng = np.random.default_rng(seed)
    N, P = np.repeat(SIZES, 3), np.tile([1.0, 2, 4], 6)
    rows = rng.permutation(18)[:n]
    nan = np.full(n, np.nan)
    loss = LAWS["parallel"].loss(TRUTH, Points(N[rows], P[rows])) * np.exp(noise * rng.standard_normal(n))
    known = FitData(N[rows], P[rows], nan, loss, np.ones(n), N[rows], ("N", "P"))
    return make_pool(known, {"N": N, "P": P}, N * P)


def draws_of(pool, laws, draws=150, seed=0):
    return posterior(laws, pool, np.arange(pool.n_known), support_of(pool.candidates, AT), draws, seed)


def only(name):
    return [CandidateLaw(name, LAWS[name], {})]


def test_derivatives_of_the_objective_with_a_prior_are_those_of_finite_differences():
    pool = pool_of(6, 0.0)
    whole = build_objective(LAWS["parallel"], pool.data, FitOptions(objective="log"))
    objective = with_prior(whole, np.arange(6), support_of(pool.candidates, AT))
    z = whole.from_params(TRUTH) + 0.1
    target = np.zeros(len(objective.points.N) + 4)
    residuals, slopes = objective.evaluate(z, target)
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-6
        difference = (objective.residuals(z + step, target) - objective.residuals(z - step, target)) / 2e-6
        assert slopes[:, i] == pytest.approx(difference, abs=1e-6)
    assert residuals[-4:] == pytest.approx(z)


@pytest.mark.slow
def test_intervals_hold_the_truth_with_any_number_of_runs():
    truth = float(LAWS["parallel"].loss(TRUTH, AT)[0])
    held = []
    for seed in range(24):
        n = (3, 6, 12)[seed % 3]
        losses = draws_of(pool_of(n, 0.003, seed), only("parallel"), 100, seed).losses(AT)[:, 0]
        held.append(np.quantile(losses, 0.025) <= truth <= np.quantile(losses, 0.975))
    assert np.mean(held) >= 0.85  # 95 % less 2.2 standard errors


def test_more_runs_narrow_the_draws():
    widths = [
        np.ptp(np.quantile(draws_of(pool_of(n, 0.002), only("parallel")).losses(AT), [0.1, 0.9])) for n in (3, 9, 18)
    ]
    assert widths[0] > 1.5 * widths[1] > 1.5 * widths[2]


def test_weights_favour_the_true_law_and_add_up_to_one():
    pool = pool_of(18, 0.0005)
    found = draws_of(pool, candidates(pool.data))
    weights = {one.candidate.label: one.weight for one in found.laws}
    assert sum(weights.values()) == pytest.approx(1)
    assert max(weights, key=weights.__getitem__) == "parallel"
    assert "no effect of P" not in weights


def test_one_run_excludes_no_law():
    pool = pool_of(1, 0.0)
    found = draws_of(pool, candidates(pool.data))
    assert len(found.laws) == len(candidates(pool.data))
    assert np.isfinite(found.losses(AT)).all()


def test_an_outlier_moves_the_middle_little():
    clean, pool = (pool_of(18, 0.001) for _ in range(2))
    pool.data.loss[3] *= 1.1
    middles = [draws_of(p, only("parallel")).middle(AT)[0] for p in (clean, pool)]
    assert middles[1] == pytest.approx(middles[0], rel=0.01)


def test_draws_repeat_with_the_seed():
    pool = pool_of(6, 0.002)
    first, second = (draws_of(pool, only("parallel"), 50).losses(AT) for _ in range(2))
    assert (first == second).all()
