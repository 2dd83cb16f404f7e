"""Forecasts of final losses: kriging against the textbook, imagined sweeps with known ends, and recorded curves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from scalelab.analysis.final_loss import (
    LEAST_RUNS,
    MOST_RUNS,
    FinalLoss,
    Measured,
    RunFacts,
    TrainedRun,
    find_rival,
    forecast_final,
    nearest,
)
from scalelab.analysis.kriging import Design, covariances, predict_last
from tests.support.paths import ROOT

POINTS = 100


def facts(N=50e3, P=1, D=1e6, seed=0, **others):
    return RunFacts(N, P, D, seed, 0.01, 512, 6 * N * P * D, "setup", "text", "linear", **others)


def imagined(settings, rng, batch_noise=0.04, own_noise=0.01, run_noise=0.01):
    """Runs whose loss falls with the learning rate; runs of one seed see the same batches."""
    batches = {f.seed: batch_noise * rng.standard_normal(POINTS) for f in settings}
    share = np.arange(1, POINTS + 1) / POINTS
    made = []
    for each in settings:
        end = 2.0 + 6 * each.N**-0.18 / each.P**0.03 + 20 * each.D**-0.3 + run_noise * rng.standard_normal()
        above = (0.6 + 0.02 * np.log(each.N / 50e3)) * (1 - share) ** 1.3 + 4 * np.exp(-share / 0.04)
        noise = batches[each.seed] + own_noise * rng.standard_normal(POINTS)
        made.append(TrainedRun(each, share, end - 0.1 + above + noise, end))
    return made


def grid(seeds=(0, 1)):
    return [facts(N, P, seed=s) for N in (20e3, 50e3, 100e3, 250e3, 600e3) for P in (1, 2, 4) for s in seeds]


def until(run, share):
    kept = run.shares <= share + 1e-9
    return replace(run, shares=run.shares[kept], losses=run.losses[kept], final=np.nan)


def test_kriging_without_correlation_is_least_squares():
    """Prediction and interval of a line through 12 points, by the formulas of a textbook."""
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal(12), 1.7
    y = 1 + 2 * x + 0.3 * rng.standard_normal(12)
    columns = np.column_stack([np.ones(13), np.append(x, new)])
    found = predict_last(y, [Design(np.zeros(13), columns, np.eye(13)[None])], 0.95)
    line = stats.linregress(x, y)
    rest = y - line.intercept - line.slope * x
    spread = np.sqrt((rest**2).sum() / 10 * (1 + 1 / 12 + (new - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()))
    assert found.value == pytest.approx(line.intercept + line.slope * new)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 10) * spread)


def test_kriging_is_the_conditional_expectation_of_a_gaussian():
    """With a known mean of zero it would be k'K⁻¹y; generalised least squares puts the estimated mean in its place."""
    rng = np.random.default_rng(1)
    at = rng.standard_normal((9, 2))
    kernel = np.exp(-((at[:, None] - at[None]) ** 2).sum(axis=2) / 2)
    y = rng.multivariate_normal(np.zeros(8), (3 * kernel + np.eye(9))[:8, :8]) + 5
    found = predict_last(y, [Design(np.zeros(9), np.ones((9, 1)), covariances([(kernel, (3.0,))]))], 0.95)
    K = 3 * kernel + np.eye(9)
    inverse, near, ones = np.linalg.inv(K[:8, :8]), K[:8, 8], np.ones(8)
    mean = ones @ inverse @ y / (ones @ inverse @ ones)
    rest = y - mean
    variance = rest @ inverse @ rest / 7
    left = 1 - ones @ inverse @ near
    spread = variance * (K[8, 8] - near @ inverse @ near + left**2 / (ones @ inverse @ ones))
    assert found.value == pytest.approx(mean + near @ inverse @ rest)
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 7) * np.sqrt(spread))


def test_kriging_prefers_the_covariance_that_made_the_values():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(8), 5)
    same = (groups[:, None] == groups[None]).astype(float)
    y = 0.1 * rng.standard_normal(39) + 3 * rng.standard_normal(8)[groups[:39]]
    found = predict_last(y, [Design(np.zeros(40), np.ones((40, 1)), covariances([(same, (0.0, 1000.0))]))], 0.95)
    own = y[groups[:39] == groups[39]].mean()
    assert found.value == pytest.approx(own, abs=0.1)
    assert found.high - found.low < 1


def test_values_without_noise_have_an_interval_of_nearly_no_width():
    line = np.arange(9.0)
    found = predict_last(line[:8], [Design(line, np.ones((9, 1)), np.eye(9)[None])], 0.95)
    assert found.value == pytest.approx(8)
    assert 0 <= found.high - found.low < 1e-6


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_intervals_hold_known_ends(share):
    """60 imagined sweeps: near 95 %, and errors near the noise of a run, which no forecast can see below."""
    rng = np.random.default_rng(int(share * 10))
    held, errors = [], []
    for _ in range(60):
        runs = imagined(grid(), rng)
        i = int(rng.integers(len(runs)))
        found = forecast_final(until(runs[i], share), runs[:i] + runs[i + 1 :])
        assert found.runs == len(runs) - 1
        held.append(found.low <= runs[i].final <= found.high)
        errors.append(abs(found.loss - runs[i].final))
    assert 0.88 <= np.mean(held) <= 1.0
    assert np.median(errors) < 0.012


