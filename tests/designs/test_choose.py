"""Choice of runs by an ensemble, against linear regression, where the best design is known exactly."""

from itertools import combinations

import numpy as np
import pytest

from scalelab.designs.choose import choose, narrowed, pilot

NOISE = 0.01


def linear(draws=20_000, seed=0):
    """Draws of a + b·x at nine candidates and at x = 3, with a, b ~ N(0, 1): ln loss is linear in the parameters."""
    rng = np.random.default_rng(seed)
    a, b = 0.1 * rng.standard_normal((2, draws))
    x = np.linspace(-1, 1, 9)
    return x, np.exp(a[:, None] + b[:, None] * x), (a + 3 * b)[:, None]


def variance(x, rows, at=3.0):
    """Exact posterior variance of a + b·at after noisy observations at the rows."""
    X = np.stack([np.ones(len(rows)), x[list(rows)]], axis=1)
    precision = np.eye(2) / 0.01 + X.T @ X / NOISE**2
    g = np.array([1.0, at])
    return g @ np.linalg.solve(precision, g)


def choice(prices, budget, most=9, allowed=None):
    x, losses, targets = linear()
    allowed = np.ones(len(x), dtype=bool) if allowed is None else allowed
    return x, choose(losses, targets, prices, budget, np.full(len(x), NOISE), allowed, most)


def test_variances_are_those_of_linear_regression():
    x, found = choice(np.ones(9), 3)
    exact = [variance(x, found.chosen[:i]) for i in range(len(found.chosen) + 1)]
    assert [found.before, *found.left] == pytest.approx(exact, rel=0.06)


def test_two_runs_of_equal_price_are_close_to_the_best_pair():
    x, found = choice(np.ones(9), 2)
    best = min(variance(x, pair) for pair in combinations(range(9), 2))
    assert variance(x, found.chosen) < 1.3 * best
    assert 8 in found.chosen  # nearest to the target


def test_prices_and_the_budget_count():
    prices = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 50])
    _, found = choice(prices, 4)
    assert 8 not in found.chosen
    assert prices[list(found.chosen)].sum() <= 4
    _, found = choice(prices, 60)
    assert 8 in found.chosen


def test_runs_that_are_not_allowed_are_not_chosen():
    allowed = np.arange(9) < 5
    _, found = choice(np.ones(9), 9, allowed=allowed)
    assert set(found.chosen) <= set(range(5))
    assert len(set(found.chosen)) == len(found.chosen)


def test_an_unrelated_candidate_gains_nothing():
    rng = np.random.default_rng(1)
    losses, targets = np.exp(0.1 * rng.standard_normal((500, 4))), rng.standard_normal((500, 1))
    found = choose(losses, targets, np.ones(4), 4, np.full(4, NOISE), np.ones(4, dtype=bool), 4)
    assert found.after > 0.95 * found.before


def test_runs_narrow_as_linear_regression_says_and_no_runs_not_at_all():
    x, losses, targets = linear()
    left, _ = narrowed(losses, targets, (8, 0), NOISE)
    assert left == pytest.approx([variance(x, rows) / variance(x, ()) for rows in ((8,), (8, 0))], rel=0.06)
    assert narrowed(losses, targets, (), NOISE)[0] == ()


def test_a_pilot_fills_the_space_within_its_budget():
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 1, 5), np.linspace(0, 1, 5)))
    prices = 10.0 ** (x + y)
    rows = pilot(np.stack([x, y], axis=1), prices, 60.0, 6)
    assert len(rows) == len(set(rows)) == 6
    assert prices[rows].sum() <= 60
    assert np.ptp(x[rows]) > 0.7
    assert np.ptp(y[rows]) > 0.7
    assert rows[0] == 0  # the cheapest


def test_a_pilot_that_nothing_can_pay_is_empty():
    assert pilot(np.zeros((3, 1)), np.array([2.0, 3.0, 4.0]), 1.0, 3) == []
