"""Registered forecasts, their scores, and rollouts, against laws with known parameters."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import scalelab as sl
from scalelab.analysis.forecasts import Forecast, read_forecasts, register
from scalelab.analysis.intervals import run_draws
from scalelab.analysis.scoring import Calibration, Scored
from scalelab.cli import main
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.reports.forecasts import verdict

SIZES = (1e8, 2e8, 4e8, 8e8, 1.6e9, 3.2e9)
STREAMS = (1, 2, 4, 8)
NOISE = 0.002


def loss_of(N, P):
    return 0.7 + (1.1e7 / (N * (1 + 0.4 * np.log(P)))) ** 0.2


def runs(noise=NOISE, sizes=SIZES, seed=0):
    N, P = np.repeat(sizes, len(STREAMS)), np.tile(STREAMS, len(sizes))
    errors = np.random.default_rng(seed).normal(0, noise, len(N)) if noise else 0.0
    return pd.DataFrame({"N": N, "P": P, "loss": loss_of(N, P) * np.exp(errors)})


@pytest.fixture(scope="module")
def table():
    return runs()


@pytest.fixture(scope="module")
def fit(table):
    return sl.fit_law(table[table.N < 1e9], "parallel", starts=10, draws=200)


def forecast(**other):
    about = dict(time="2026-01-01T00:00:00+00:00", group="all", law="parallel", data_hash="a", count="paper")
    numbers = dict(N=1e9, P=2, D=None, loss=2.0, low=1.9, high=2.1, factor=2.0)
    return Forecast(**(about | numbers | other))


def test_registered_forecasts_are_the_predictions_and_come_back_unchanged(fit, tmp_path):
    file = tmp_path / "new folder" / "forecasts.jsonl"
    asked = fit.predict([1.6e9, 3.2e9], [1, 8])
    assert asked.register(file) == 4
    found = read_forecasts(file)
    assert [made.loss for made in found] == [row.loss.value for row in asked]
    assert [(made.N, made.P) for made in found] == [(1.6e9, 1), (1.6e9, 8), (3.2e9, 1), (3.2e9, 8)]
    assert {made.data_hash for made in found} == {fit.data_hash}
    assert [made.factor for made in found] == pytest.approx([2, 2, 4, 4])  # the largest fitted N is 8e8
    assert not any(made.known for made in found)


def test_a_point_is_registered_once_for_a_fit(fit, tmp_path):
    file = tmp_path / "forecasts.jsonl"
    assert fit.predict(1.6e9, [1, 2]).register(file) == 2
    assert fit.predict([1.6e9, 3.2e9], 2).register(file) == 1
    assert len(file.read_text().splitlines()) == 3


def test_intervals_of_runs_are_those_of_the_law_and_the_noise(fit):
    """Variances of the law and of single runs add up; the noise is that of the simulation."""
    law = np.log(fit.evaluate(np.array(fit.draws), 4e8, 2.0))
    run = np.log(run_draws(fit, 0, 4e8, 2))
    assert law.std() < NOISE
    assert math.sqrt(run.var() - law.var()) == pytest.approx(NOISE, rel=0.4)


def test_intervals_of_runs_hold_new_runs():
    """With 144 runs the law's error is small, so nearly 95 % of the runs of new seeds are inside."""
    many = pd.concat([runs(seed=seed) for seed in range(6)])
    fit = sl.fit_law(many, "parallel", starts=3, draws=200)
    low, high = np.quantile(run_draws(fit, 0, 4e8, 2), [0.025, 0.975])
    new = loss_of(4e8, 2) * np.exp(np.random.default_rng(99).normal(0, NOISE, 4000))
    assert 0.92 < np.mean((new > low) & (new < high)) < 0.98