def test_the_same_batches_take_their_noise_away():
    """With a noise of 0.2 in every point, runs of the same seed tell what other seeds cannot."""
    rng = np.random.default_rng(5)
    paired, unpaired = [], []
    for _ in range(15):
        runs = imagined(grid(), rng, batch_noise=0.2, run_noise=0.002)
        target = runs.pop()
        others = [run for run in runs if run.facts.seed != target.facts.seed]
        paired.append(abs(forecast_final(until(target, 0.8), runs).loss - target.final))
        unpaired.append(abs(forecast_final(until(target, 0.8), others).loss - target.final))
    assert np.median(paired) < 0.6 * np.median(unpaired)


def test_phases_are_compared_with_phases():
    """Decays of 10 and of 40 %: at 65 % of the run one has not begun, the other is half over."""
    rng = np.random.default_rng(6)

    def run(N, start, seed):
        share = np.arange(1, POINTS + 1) / POINTS
        left = np.interp(share - 0.5 / POINTS, [0, start, 1], [2.0, 1.0, 0.0])  # a point is the mean since the last
        end = 2 + 6 * N**-0.18
        curve = end + np.where(left > 1, 0.3 + 0.5 * (left - 1), 0.3 * left) + 0.004 * rng.standard_normal(POINTS)
        return TrainedRun(replace(facts(N, seed=seed, ends=(start, 1.0)), schedule="wsd"), share, curve, end)

    finished = [run(N, 0.9, seed) for N in (20e3, 40e3, 80e3, 160e3) for seed in (0, 1)]
    target = run(60e3, 0.6, 2)
    found = forecast_final(until(target, 0.8), finished)
    assert found.low <= target.final <= found.high
    assert found.loss == pytest.approx(target.final, abs=0.01)
    # On the axis of the whole run it would be 0.1 to 0.2 off: the others have not begun to decay.
    wrong = [replace(other, facts=replace(other.facts, ends=(0.6, 1.0))) for other in finished]
    assert abs(forecast_final(until(target, 0.8), wrong).loss - target.final) > 0.05


def test_runs_of_other_D_are_used():
    rng = np.random.default_rng(7)
    finished = imagined([facts(N, D=D) for N in (20e3, 50e3, 100e3) for D in (0.5e6, 1e6, 4e6)], rng)
    target = imagined([facts(50e3, D=2e6)], rng)[0]
    found = forecast_final(until(target, 0.7), finished)
    assert found.runs == 9
    assert found.low <= target.final <= found.high


def test_too_few_finished_runs_are_no_forecast():
    runs = imagined(grid(), np.random.default_rng(8))
    target = until(runs[0], 0.5)
    found = forecast_final(target, runs[1:LEAST_RUNS])
    assert found == FinalLoss(None, None, None, 4, 0.5, "needs 5 finished runs with curves; there are 4")
    assert forecast_final(target, runs[1 : LEAST_RUNS + 1]).loss is not None
    assert "there are 0" in forecast_final(target, []).reason
    unfinished = [replace(run, final=np.nan) for run in runs[1:]]
    assert "there are 0, of 29" in forecast_final(target, unfinished).reason


@pytest.mark.parametrize("other", [{"schedule": "constant"}, {"text": "another"}, {"ends": (0.5, 1.0)}])
def test_runs_of_another_kind_are_not_used(other):
    runs = imagined(grid(), np.random.default_rng(9))
    strange = [replace(run, facts=replace(run.facts, **other)) for run in runs[1:]]
    found = forecast_final(until(runs[0], 0.5), strange)
    assert found.loss is None
    assert found.reason.endswith("of 29 in all; the others have another text or schedule")
    mixed = forecast_final(until(runs[0], 0.5), [*strange, *runs[1:9]])
    assert mixed.runs == 8


def test_it_is_too_early_in_the_first_tenth():
    runs = imagined(grid(), np.random.default_rng(10))
    assert forecast_final(until(runs[0], 0.05), runs[1:]).reason == "too early: before 10% of the run"
    empty = TrainedRun(runs[0].facts, np.empty(0), np.empty(0))
    assert forecast_final(empty, runs[1:]).reason.startswith("too early")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_a_number_is_no_forecast(value):
    runs = imagined(grid(), np.random.default_rng(11))
    target = until(runs[0], 0.5)
    broken = replace(target, losses=np.where(np.arange(50) == 48, value, target.losses))
    assert forecast_final(broken, runs[1:]).reason == "the loss is not a number"
    # In a finished run it costs only that run.
    other = replace(runs[1], losses=np.where(np.arange(100) == 48, value, runs[1].losses))
    found = forecast_final(target, [other, *runs[2:]])
    assert found.runs == 28
    assert np.isfinite([found.loss, found.low, found.high]).all()


