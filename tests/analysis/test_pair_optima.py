"""Best levels of a setting and their exponents: known optima are recovered, and scipy's line agrees."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import scalelab as sl
from scalelab.architecture import Architecture
from scalelab.errors import ScalelabError, UsageError
from scalelab.reports.pairs import pairs_json
from scalelab.train.recipe import Recipe, RunConfig, TextSource

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
    apart = sl.pairs(swept(), best="lr", by="D", along="D", each="P", columns=COLUMNS).steps
    assert [step.group for step in apart] == [1, 2]
    assert [step.mean.value for step in apart] == pytest.approx([-0.25, -0.25], abs=1e-9)


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
    assert (found.optima.edges, found.optima.small) == (16, 0)
    assert found.steps[0].mean.value == pytest.approx(-0.5, abs=1e-9)
    assert "16 groups of runs with the least loss at the smallest or largest lr" in found.summary()
    with pytest.raises(ScalelabError, match="no group of 3 or more runs that differ only in lr has its least"):
        sl.pairs(runs, best="lr", by="D", along="D", where="lr > 0.007", columns=COLUMNS)


def test_what_is_shown_says_what_it_is(tmp_path):
    found = sl.pairs(swept(spread=0.05), best="lr", by="D", along="D", each="P", columns=COLUMNS)
    text = found.summary()
    assert "change of log2 of the best lr, for each doubling of D" in text
    assert "Decided: the best lr falls with D at P = 1, 2." in text
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
        (dict(by="D", along="D", baseline=1e8), r"baseline=1e\+08|baseline=100000000.0: has no meaning"),
        (dict(by="corpus", along="corpus"), r"along='corpus': must have positive numbers"),
        (dict(best="seed", by="P"), r"best='seed': must have positive numbers"),
    ],
)
def test_settings_that_have_no_best_level_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        sl.pairs(swept().assign(kind=["a", "b"] * 120), columns=COLUMNS | {"corpus": "kind"}, **given)


def config_of(lr, D, seed, hidden):
    shape = Architecture(hidden, 2 * hidden, 2, 2, 1, 300)
    return RunConfig(shape, D, seed, TextSource("made", "0", "made", "0"), Recipe(lr=lr))


def test_rates_of_records_are_peak_rates():
    """The recipe scales its rate by width and D, so what is best of its `lr` hides a fall that it follows."""
    rows = []
    for hidden in (32, 64):
        for D in (2_048_000, 4_096_000, 8_192_000):
            for seed in (0, 1, 2):
                for lr in (0.0025, 0.005, 0.01, 0.02, 0.04):
                    config = config_of(lr, D, seed, hidden)
                    best = 0.01 * (64 / hidden) * (D / 1e6) ** -0.25
                    row = {"n_params": hidden**2, "n_params_backbone": hidden**2, "n_streams": 1, "n_tokens": D}
                    loss = 3 + 0.1 * seed + 0.05 * np.log(config.peak_lr / best) ** 2
                    rows.append(row | {"loss": loss, "peak_lr": config.peak_lr, "config": config.to_json()})
    (by_D,) = sl.pairs(pd.DataFrame(rows), best="lr", by="D", along="D").steps
    assert by_D.mean.value == pytest.approx(-0.25, abs=1e-3)
    (by_N,) = sl.pairs(pd.DataFrame(rows), best="lr", by="N", along="N").steps
    assert by_N.mean.value == pytest.approx(-0.5, abs=1e-3)  # of hidden², by the rule for widths


def test_settings_that_change_with_the_rate_can_be_ignored():
    runs = swept().assign(batch_size=lambda t: 1e6 * t["lr"])
    with pytest.raises(ScalelabError, match="or name settings that change with it with `ignore`"):
        sl.pairs(runs, best="lr", by="D", along="D", columns=COLUMNS)
    (step,) = sl.pairs(runs, best="lr", by="D", along="D", ignore="batch_size", columns=COLUMNS).steps
    assert step.mean.value == pytest.approx(-0.25, abs=1e-9)


def test_what_is_compared_is_never_ignored():
    (step,) = sl.pairs(swept(), best="lr", by="D", along="D", ignore=["D", "seed"], columns=COLUMNS).steps
    assert step.mean.value == pytest.approx(-0.25, abs=1e-9)


def test_what_is_left_out_is_counted():
    runs = swept(sizes=(2e6,))
    runs = runs[(runs["n_streams"] == 1) & ((runs["seed"] > 0) | (runs["n_tokens"] < 1.5e8))]
    found = sl.pairs(runs, best="lr", by="D", along="D", columns=COLUMNS)
    assert (len(found.steps[0].differences), found.unpaired) == (3, 1)
    assert "1 series with a single D: not used" in found.summary()
    few = runs[(runs["seed"] != 1) | (runs["lr"] > 0.005)]
    found = sl.pairs(few, best="lr", by="D", baseline="previous", columns=COLUMNS)
    assert found.optima.small == 3
    text = found.summary()
    assert "3 groups of runs with fewer than 3 values of lr" in text
    assert "1 group of runs without a partner: not used" in text