def test_scores_compare_forecasts_with_runs_that_the_fit_did_not_know(fit, table, tmp_path):
    file = tmp_path / "forecasts.jsonl"
    fit.predict([8e8, 1.6e9, 1e10], [1, 2]).register(file)
    found = sl.score_forecasts(file, table)
    later = table[(table.N == 1.6e9) & (table.P <= 2)]
    assert [row.measured for row in found] == later.loss.tolist()
    assert [row.error for row in found] == pytest.approx(
        [row.forecast.loss / loss - 1 for row, loss in zip(found, later.loss, strict=True)]
    )
    # 8e8 was fitted, and nobody has trained 1e10.
    assert [(made.N, made.P) for made in found.open] == [(8e8, 1), (8e8, 2), (1e10, 1), (1e10, 2)]
    again = table.assign(loss=table.loss * 1.001)  # other seeds of all runs: those of 8e8 count now
    assert len(sl.score_forecasts(file, again).rows) == 4


def test_runs_match_within_a_percent(fit, table, tmp_path):
    file = tmp_path / "forecasts.jsonl"
    fit.predict(1.6e9, 1).register(file)
    near = table.assign(N=table.N * 1.009)
    assert len(sl.score_forecasts(file, near).rows) == 1
    with pytest.raises(UsageError, match="no run has the N, P and D of a forecast within 1 %"):
        sl.score_forecasts(file, table.assign(N=table.N * 1.02))


def test_forecasts_of_a_group_are_scored_on_runs_of_that_group(tmp_path):
    both = pd.concat([runs().assign(corpus="a", D=1e9), runs().assign(corpus="b", D=1e9, loss=runs().loss + 1)])
    mapped = {"corpus": "corpus"}
    fit = sl.fit_law(both[both.N < 1e9], "parallel", columns=mapped, where="corpus == 'b'", starts=5, draws=100)
    file = tmp_path / "forecasts.jsonl"
    fit.predict(1.6e9, 1).register(file)
    (row,) = sl.score_forecasts(file, both, columns=mapped)
    assert row.measured == both[(both.corpus == "b") & (both.N == 1.6e9) & (both.P == 1)].loss.item()


def test_bands_count_what_held_by_distance():
    rows = [
        Scored(forecast(factor=1.0), 2.0),
        Scored(forecast(factor=1.5), 2.05),
        Scored(forecast(factor=2.0), 2.5),
        Scored(forecast(factor=30.0), 1.0),
    ]
    bands = Calibration("file", tuple(rows)).bands
    assert [(band.label, band.count, band.held) for band in bands] == [
        ("within the runs", 1, 1.0),
        ("up to 2×", 2, 0.5),
        ("beyond 10×", 1, 0.0),
        ("all", 4, 0.5),
    ]
    assert bands[1].error == pytest.approx((abs(2 / 2.05 - 1) + abs(2 / 2.5 - 1)) / 2)
    assert bands[1].bias == pytest.approx((2 / 2.05 - 1 + 2 / 2.5 - 1) / 2)


@pytest.mark.parametrize(
    ("fits", "share", "words"),
    [(1, 0.0, "too few to judge"), (40, 1.0, "as expected of 40 fits"), (40, 0.5, "too narrow")],
)
def test_verdicts_take_a_fit_as_one_piece_of_evidence(fits, share, words):
    rows = [
        Scored(forecast(data_hash=str(number)), 2.0 if number < share * fits else 3.0)
        for number in range(fits)
        for _ in range(5)
    ]
    assert words in verdict(Calibration("file", tuple(rows)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2: not JSON"),
        ('{"a": 1}', "line 2: not a forecast of scalelab"),
        ("[]", "line 2: not a forecast"),
        (json.dumps({"version": 9, **dict.fromkeys(("loss", "low", "high", "factor", "P", "time", "group"), 1)}), "9"),
    ],
)
def test_damaged_files_are_named_with_the_line(tmp_path, line, message):
    file = tmp_path / "forecasts.jsonl"
    register([forecast()], file)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        read_forecasts(file)


def test_forecasts_with_impossible_numbers_are_refused(tmp_path):
    file = tmp_path / "forecasts.jsonl"
    register([forecast()], file)
    file.write_text(file.read_text().replace('"loss": 2.0', '"loss": -2.0'))
    with pytest.raises(DataError, match="line 1: loss, low, high, factor must be positive"):
        read_forecasts(file)


