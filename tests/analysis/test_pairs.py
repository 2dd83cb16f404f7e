"""Differences of runs that are otherwise equal: against scipy's paired t test, tables by hand and a sweep's records."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import scalelab as sl
from scalelab.analysis.pair_means import mean_difference
from scalelab.analysis.pairs import pair_runs
from scalelab.errors import ScalelabError, UsageError
from scalelab.reports.pairs import pairs_json
from tests.support.paths import ROOT

RECORDS = ROOT / "results" / "parallel-law"


def table(seeds=6, effect=-0.02, noise=0.05, own=0.004, sizes=(1e6, 4e6)):
    """Losses whose noise of a seed, shared by all P, is much larger than that of a run."""
    rng = np.random.default_rng(3)
    rows = []
    for n in sizes:
        for seed in range(seeds):
            shared = noise * rng.standard_normal()
            for P in (1, 2, 4):
                loss = 3 - 0.1 * np.log(n / 1e6) + effect * np.log2(P) + shared + own * rng.standard_normal()
                rows.append({"n_params": n, "n_streams": P, "seed": seed, "loss": loss})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_means_and_intervals_are_those_of_a_paired_t_test():
    runs = table(seeds=12, sizes=(1e6,))
    found = sl.pairs(runs)
    wide = runs.pivot_table(index=["n_params", "seed"], columns="n_streams", values="loss")
    assert [(step.level, step.against) for step in found.steps] == [(2, 1), (4, 1)]
    for step in found.steps:
        test = stats.ttest_rel(wide[step.level], wide[1])
        low, high = test.confidence_interval(0.95)
        assert (step.mean.value, step.mean.low, step.mean.high) == pytest.approx(
            ((wide[step.level] - wide[1]).mean(), low, high), rel=1e-9
        )
        assert step.decided == (test.pvalue < 0.05)
        assert step.lower == int((wide[step.level] < wide[1]).sum())


def test_alike_pairs_of_one_seed_count_once():
    """Two sizes of each seed move together: the interval is that of a t test over the means of the seeds."""
    rng = np.random.default_rng(4)
    rows = [
        {"n_params": n, "n_streams": P, "seed": s, "loss": 3 + (P == 2) * (0.01 * own + 1e-4 * rng.normal())}
        for s, own in enumerate(rng.standard_normal(5))
        for n in (1e6, 2e6, 4e6)
        for P in (1, 2)
    ]
    (step,) = sl.pairs(pd.DataFrame(rows)).steps
    means = step.differences.reshape(5, 3).mean(1)
    low, high = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert (step.mean.value, step.mean.low, step.mean.high) == pytest.approx((means.mean(), low, high), rel=1e-9)
    assert (step.seeds, len(step.differences)) == (5, 15)
    halves = [stats.t.ppf(0.975, k - 1) * means.std(ddof=1) / k**0.5 for k in (step.needed // 3, step.needed // 3 - 1)]
    assert halves[0] < abs(step.mean.value) <= halves[1]
    words = sl.pairs(pd.DataFrame(rows)).summary()
    assert "Pairs of one seed are alike, so intervals are over 5 seeds: P = 2 against 1." in words


def test_intervals_hold_where_seeds_are_shared():
    """Coverage of 0 with five seeds at three sizes, in 300 sets: over pairs alone it would be 82 % (simulated)."""
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        apart = (rng.standard_normal((5, 1)) + rng.standard_normal((5, 3))).ravel()
        found, *_ = mean_difference(apart, np.repeat(np.arange(5), 3))
        held += found.low <= 0 <= found.high
    assert 0.91 <= held / 300 <= 0.98


def test_the_number_of_pairs_that_would_decide():
    """With that many pairs of the same spread the interval excludes 0, and with one fewer it does not."""
    (step, *_) = sl.pairs(table(12, effect=-0.002, sizes=(1e6,)), baseline="previous").steps
    spread = step.differences.std(ddof=1)
    halves = [stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n) for n in (step.needed, step.needed - 1)]
    assert halves[0] < abs(step.mean.value) <= halves[1]


@pytest.mark.slow
def test_intervals_hold_the_truth():
    """Coverage of the true difference in 300 sets of five pairs: 95 %, with a standard error of 1.3 points."""
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shared = rng.standard_normal(5)
        rows = [
            {"n_params": 1e6, "n_streams": P, "seed": s, "loss": 5 + shared[s] - 0.3 * (P == 2) + 0.2 * rng.normal()}
            for s in range(5)
            for P in (1, 2)
        ]
        (step,) = pair_runs(pd.DataFrame(rows)).steps
        held += step.mean.low <= -0.3 <= step.mean.high
    assert 0.915 <= held / 300 <= 0.985


def test_runs_of_the_sweep_pair_by_backbone_and_seed():
    """P = 8 is worse than P = 4 in 11 of 12 pairs; N with the streams' own parameters differs within a pair."""
    found = sl.pairs(RECORDS, baseline="previous")
    assert [len(step.differences) for step in found.steps] == [12, 12, 12]
    assert [step.lower for step in found.steps] == [10, 10, 1]
    assert found.unpaired == 0
    apart = sl.pairs(RECORDS, each="N")
    assert len({step.group for step in apart.steps}) == 6
    assert {len(step.differences) for step in apart.steps} == {2}


