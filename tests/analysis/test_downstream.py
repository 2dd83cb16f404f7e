"""Accuracies of larger models, against known curves, another optimiser, and the OLMo ladder."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit

import scalelab as sl
from scalelab.analysis.sigmoid import accuracy_at, fit_sigmoid
from scalelab.analysis.streams_gain import streams_gain
from scalelab.analysis.tasks import Task, task_runs
from scalelab.cli import main
from scalelab.errors import DataError, ScalelabError, UsageError
from tests.support.paths import PUBLIC

TRUE = (0.25, 0.9, 6.0, 1.0)  # floor, ceiling, slope, middle
LADDER = {"190M": 190_354_176, "370M": 371_262_464, "760M": 758_220_288, "1B": 1_279_395_840}


def loss_of(N, D, P=1):
    return 0.4 + (2e7 / (N * (1 + 0.3 * np.log(P)))) ** 0.3 + (1e9 / D) ** 0.3


def runs(noise=0.0, P=(1,), gain=0.0, seed=0):
    """Runs with a task whose accuracy follows the loss, plus `gain` per doubling of P."""
    rng = np.random.default_rng(seed)
    rows = [(N, p, D) for N in (1e8, 2e8, 4e8, 8e8, 1.6e9) for p in P for D in (2e9, 8e9, 32e9)]
    N, P_, D = np.array(rows).T
    loss = loss_of(N, D, P_) * np.exp(rng.normal(0, noise / 4, len(N)) if noise else 0)
    accuracy = accuracy_at(loss, np.array(TRUE)) + gain * np.log2(P_)
    accuracy = accuracy + (rng.normal(0, noise, len(N)) if noise else 0)
    return pd.DataFrame({"N": N, "P": P_.astype(int), "D": D, "loss": loss, "quiz": accuracy})


def test_curves_are_recovered():
    loss = np.linspace(0.5, 1.8, 14)
    found = fit_sigmoid(loss, accuracy_at(loss, np.array(TRUE)), 50, np.random.default_rng(0))
    assert found.params[1] == pytest.approx(TRUE, rel=0.01)
    assert found.weights[1] > 0.99  # the ceiling is not 1
    assert found(np.array([0.3])) == pytest.approx(accuracy_at(np.array([0.3]), np.array(TRUE)), abs=2e-3)
    assert found.sd < 1e-3


def test_curves_are_those_of_another_optimiser():
    """A grid with linear floor and ceiling, against Levenberg–Marquardt of SciPy."""
    rng = np.random.default_rng(3)
    loss = np.linspace(0.5, 1.8, 40)
    accuracy = accuracy_at(loss, np.array(TRUE)) + rng.normal(0, 0.004, 40)
    found = fit_sigmoid(loss, accuracy, 0, rng)
    other, _ = curve_fit(lambda x, *p: accuracy_at(x, np.array(p)), loss, accuracy, p0=TRUE)
    mine = accuracy_at(loss, found.params[1])
    assert mine == pytest.approx(accuracy_at(loss, other), abs=1e-3)


def test_unseen_ceilings_are_weighed_and_not_assumed():
    """Runs far below the ceiling: both curves fit, and the one with fewer parameters weighs more."""
    rng = np.random.default_rng(0)
    loss = np.linspace(1.0, 1.6, 12)
    accuracy = accuracy_at(loss, np.array((0.25, 1.0, 5.0, 0.9))) + rng.normal(0, 0.004, 12)
    found = fit_sigmoid(loss, accuracy, 200, rng)
    assert found.weights[0] > 0.5
    assert found.params[0, 1] == 1
    assert {bool(row[1] == 1) for row in found.draws} == {True, False} or found.weights[1] < 0.01


def test_larger_models_are_predicted_within_the_interval():
    table = runs(noise=0.004)
    found = sl.predict_downstream(table, ["quiz"], N=6.4e9, D=1e11, starts=10, draws=200)
    (row,) = found.rows
    truth = accuracy_at(loss_of(6.4e9, 1e11), np.array(TRUE))
    assert row.both.low < truth < row.both.high
    assert row.two_step.value == pytest.approx(truth, abs=0.04)
    assert row.both.value == pytest.approx((row.two_step.value + row.direct.value) / 2)
    assert found.law == "chinchilla"
    two_step, direct, both = found.checks
    assert (two_step.method, direct.method, both.method) == ("two-step", "direct", "both")
    assert two_step.runs == 3  # of N = 1.6e9
    assert two_step.error < 0.03


def test_percentages_and_shares_are_the_same():
    table = runs()
    shares = task_runs(table, Task("quiz", "quiz"), None, None, 1)
    percent = task_runs(table.assign(quiz=100 * table.quiz), Task("quiz", "quiz"), None, None, 1)
    assert percent.percent
    assert not shares.percent
    assert percent.accuracy == pytest.approx(shares.accuracy)


def test_the_last_evaluations_of_a_run_are_averaged():
    curve = pd.concat(
        [
            pd.DataFrame({"run": name, "N": N, "D": [1e9, 2e9, 3e9], "loss": [3.0, 2.0, 1.0], "quiz": [0.2, 0.4, 0.6]})
            for name, N in (("a", 1e8), ("b", 2e8))
        ]
    )
    found = task_runs(curve, Task("quiz", "quiz"), {"run": "run"}, None, 2)
    assert found.records["n_tokens"].tolist() == [3e9, 3e9]
    assert found.loss.tolist() == [1.5, 1.5]
    assert found.accuracy == pytest.approx([0.5, 0.5])


def test_tasks_have_losses_of_their_own_and_expressions():
    table = runs()
    table["bpb"] = table.loss * 0.5
    found = task_runs(table, Task("quiz", "0.5 * quiz + 0.5 * quiz", "bpb"), None, None, 1)
    assert found.loss == pytest.approx(table.loss.to_numpy() * 0.5)
    assert found.accuracy == pytest.approx(table.quiz.to_numpy())


@pytest.mark.parametrize("gain", [0.0, 0.01])
def test_the_gain_of_streams_beyond_the_loss_is_recovered(gain):
    table = runs(noise=0.003, P=(1, 2, 4), gain=gain)
    found = sl.predict_downstream(table, "quiz", N=3e9, P=4, D=1e11, starts=5, draws=100)
    size = found.gains["quiz"].per_doubling
    assert size.low < gain < size.high
    assert size.value == pytest.approx(gain, abs=0.003)
    assert found.gains["quiz"].is_clear == (gain > 0)


def test_several_tasks_have_an_average():
    table = runs(noise=0.003).assign(other=lambda t: t.quiz * 0.8)
    found = sl.predict_downstream(table, ["quiz", "other"], N=3e9, D=[5e10, 1e11], starts=5, draws=100)
    by = {(row.task, row.point.D): row for row in found}
    for D in (5e10, 1e11):
        mean = (by["quiz", D].both.value + by["other", D].both.value) / 2
        assert by["average", D].both.value == pytest.approx(mean)
    assert len(found.to_frame()) == 6
    assert json.loads(json.dumps(found.to_dict()))["tasks"].keys() == {"quiz", "other"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(tasks="missing"), UsageError, "missing"),
        (dict(tasks={"quiz": "quiz"}, losses={"maths": "loss"}), UsageError, "no such task"),
        (dict(tasks="quiz", N=None), UsageError, "depends on N: give `N`"),
        (dict(tasks="quiz", D=None), UsageError, "depends on D: give `D`"),
        (dict(tasks="quiz", P=4), UsageError, "does not depend on it"),
        (dict(tasks="D"), DataError, "neither a share from 0 to 1 nor a percentage"),
        (dict(tasks=None), UsageError, "name the columns of accuracies"),
        (dict(tasks="quiz", smooth=0), UsageError, "smooth"),
        (dict(tasks="quiz", draws=5), UsageError, "draws"),
        (dict(tasks="quiz", where="N < 1.5e8"), ScalelabError, "7 are needed"),
    ],
)
def test_wrong_use_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        sl.predict_downstream(runs(), **(dict(N=3e9, D=1e11, law="chinchilla") | arguments))


def test_the_command_prints_and_saves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs(noise=0.003).to_csv("runs.csv", index=False)
    argv = ["downstream", "runs.csv", "--tasks", "maths=quiz", "--N", "3B", "--D", "100B", "--starts", "5"]
    assert main([*argv, "--draws", "100", "--figure", "maths.png", "-o", "maths.csv"]) == 0
    shown = capsys.readouterr()
    assert "accuracy at N = 3B, D = 100B, chinchilla law" in shown.out
    assert "Left-out accuracies are predicted best" in shown.out
    assert (tmp_path / "maths.png").stat().st_size > 10_000
    assert pd.read_csv("maths.csv")["task"].tolist() == ["maths"]
    assert main(["downstream", "runs.csv", "--tasks", "maths=nothing", "--N", "3B", "--D", "1B"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("scalelab: --tasks maths")
    assert "nothing" in error


def ladder():
    """Final rows of the OLMo ladder, with losses and accuracies of two tasks."""
    folder = PUBLIC / "olmo_ladder"
    if not folder.is_dir():
        pytest.skip("no olmo_ladder in the folder that SCALELAB_PUBLIC_DATA names")
    frames = []
    for file in sorted(folder.glob("*.csv")):
        size = file.stem.split("-")[0]
        frame = pd.read_csv(file)
        known = frame[frame["eval/downstream_bpb/hellaswag_val_rc_5shot_bpb"].notna()]
        frames.append(
            pd.DataFrame(
                {
                    "run": file.stem,
                    "N": LADDER[size],
                    "D": known["throughput/total_tokens"],
                    "step": known["_step"],
                    **{
                        f"{kind}_{task}": known[f"eval/{column}/{task}_rc_5shot_{end}"]
                        for task in ("hellaswag_val", "piqa_val")
                        for kind, column, end in (("loss", "downstream_bpb", "bpb"), ("acc", "downstream", "len_norm"))
                    },
                }
            )
        )
    return pd.concat(frames)


def test_the_largest_models_of_the_ladder_are_predicted_from_the_others():
    """Mean relative errors of four 1B runs, from twelve smaller ones."""
    found = sl.predict_downstream(
        ladder(),
        {task: f"acc_{task}" for task in ("hellaswag_val", "piqa_val")},
        losses={task: f"loss_{task}" for task in ("hellaswag_val", "piqa_val")},
        columns={"run": "run"},
        smooth=5,
        N=6.9e9,
        D=4e12,
        starts=10,
        draws=100,
    )
    both = [check for check in found.checks if check.method == "both"]
    assert [check.runs for check in both] == [4, 4]
    assert all(check.error < 0.05 for check in both)
    assert np.mean([check.held for check in both]) >= 7 / 8


def test_streams_add_more_than_their_loss_says_to_code_and_not_to_text():
    """The 48 downstream averages published with ParScale; a plain regression on loss, its square and log2 P agrees."""
    file = PUBLIC / "paper_losses.csv"
    if not file.is_file():
        pytest.skip("no paper_losses.csv in the folder that SCALELAB_PUBLIC_DATA names")
    paper = pd.read_csv(file).rename(columns={"n_params_non_embedding": "N"})
    task = Task("average", "downstream_average_percent")
    for corpus, clear in (("stack-v2-python", True), ("pile", False)):
        rows = paper[paper.corpus == corpus][["N", "P", "loss", "downstream_average_percent"]]
        gain = streams_gain(task_runs(rows, task, None, None, 1), draws=100, seed=0)
        assert gain.is_clear == clear
        terms = np.stack([np.ones(24), rows.loss, rows.loss**2, np.log2(rows.P)], axis=1)
        other, *_ = np.linalg.lstsq(terms, rows.downstream_average_percent / 100, rcond=None)
        assert gain.per_doubling.value == pytest.approx(other[-1], abs=0.0015)