def test_a_fit_without_intervals_makes_no_forecasts(fit, tmp_path):
    with pytest.raises(ScalelabError, match="no intervals"):
        replace(fit, draws=()).predict(1e10, 1).register(tmp_path / "forecasts.jsonl")
    assert not (tmp_path / "forecasts.jsonl").exists()


def test_rollouts_fit_only_what_is_below_the_budget_and_score_the_rest(table):
    found = sl.roll_out(table, [1e9, 4e9], "parallel", starts=5, draws=100)
    cost = table.N * table.P
    for step in found:
        assert step.runs == (cost <= step.budget).sum() == len(step.fit.data.loss)
        assert (step.fit.data.N * step.fit.data.P).max() <= step.budget
        assert sorted(row.measured for row in step.rows) == sorted(table.loss[cost > step.budget])
    assert found.unit == "N·P"
    assert found.calibration.bands[-1].error < 0.02


def test_rollouts_count_compute_in_flops_where_D_is_known(table):
    found = sl.roll_out(table.assign(D=2e9), law="parallel", starts=3, draws=100)
    assert found.unit == "FLOPs"
    highest = 6 * (table.N * table.P).max() * 2e9
    assert all(step.budget < highest for step in found)
    assert list(found.to_frame().budget.unique()) == [step.budget for step in found]


def test_rollouts_on_an_exact_law_are_exact():
    found = sl.roll_out(runs(noise=0), 1.6e9, "parallel", starts=20, draws=100)
    assert found.calibration.bands[-1].error < 1e-4


@pytest.mark.parametrize(("budget", "words"), [(1.0, "choose a budget between these"), (1e30, "choose a budget")])
def test_budgets_outside_the_runs_are_refused(table, budget, words):
    with pytest.raises(UsageError, match=words):
        sl.roll_out(table, budget, "parallel", draws=100)


def test_rollouts_of_too_few_runs_are_refused(table):
    with pytest.raises(ScalelabError, match="too few"):
        sl.roll_out(table[table.N < 3e8].iloc[:6], draws=100)


def test_commands_register_score_and_roll_out(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table.to_csv("runs.csv", index=False)
    assert main(["fit", "runs.csv", "--where", "N < 1e9", "--starts", "5", "--draws", "100", "--no-figure"]) == 0
    capsys.readouterr()
    assert main(["predict", "fits", "--N", "1.6B", "1e10", "--P", "1", "8", "--register", "new.jsonl"]) == 0
    assert "registered 4 new forecasts in new.jsonl" in capsys.readouterr().err
    assert main(["forecast", "score", "new.jsonl", "runs.csv", "--figure", "new.png", "-o", "new.csv"]) == 0
    shown = capsys.readouterr()
    assert "intervals of 95 % held" in shown.out
    assert "2 forecasts without a run yet" in shown.err
    assert (tmp_path / "new.png").stat().st_size > 10_000
    assert len(pd.read_csv("new.csv")) == 2
    assert main(["forecast", "score", "new.jsonl", "runs.csv", "--json", "-q"]) == 0
    assert len(json.loads(capsys.readouterr().out)["forecasts"]) == 2
    argv = ["fit", "runs.csv", "--law", "parallel", "--starts", "3", "--draws", "100", "--rollout", "2e9"]
    assert main(argv) == 0
    assert "fitted up to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["forecast", "score", "missing.jsonl", "runs.csv"], "missing.jsonl: no such file"),
        (["forecast", "score", "empty.jsonl", "runs.csv"], "holds no forecasts"),
        (["forecast", "list", "empty.jsonl", "runs.csv"], "use scalelab forecast score FILE DATA"),
        (["fit", "runs.csv", "--rollout", "many"], "--rollout"),
        (["fit", "runs.csv", "--rollout", "1"], "--rollout"),
    ],
)
def test_wrong_use_is_one_line_with_code_2(table, tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    table.to_csv("runs.csv", index=False)
    (tmp_path / "empty.jsonl").write_text("")
    assert main(argv) == 2
    *notes, error = capsys.readouterr().err.strip().splitlines()
    assert words in error
    assert all(note.startswith("note: using") for note in notes)