def test_settings_of_the_configuration_can_be_compared_and_ignored():
    def run(P, lr, seed, loss, vocab=512):
        config = {"architecture": {"P": P, "vocab_size": vocab}, "n_tokens": 1e6, "recipe": {"lr": lr}, "seed": seed}
        return {"n_params": 1e5, "n_streams": P, "loss": loss, "config": json.dumps(config)}

    runs = [run(1, 0.01, 0, 3.0), run(1, 0.02, 0, 3.1), run(4, 0.01, 0, 2.9), run(4, 0.02, 0, 2.8)]
    runs += [run(4, 0.02, 1, 2.7), run(4, 0.04, 1, 2.5, vocab=600)]
    found = sl.pairs(pd.DataFrame(runs), by="lr", each="P")
    assert [(s.group, s.level, s.mean.value) for s in found.steps] == [
        (1, 0.02, pytest.approx(0.1)),
        (4, 0.02, pytest.approx(-0.1)),
    ]
    assert found.steps[0].mean.low is None  # one pair has no interval
    assert found.unpaired == 2
    found = sl.pairs(pd.DataFrame(runs), by="lr", baseline="0.02", ignore="vocab_size")
    assert [(s.level, s.mean.value) for s in found.steps] == [(0.01, pytest.approx(0.0)), (0.04, pytest.approx(-0.2))]


def test_changes_along_a_setting_are_slopes_of_paired_differences():
    """The gain of P shrinks by 0.01 with each doubling of D, in runs whose loss falls with D and differs by seed."""
    rng = np.random.default_rng(1)
    rows = []
    for seed in range(5):
        shared = 0.1 * rng.standard_normal()
        for D in (1e6, 2e6, 8e6):
            for P in (1, 4):
                gain = (-0.06 + 0.01 * np.log2(D / 1e6)) * (P == 4)
                loss = 3 - 0.2 * np.log(D / 1e6) + shared + gain + 0.003 * rng.standard_normal()
                rows.append({"n_params": 1e6, "n_streams": P, "n_tokens": D, "seed": seed, "loss": loss})
    runs = pd.DataFrame(rows)
    (step,) = sl.pairs(runs, along="D").steps
    wide = runs.pivot_table(index=["seed", "n_tokens"], columns="n_streams", values="loss")
    gains = (wide[4] - wide[1]).unstack()
    slopes = [stats.linregress(np.log2(gains.columns.to_numpy()), row).slope for row in gains.to_numpy()]
    low, high = stats.t.interval(0.95, 4, np.mean(slopes), stats.sem(slopes))
    assert (step.mean.value, step.mean.low, step.mean.high) == pytest.approx((np.mean(slopes), low, high), rel=1e-9)
    assert low < 0.01 < high
    assert step.decided
    text = sl.pairs(runs, along="D").summary()
    assert "difference in loss by P, nats per token, for each doubling of D" in text
    assert "Decided: the change of loss with D is higher at P = 4 than at 1." in text


@pytest.mark.parametrize("levels", [("dense", "moe"), (0, 4), (False, True)])
def test_changes_between_two_levels_are_differences_of_differences(levels):
    rng = np.random.default_rng(5)
    rows = []
    for seed in range(5):
        for i, level in enumerate(levels):
            for P in (1, 4):
                loss = 3 + 0.1 * seed - 0.5 * i - (0.02 + 0.03 * i) * (P == 4) + 0.004 * rng.standard_normal()
                config = json.dumps({"P": P, "seed": seed, "kind": level})
                rows.append({"n_params": 1e6, "n_streams": P, "seed": seed, "loss": loss, "config": config, "i": i})
    runs = pd.DataFrame(rows).sample(frac=1, random_state=0)
    found = pair_runs(runs, along="kind")
    (step,) = found.steps
    wide = runs.pivot_table(index="seed", columns=["i", "n_streams"], values="loss")
    changes = wide[1, 4] - wide[1, 1] - (wide[0, 4] - wide[0, 1])
    assert sorted(step.differences) == pytest.approx(sorted(changes))
    assert step.decided
    assert f"change from kind = {levels[0]} to {levels[1]}\n" in found.summary()
    assert pairs_json(found)["ends"] == [*levels]


def test_sizes_along_n_may_have_other_shapes():
    found = sl.pairs(RECORDS, along="N")
    assert {len(step.differences) for step in found.steps} == {2}  # of two seeds, six sizes each
    wide = sl.read(RECORDS).records.pivot_table(index="seed", columns=["n_params_backbone", "n_streams"], values="loss")
    sizes = wide.columns.levels[0]
    gains = [[wide.loc[seed, (n, 4)] - wide.loc[seed, (n, 1)] for n in sizes] for seed in wide.index]
    slopes = sorted(stats.linregress(np.log2(sizes.to_numpy()), row).slope for row in gains)
    assert sorted(found.steps[1].differences) == pytest.approx(slopes)


