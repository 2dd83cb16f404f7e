"""Records with loops: which laws may fit them together, and what the joint law of streams and loops recovers."""

import numpy as np
import pandas as pd
import pytest

import scalelab as sl
from scalelab.errors import ScalelabError, UsageError


def table(noise=3e-4, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        {"n_params": n, "n_streams": P, "n_loops": R, "n_tokens": 1e9, "setup": "one"}
        for n in (1e6, 2e6, 4e6, 8e6, 16e6)
        for P, R in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2))
    ]
    runs = pd.DataFrame(rows)
    gained = runs.n_params * runs.n_streams**0.2 * runs.n_loops**0.46
    return runs.assign(loss=(1.5 + (1e6 / gained) ** 0.3) * np.exp(noise * rng.standard_normal(len(runs))))


def test_exponents_of_streams_and_loops_are_recovered():
    fit = sl.fit_law(table(), law="loops", draws=200)
    for name, truth in (("gamma", 0.2), ("phi", 0.46)):
        found = fit.params[name]
        assert found.low < truth < found.high
        assert found.high - found.low < 0.1


def test_laws_without_loops_never_mix_them():
    groups = [*sl.fit_law(table(), law="parallel", draws=0).values()]
    assert sorted(fit.group for fit in groups) == ["table, D 1B", "table, D 1B, 2 loops", "table, D 1B, 4 loops"]
    assert [len(fit.data.loss) for fit in sorted(groups, key=lambda fit: fit.group)] == [15, 10, 5]


def test_the_law_needs_runs_with_loops():
    runs = table()
    with pytest.raises(ScalelabError, match="'loops' needs more than one value of R"):
        sl.fit_law(runs[runs.n_loops == 1], law="loops", draws=0)


def test_predictions_are_at_a_number_of_loops_and_plans_need_another_law():
    fit = sl.fit_law(table(), law="loops", draws=200)
    (found,) = fit.predict(4e6, 4, R=2).rows
    assert found.n_equivalent.value == pytest.approx(4e6 * 4 ** fit.params["gamma"], rel=1e-6)
    assert found.loss.value == pytest.approx(1.5 + (1e6 / (4e6 * 4**0.2 * 2**0.46)) ** 0.3, rel=2e-3)
    with pytest.raises(UsageError, match="the law 'loops' also depends on R"):
        sl.make_plan(fit, memory="4GB")
