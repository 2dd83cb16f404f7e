"""Designs from known runs, from none, and replayed on finished ones: numbers, files, messages and the command."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scalelab as sl
from scalelab.cli.main import main
from scalelab.designs.prices import Budget, parse_budget, seconds_model, seconds_of
from scalelab.designs.targets import parse_target
from scalelab.errors import ScalelabError, UsageError
from scalelab.sweep.spec import load_spec
from tests.support.paths import ROOT

PUBLIC = Path(os.environ.get("SCALELAB_PUBLIC_DATA", "../shared/reference")) / "scalebench"
SIZES = np.array([1e8, 2e8, 4e8, 8e8, 1.6e9, 3.2e9])


def loss_of(N, P):
    return 0.7 + (1.1e7 / (N * (1 + 0.4 * np.log(P)))) ** 0.2


def table(sizes=SIZES[:4], noise=0.002, seed=0):
    N, P = np.repeat(sizes, 3), np.tile([1, 2, 4], len(sizes))
    errors = np.random.default_rng(seed).normal(0, noise, len(N))
    return pd.DataFrame({"N": N, "P": P, "D": 1e10, "loss": loss_of(N, P) * np.exp(errors)})


@pytest.fixture(scope="module")
def found():
    return sl.design(table(), "N=6.4B,P=4", "1e21FLOP", laws="parallel", most=5, draws=150)


def test_runs_fit_into_the_budget_and_narrow_the_target(found):
    frame = found.to_frame()
    assert 1 <= len(frame) <= 5
    assert frame["price"].to_numpy() == pytest.approx(6 * frame.n_params * frame.n_streams * frame.n_tokens)
    assert found.price <= 1e21
    assert (np.diff([1, *frame["variance_left"]]) < 0).all()
    (outlook,) = found.outlooks
    assert outlook.widths[1] < 0.7 * outlook.widths[0]
    truth = float(loss_of(6.4e9, 4))
    assert outlook.now.low < truth < outlook.now.high


def test_the_expected_interval_is_met_by_the_runs(found):
    """Train the chosen runs by the true law: the new interval is about as wide as expected."""
    chosen = found.to_frame()
    N, P = chosen.n_params.to_numpy(), chosen.n_streams.to_numpy()
    errors = np.random.default_rng(1).normal(0, 0.002, len(N))
    more = pd.DataFrame({"N": N, "P": P, "D": 1e10, "loss": loss_of(N, P) * np.exp(errors)})
    after = sl.design(pd.concat([table(), more]), "N=6.4B,P=4", "1e21FLOP", laws="parallel", draws=150).outlooks[0]
    assert 0.5 < after.widths[0] / found.outlooks[0].widths[1] < 1.8
    assert after.now.low < float(loss_of(6.4e9, 4)) < after.now.high


def test_sweeps_that_vary_d_can_be_added_to():
    """Their records hold unique tokens, which vary with D."""
    found = sl.design(
        ROOT / "results" / "_studies" / "joint-law",
        "N=40k,P=8,D=2M vs N=40k,P=4,D=2M",
        "1e15FLOP",
        P=[1, 4, 8],
        draws=60,
    )
    assert {"n_params", "n_streams", "n_tokens"} <= {*found.to_frame()}
    assert 0 < found.outlooks[0].widths[1] < found.outlooks[0].widths[0]


def test_new_runs_are_not_those_that_are_known(found):
    known = {(n, p) for n, p in zip(table().N, table().P, strict=True)}
    assert not known & {*zip(found.to_frame().n_params, found.to_frame().n_streams, strict=True)}


def test_a_parameter_needs_runs_with_other_streams():
    few = table()
    found = sl.design(few, "k", "3e20FLOP", laws="parallel", most=3, draws=150)
    assert found.to_frame()["n_streams"].max() == 4  # P = 2 says less about k


def test_several_targets_and_a_difference():
    aims = ["N=6.4B,P=4 vs N=12.8B", "k"]
    found = sl.design(table(), aims, "1e21FLOP", laws="parallel", most=3, draws=150)
    assert [one.target.kind for one in found.outlooks] == ["difference", "parameter"]
    truth = float(loss_of(6.4e9, 4) - loss_of(12.8e9, 1))
    assert found.outlooks[0].now.low < truth < found.outlooks[0].now.high
    assert found.outlooks[1].now.low < 0.4 < found.outlooks[1].now.high


def test_which_law_holds_is_the_weight_of_the_most_plausible():
    found = sl.design(table(SIZES), "laws", "1e21FLOP", laws=["parallel", "additive"], most=2, draws=200)
    (outlook,) = found.outlooks
    assert outlook.now.value == pytest.approx(max(found.laws.values()), abs=0.01)
    assert (outlook.now.low, outlook.after) == (None, None)
    assert 0 <= outlook.reduction <= 1
    assert "which law holds" in found.summary(80)


def test_a_saved_fit_is_as_good_as_its_data(tmp_path):
    fit = sl.fit_law(table(), "parallel", starts=10, draws=50)
    options = dict(target="N=6.4B,P=4", budget="1e21FLOP", laws="parallel", most=2, draws=100, D="10B")
    by_fit, by_data = (sl.design(source, **options) for source in (fit.save(tmp_path / "fit.json"), table()))
    assert by_fit.to_frame().equals(by_data.to_frame())
    assert by_fit.outlooks[0].now == by_data.outlooks[0].now


def test_a_pilot_needs_no_runs():
    found = sl.design(None, "N=1M,P=4", "2e13FLOP", N=["20k", "50k", "0.1M"], P=[1, 2, 4], D="1M", laws="parallel")
    assert found.pilot
    assert found.price <= 2e13
    assert {1, 4} <= {*found.to_frame()["n_streams"]}
    assert found.to_frame()["n_params"].nunique() >= 2
    assert "nothing is known yet" in found.summary()
    with pytest.raises(ScalelabError, match="a pilot predicts nothing"):
        found.predict()


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="no public tables: set SCALELAB_PUBLIC_DATA")
def test_a_replay_predicts_the_published_losses_from_a_tenth_of_the_price():
    train, test = (pd.read_parquet(PUBLIC / "parallel" / f"{part}.parquet") for part in ("train", "test"))
    columns = {"n_params": "num_params", "n_streams": "parallel_size"}
    train, test = (part[part.group == "stack"] for part in (train, test))
    found = sl.design(train, test, "10%", columns=columns, price="num_params", laws="parallel", draws=150)
    assert found.price <= 0.1 * train.num_params.sum()
    predicted = found.predict()
    assert predicted["loss"].to_numpy() == pytest.approx(test["loss"].to_numpy(), abs=0.02)
    assert predicted["n_params"].tolist() == test["num_params"].tolist()
    kept = found.to_frame()
    recorded = {(n, p): loss for n, p, loss in zip(train.num_params, train.parallel_size, train.loss, strict=True)}
    assert all(recorded[n, p] == loss for n, p, loss in zip(kept.n_params, kept.n_streams, kept.loss, strict=True))


def test_losses_of_runs_that_are_not_chosen_change_nothing():
    first = table(SIZES)
    found = sl.design(first, "N=6.4B,P=4", "20%", laws="parallel", draws=100)
    chosen = {*zip(found.to_frame().n_params, found.to_frame().n_streams, strict=True)}
    other = first.copy()
    unseen = [(n, p) not in chosen for n, p in zip(other.N, other.P, strict=True)]
    other.loc[unseen, "loss"] *= 1.0 + np.random.default_rng(0).uniform(0.0, 0.1, sum(unseen))
    again = sl.design(other, "N=6.4B,P=4", "20%", laws="parallel", draws=100)
    assert again.to_frame().equals(found.to_frame())
    assert again.predict().equals(found.predict())


def test_candidates_from_a_table_with_prices(tmp_path):
    rows = pd.DataFrame({"N": [4e8, 8e8, 3.2e9], "P": [8, 8, 1], "D": 1e10, "dollars": [3.0, 5.0, 100.0]})
    rows.to_csv(tmp_path / "offers.csv", index=False)
    more = dict(laws="parallel", draws=100, price="dollars")
    found = sl.design(table(), "k", "10FLOP", candidates=tmp_path / "offers.csv", **more)
    assert {*found.to_frame()["price"]} <= {3.0, 5.0}
    table().to_csv(tmp_path / "runs.csv", index=False)
    first = sl.design(tmp_path / "runs.csv", "k", "10FLOP", candidates=tmp_path / "offers.csv", **more)
    first.save(tmp_path / "next.yaml")
    done = rows[rows.dollars == first.prices[0]].assign(loss=lambda t: loss_of(t.N, t.P))
    pd.concat([table(), done.drop(columns="dollars")]).to_csv(tmp_path / "runs.csv", index=False)
    second = sl.design(update=tmp_path / "next.yaml", draws=100)  # with the same table of candidates
    assert second.budget.amount == pytest.approx(10 - first.prices[0])
    assert {*second.prices} <= {3.0, 5.0} - {first.prices[0]}


def test_the_spec_trains_the_chosen_runs(tmp_path):
    known = table(np.array([5e4, 1e5, 2e5, 4e5])).assign(D=1e6)
    found = sl.design(known, "N=6.4M,P=4", "1e15FLOP", laws="parallel", most=3, draws=100)
    path = found.save(tmp_path / "next.yaml")
    spec = load_spec(path)
    assert [(N, P, D) for N, P, D in spec.points] == [
        (round(n), p, d)
        for n, p, d in zip(
            found.to_frame().n_params, found.to_frame().n_streams, found.to_frame().n_tokens, strict=True
        )
    ]
    assert spec.seeds == (0,)
    with pytest.raises(UsageError, match="exists already"):
        found.save(path)


def test_an_update_goes_on_with_the_rest_of_the_budget(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = table(np.array([5e4, 1e5, 2e5, 4e5])).assign(D=1e6)
    known.to_csv("runs.csv", index=False)
    options = dict(laws="parallel", draws=100)
    first = sl.design("runs.csv", ["N=6.4M,P=4", "k"], "1e15FLOP", most=4, **options)
    assert len(first.prices) > 1
    first.save("first.yaml")
    chosen = first.to_frame().rename(columns={"n_params": "N", "n_streams": "P", "n_tokens": "D"})
    more = chosen.assign(loss=loss_of(chosen.N, chosen.P))[["N", "P", "D", "loss"]]
    pd.concat([known, more.iloc[:-1]]).to_csv("runs.csv", index=False)
    second = sl.design(update="first.yaml", draws=100)
    spent = chosen["price"].iloc[:-1].sum()
    assert second.budget.amount == pytest.approx(1e15 - spent, rel=1e-5)
    assert second.n_known == 12 + len(chosen) - 1
    title = "loss at N = 6.4M, P = 4"
    after = first.outlooks[0].after
    assert second.earlier[title] == pytest.approx((after.low, after.high))
    assert "expected before" in second.summary()
    assert [note.code for note in second.notes if note.code == "design_missing"] == ["design_missing"]
    third = sl.design(update="first.yaml", N="50k", P=1, D="1M", draws=100)  # known already
    assert not third.prices
    assert third.outlooks[0].now.low < third.outlooks[0].now.high
    assert "no candidate within the budget" in third.summary()
    Path("other.yaml").write_text("N: 50k\n")
    with pytest.raises(UsageError, match="is not a spec of `scalelab design`"):
        sl.design(update="other.yaml")


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("2h", Budget(7200, "seconds")),
        ("1e15FLOP", Budget(1e15, "FLOPs")),
        ("3T FLOPs", Budget(3e12, "FLOPs")),
        (1e15, Budget(1e15, "FLOPs")),
        ("5%", Budget(0.05, "share")),
    ],
)
def test_budgets(text, budget):
    assert parse_budget(text) == budget
    if budget.unit != "share":
        assert parse_budget(budget.written()) == budget


@pytest.mark.parametrize("text", ["", "much", "-1h", "0%", "101%", "5 lunches", True])
def test_wrong_budgets_are_named(text):
    with pytest.raises(UsageError, match="is not a budget"):
        parse_budget(text)


def test_seconds_of_runs_are_linear_in_N_and_P():
    N, P = (a.ravel() for a in np.meshgrid([1e5, 2e5, 4e5], [1.0, 2.0, 4.0]))
    D = np.full(9, 1e6)
    truth = (2e-5 + 1e-10 * N + 4e-11 * N * P) * D
    coefficients = seconds_model(N, P, D, truth)
    assert seconds_of(coefficients, np.array([1e6]), np.array([8.0]), np.array([2e6])) == pytest.approx(
        [(2e-5 + 1e-4 + 3.2e-4) * 2e6], rel=1e-6
    )
    with pytest.raises(ScalelabError, match="2 of the runs have 'train_seconds'"):
        seconds_model(N[:2], P[:2], D[:2], truth[:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss", "is not a target"),
        ("N=7B,N=8B", "N is given twice"),
        ("N=seven", "is not a positive count"),
        ("Q=7", "as NAME=VALUE"),
        ("N=7B vs N=8B vs N=9B", "compare two points"),
        ("N=7B,D=1T vs N=8B", "the same variables"),
    ],
)
def test_wrong_targets_are_named(text, message):
    with pytest.raises(UsageError, match=message):
        parse_target(text, ["E", "k"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(target=None), "target: is missing"),
        (dict(budget="1FLOP"), "affords no new run"),
        (dict(target="k", laws="chinchilla"), "the runs have no|is not a target"),
        (dict(budget="5%", N="7B"), "leave out `N`"),
        (
            dict(data=table(noise=0.03), target=["k", "laws"], laws=["parallel", "additive"]),
            "laws without a parameter",
        ),
        (dict(candidates="x.csv", N="7B"), "either `candidates` or a grid"),
        (dict(price="cost"), "names a column of `candidates`"),
        (dict(budget="2h"), "0 of the runs have 'train_seconds'"),
        (dict(most=0), "most"),
        (dict(update="x.yaml"), "leave them out"),
    ],
)
def test_misuse_is_named(more, message):
    arguments = dict(data=table(), target="N=6.4B,P=4", budget="1e21FLOP", laws="parallel", draws=50) | more
    with pytest.raises(ScalelabError, match=message):
        sl.design(**arguments)


def test_the_command_prints_saves_and_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(np.array([5e4, 1e5, 2e5, 4e5])).assign(D=1e6).to_csv("runs.csv", index=False)
    words = ["design", "runs.csv", "--target", "N=6.4M,P=4", "--budget", "1e15FLOP", "--laws", "parallel"]
    words += ["--most", "3", "--draws", "100"]
    assert main([*words, "-o", "next.yaml", "--figure", "next.png"]) == 0
    shown = capsys.readouterr()
    assert "loss at N = 6.4M, P = 4" in shown.out
    assert "next: scalelab sweep next.yaml" in shown.err
    assert Path("next.png").stat().st_size > 5000
    assert main([*words, "-o", "next.yaml"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "-o", "next.txt"]) == 2
    assert "must end in .yaml, .json or .csv" in capsys.readouterr().err
    assert main([*words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["targets"][0]["now"]["low"] < values["targets"][0]["now"]["high"]
    assert len(values["runs"]) <= 3
    assert main(["design", "--update", "next.yaml"]) == 2
    assert "train them with scalelab sweep" in capsys.readouterr().err