def test_a_run_that_goes_up_gets_a_wide_interval():
    """Its loss so far is 2 above that of every finished run: nothing was learned there."""
    runs = imagined(grid(), np.random.default_rng(12))
    usual = forecast_final(until(runs[0], 0.5), runs[1:])
    rising = forecast_final(replace(until(runs[0], 0.5), losses=until(runs[0], 0.5).losses + 2), runs[1:])
    assert rising.loss > usual.loss + 1
    assert rising.high - rising.low > 3 * (usual.high - usual.low)


def test_equal_runs_and_equal_losses_do_no_harm():
    share = np.arange(1, POINTS + 1) / POINTS
    same = [TrainedRun(facts(), share, np.full(POINTS, 3.0), 2.5) for _ in range(6)]
    found = forecast_final(until(same[0], 0.5), same)
    assert found.loss == pytest.approx(2.5)


def test_the_last_part_of_a_curve_is_enough():
    """Check a curve cut to its last eighth, which is what a running sweep passes on."""
    runs = imagined(grid(), np.random.default_rng(13))
    whole = until(runs[0], 0.6)
    last = replace(whole, shares=whole.shares[-14:], losses=whole.losses[-14:])
    found, wanted = forecast_final(last, runs[1:]), forecast_final(whole, runs[1:])
    assert [found.loss, found.low, found.high] == pytest.approx([wanted.loss, wanted.low, wanted.high])


def test_the_nearest_runs_are_used_where_there_are_many():
    others = [facts(N, P) for N in np.geomspace(1e4, 1e7, 60) for P in (1, 2, 4)]
    chosen = nearest(others, facts(1e4, 1))
    assert len(chosen) == MOST_RUNS
    assert chosen == sorted(set(chosen))
    away = [
        stats.zscore(np.log([getattr(other, name) for other in others]))[:, None] for name in ("N", "P")
    ]  # D and the learning rate are the same
    away = np.linalg.norm(np.hstack(away) - np.hstack(away)[0], axis=1)
    assert max(away[chosen]) <= min(np.delete(away, chosen))
    assert nearest(others[:7], facts()) == list(range(7))


def test_a_rival_is_no_larger_and_differs_in_more_than_the_seed():
    run = facts(100e3, 2)
    sure = FinalLoss(2.81, 2.79, 2.83, 20, 0.5)

    def rival(loss, about, forecast=sure):
        return find_rival(run, forecast, [Measured("other", loss, about)])

    assert rival(2.7, facts(100e3, 1)).loss == 2.7
    assert rival(2.7, facts(50e3, 2, D=0.5e6)) is not None
    for larger in (facts(101e3, 1), facts(25e3, 4), facts(25e3, 1, D=2e6)):  # each in one respect
        assert rival(2.7, larger) is None
    assert rival(2.7, replace(facts(100e3, 1), flops=2 * run.flops)) is None  # experts, say
    assert rival(2.7, facts(100e3, 2, seed=1)) is None
    assert rival(2.7, replace(facts(100e3, 2), lr=0.02)) is not None  # of a search for a learning rate
    assert rival(2.8, facts(100e3, 1)) is None  # in the interval
    assert rival(2.7, replace(facts(100e3, 1), text="another")) is None
    assert rival(2.7, facts(100e3, 1), FinalLoss(reason="too early")) is None
    # The parameters of streams do not count: both have the same backbone.
    streams = replace(facts(100e3, 1), N=99e3, backbone=90e3)
    assert find_rival(replace(run, backbone=90e3), sure, [Measured("", 2.7, replace(streams, N=105e3))]) is not None
    several = [Measured(str(loss), loss, facts(100e3, 1)) for loss in (2.7, 2.6, 2.9)]
    assert find_rival(run, sure, several).name == "2.6"
    assert find_rival(run, sure, []) is None
    lucky = Measured("lucky", 2.5, facts(100e3, 1, seed=1))
    assert find_rival(run, sure, [*several, lucky]).name == "2.6"  # of the same seed
    assert find_rival(run, sure, [lucky]).name == "lucky"


def test_recorded_runs_that_are_left_out_are_forecast_better_than_by_their_own_curves():
    """The 48 runs of results/parallel-law, each from half of its curve; benchmarks/final_loss.py has all figures."""
    from scalelab.records.files import read_curve
    from scalelab.sweep.facts import finished_run
    from scalelab.sweep.overview import FolderWatcher

    folder = Path(ROOT / "results" / "parallel-law")
    runs = [
        finished_run(run.measured.facts, read_curve(run.curve), run.loss) for run in FolderWatcher(folder).poll().ended
    ]
    assert len(runs) == 48
    found = [forecast_final(until(run, 0.5), [other for other in runs if other is not run]) for run in runs[::3]]
    errors = [abs(made.loss - run.final) for made, run in zip(found, runs[::3], strict=True)]
    last = [abs(until(run, 0.5).losses[-5:].mean() - run.final) for run in runs[::3]]
    assert np.median(errors) < 0.015
    assert np.median(errors) < np.median(last) / 10
    held = [made.low <= run.final <= made.high for made, run in zip(found, runs[::3], strict=True)]
    assert sum(held) >= 14  # of 16; of 16 intervals of 95 % fewer hold in 4 % of all cases