def test_other_columns_can_be_compared():
    found = sl.pairs(RECORDS, baseline=2, value="stream_correlation")
    wide = sl.read(RECORDS).records.pivot_table(
        index=["n_params_backbone", "seed"], columns="n_streams", values="stream_correlation"
    )
    assert found.steps[-1].mean.value == pytest.approx((wide[8] - wide[2]).mean())
    assert found.steps[-1].lower == 12
    assert "Pairs of one seed are alike, so intervals are over 2 seeds: P = 8 against 2." in found.summary()


@pytest.mark.parametrize("data", [RECORDS, "frame", "read"])
def test_expressions_of_columns_can_be_compared(data):
    """A difference of logarithms is the logarithm of a ratio."""
    records = sl.read(RECORDS).records
    source = {"frame": records, "read": sl.read(RECORDS)}.get(str(data), data)
    found = sl.pairs(source, value="ln(train_flops / tokens_per_s)")
    records["ratio"] = records["train_flops"] / records["tokens_per_s"]
    wide = records.pivot_table(index=["n_params_backbone", "seed"], columns="n_streams", values="ratio")
    assert np.exp(found.steps[-1].mean.value) == pytest.approx(np.exp(np.log(wide[8] / wide[1]).mean()))
    assert "difference in ln(train_flops / tokens_per_s) by P\n" in found.summary()


def test_values_that_are_not_finite_are_left_out():
    runs = table()
    runs["gain"] = np.where(runs.n_streams == 1, 0.0, 1.0 + runs.seed)
    found = sl.pairs(runs, baseline=2, value="ln(gain)")
    assert [step.level for step in found.steps] == [4]
    assert found.steps[0].mean.value == 0


def test_errors_name_what_is_there():
    runs = table(seeds=1)
    with pytest.raises(UsageError, match=r"value='ppl': table has no column 'ppl'; it has n_params"):
        sl.pairs(runs, value="ppl")
    with pytest.raises(UsageError, match=r"value='ln\(ppl\)': table has no column 'ppl'"):
        sl.pairs(runs, value="ln(ppl)")
    with pytest.raises(UsageError, match=r"value='ln\(': not an expression such as"):
        sl.pairs(runs, value="ln(")
    with pytest.raises(UsageError, match=r"value='ln\(-loss\)': no run has a number there"):
        sl.pairs(runs, value="ln(-loss)")
    with pytest.raises(UsageError, match=r"value='tokenizer': no such column of numbers; choose from n_params"):
        sl.pairs(runs, value="tokenizer")
    with pytest.raises(UsageError, match=r"along='seed': must have positive numbers or two levels"):
        sl.pairs(table(seeds=3), along="seed")
    with pytest.raises(ScalelabError, match=r"no pair of runs that differ in P is there at two values of N"):
        sl.pairs(runs[runs.n_params == 1e6], along="N")
    with pytest.raises(UsageError, match=r"by='depth': no such setting; these vary: N, P"):
        sl.pairs(runs, by="depth")
    with pytest.raises(UsageError, match=r"by='seed': has only the value 0"):
        sl.pairs(runs, by="seed")
    with pytest.raises(UsageError, match=r"baseline='3': no run has it; choose previous or one of 1, 2, 4"):
        sl.pairs(runs, baseline="3")
    with pytest.raises(ScalelabError, match=r"no two runs differ in P alone; name settings .* with `ignore`: N"):
        sl.pairs(runs[(runs.n_streams == 1) == (runs.n_params == 1e6)])


def test_the_command_shows_the_same(scalelab, tmp_path):
    status, out, error = scalelab(
        "pairs", RECORDS, "--baseline", "previous", "--figure", tmp_path / "pairs.svg", "--json", "--quiet"
    )
    assert status == 0, error
    steps = json.loads(out)["steps"]
    assert [step["lower"] for step in steps] == [10, 10, 1]
    assert "P" in (tmp_path / "pairs.svg").read_text()
    text = sl.pairs(RECORDS, baseline="previous").summary()
    assert "Decided: loss is lower at P = 2 than at 1; P = 4 than at 2." in text
    assert "Not decided: P = 8 against 4." in text
    assert "Pairs of one seed are alike, so intervals are over 2 seeds: P = 8 against 4." in text
    status, _, error = scalelab("pairs", RECORDS, "--baseline", "3")
    assert status == 2
    assert "--baseline 3: no run has it" in error


def test_groups_with_one_difference_are_drawn_along_the_axis():
    found = sl.pairs(RECORDS, each="N", where="n_streams in (1, 4)")
    (axes,) = found.plot().axes
    assert axes.get_xlabel() == "N"
    assert axes.get_ylabel() == "loss at P = 4 minus that at 1"
    assert len(axes.get_xticklabels()) == 6
    means = sorted(line.get_ydata()[0] for line in axes.lines if line.get_marker() == "o")
    assert means == pytest.approx(sorted(step.mean.value for step in found.steps))
