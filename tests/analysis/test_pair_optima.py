"""Best levels of a setting and their exponents: known optima are recovered, and scipy's line agrees."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import scalelab as sl
from scalelab.errors import ScalelabError, UsageError
from scalelab.reports.pairs import pairs_json

RATES = [0.001, 0.002, 0.004, 0.008, 0.016]


def swept(exponent=-0.25, seeds=4, sizes=(1e6, 4e6), tokens=(1e8, 2e8, 8e8), spread=0.0, by_P=0.0):
    """Losses that are parabolas in ln lr, with an optimum that moves with D, P and, by `spread`, with the seed."""
    rng = np.random.default_rng(5)
    rows = []
    for n in sizes:
        for seed in range(seeds):
            own = spread * rng.standard_normal()
            for D in tokens:
                for P in (1, 2):
                    best = 0.004 * (n / 2e6) ** -0.3 * (D / 3e8) ** exponent * 2 ** (own + by_P * (P - 1))
                    for lr in RATES:
                        loss = 3 - 0.1 * np.log(D / 1e8) + 0.05 * np.log(lr / best) ** 2
                        rows.append(
                            {"n_params": n, "n_tokens": D, "n_streams": P, "seed": seed, "lr": lr, "loss": loss}
                        )
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


COLUMNS = {"peak_lr": "lr"}


def test_the_exponent_of_the_best_rate_is_recovered():
    (step,) = sl.pairs(swept(), best="lr", by="D", along="D", columns=COLUMNS).steps
    assert step.mean.value == pytest.approx(-0.25, abs=1e-9)
    assert (step.level, step.against, len(step.differences), step.lower) == (None, None, 16, 16)
    (by_N,) = sl.pairs(swept(), best="lr", by="N", along="N", columns=COLUMNS).steps
    assert by_N.mean.value == pytest.approx(-0.3, abs=1e-9)


def test_the_best_rate_is_compared_between_levels():
    found = sl.pairs(swept(spread=0.3, by_P=0.1), best="lr", columns=COLUMNS)
    (step,) = found.steps
    assert step.mean.value == pytest.approx(0.1, abs=1e-9)  # the seed's own part cancels
    steps = sl.pairs(swept(), best="lr", by="D", baseline="previous", columns=COLUMNS).steps
    assert [step.mean.value for step in steps] == pytest.approx([-0.25, -0.5], abs=1e-9)
    (apart, _) = sl.pairs(swept(), best="lr", by="D", along="D", each="P", columns=COLUMNS).steps
    assert apart.group == 1
    assert apart.mean.value == pytest.approx(-0.25, abs=1e-9)


def test_one_series_a_seed_has_the_slope_and_interval_of_scipy():
    rng = np.random.default_rng(6)
    runs = swept(sizes=(2e6,), seeds=5)
    runs = runs[runs["n_streams"] == 1]
    runs = runs.assign(loss=runs["loss"] + 0.002 * rng.standard_normal(len(runs)))
    (step,) = sl.pairs(runs, by="D", along="D", where="lr == 0.004", columns=COLUMNS).steps
    slopes = [
        stats.linregress(np.log2(one["n_tokens"]), one["loss"]).slope
        for _, one in runs[runs["lr"] == 0.004].groupby("seed")
    ]
    low, high = stats.ttest_1samp(slopes, 0.0).confidence_interval(0.95)
    assert sorted(step.differences) == pytest.approx(sorted(slopes), rel=1e-9)
    assert (step.mean.value, step.mean.low, step.mean.high) == pytest.approx((np.mean(slopes), low, high), rel=1e-9)


def test_an_optimum_at_the_edge_is_left_out_with_a_word():
    runs = swept(exponent=-0.5, tokens=(1e8, 3e8, 9e8, 2.7e9, 8.1e9), sizes=(2e6,))
    found = sl.pairs(runs, best="lr", by="D", along="D", columns=COLUMNS)
    assert found.edges == 16
    assert found.steps[0].mean.value == pytest.approx(-0.5, abs=1e-9)
    assert "16 groups of runs with the least loss at the smallest or largest lr" in found.summary()
    with pytest.raises(ScalelabError, match="no 3 runs that differ only in lr have their least loss inside its range"):
        sl.pairs(runs, best="lr", by="D", along="D", where="lr > 0.007", columns=COLUMNS)


def test_what_is_shown_says_what_it_is(tmp_path):
    found = sl.pairs(swept(spread=0.05), best="lr", by="D", along="D", each="P", columns=COLUMNS)
    text = found.summary()
    assert "change of log2 of the best lr, for each doubling of D" in text
    assert "Decided: the best lr falls with D (P = 1); with D (P = 2)." in text
    assert pairs_json(found)["best"] == "lr"
    assert found.to_frame().columns[0] == "P"
    found.plot().savefig(tmp_path / "a.png")
    rising = sl.pairs(swept(exponent=0.2), by="D", along="D", best="lr", columns=COLUMNS)
    assert "Decided: the best lr rises with D." in rising.summary()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(best="lr", by="lr"), r"best='lr': is what is compared; choose another setting"),
        (dict(best="speed"), r"best='speed': no such setting; these vary: "),
        (dict(best="kind"), r"best='kind': no such setting"),
        (dict(best="seed", by="P"), r"best='seed': must have positive numbers"),
    ],
)
def test_settings_that_have_no_best_level_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        sl.pairs(swept(), columns=COLUMNS, **given)
