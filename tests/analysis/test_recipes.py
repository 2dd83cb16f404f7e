"""Recipes compared: known multipliers, nested tests, costs, and one line for what cannot be compared."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scalelab as sl
from scalelab.analysis.recipe_law import RECIPE, RecipeLaw, multiplier
from scalelab.errors import ScalelabError, UsageError
from scalelab.laws import LAWS, Points
from tests.support.paths import ROOT

E, A, ALPHA, B, BETA = 1.8, 1e8, 0.35, 8e8, 0.37
FAST = {"draws": 150, "starts": 10, "test_draws": 40}
MOE = Path(os.environ.get("SCALELAB_PUBLIC_DATA", ROOT.parent / "shared" / "reference")) / "scalebench" / "moe"


def runs(N_factor=1.0, D_factor=1.0, alpha=ALPHA, noise=1e-3, seed=2, sizes=6, ratios=(5, 20, 80), E=E, P=1):
    """Losses of the Chinchilla law with N and D multiplied."""
    rng = np.random.default_rng(seed)
    N, ratio = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 3e9, sizes), np.array(ratios, float)))
    D = ratio * (N if len(ratios) > 1 else 5e8)
    loss = E + (A / (N * N_factor)) ** alpha + (B / (D * D_factor)) ** BETA
    loss = loss * np.exp(noise * rng.standard_normal(len(N)))
    return pd.DataFrame({"n_params": N, "n_tokens": D, "n_streams": P, "loss": loss})


def codes(found) -> set[str]:
    return {note.code for note in found.notes}


@pytest.mark.parametrize("groups", [[["A"]], [["A", "B"]], [["A"], ["B"], ["alpha"], ["beta"]], [["E"], ["A"]]])
def test_derivatives_of_the_shared_law(groups):
    """Against central differences."""
    law = RecipeLaw(LAWS["chinchilla"], groups)
    params = np.array([1.8, 1e8, 0.35, 8e8, 0.37, *np.linspace(0.7, 1.3, len(groups))])
    at = Points(
        np.array([1e8, 1e9, 1e8, 1e9]),
        np.ones(4),
        np.array([1e9, 2e10, 1e9, 2e10]),
        others={RECIPE: np.array([0.0, 0, 1, 1])},
    )
    loss, J = law.evaluate(params, at)
    assert loss == pytest.approx(law.loss(params, at))
    for i, value in enumerate(params):
        step = np.zeros_like(params)
        step[i] = 1e-6 * value
        slope = (law.loss(params + step, at) - law.loss(params - step, at)) / (2 * step[i])
        assert J[:, i] == pytest.approx(slope, rel=1e-5, abs=1e-15)


@pytest.mark.parametrize(
    ("factor", "how", "m"),
    [
        ("N", {"N_factor": 1.5}, 1.5),
        ("D", {"D_factor": 2.0}, 2.0),
        ("compute", {"N_factor": 1.3, "D_factor": 1.3}, 1.69),
    ],
)
def test_known_multipliers(factor, how, m):
    """√m on both N and D is m on compute; 6·N·D at equal loss falls by the same factor in all three."""
    found = sl.compare_recipes(runs(), runs(**how, seed=3), factor=factor, **FAST)
    assert found.multiplier.low < m < found.multiplier.high
    assert found.multiplier.value == pytest.approx(m, rel=0.04)
    (flops,) = found.costs
    assert flops.name == "training FLOPs"
    assert flops.at_equal_size == pytest.approx(1)
    assert flops.multiplier.value == pytest.approx(found.multiplier.value, rel=1e-6)
    assert not {"versus_not_shared", "versus_other_factor"} & codes(found)
    assert found.models[0].delta > 20  # no difference


def test_streams_cost_their_passes():
    """P = 4 that acts as 1.5 times the N costs four times the FLOPs: 1.5/4 at equal loss."""
    table = pd.concat([runs(ratios=(20,)), runs(N_factor=1.5, ratios=(20,), P=4, seed=3)])
    found = sl.compare_recipes(table, where="P == 1", against="P == 4", **FAST)
    assert (found.first, found.second) == ("P = 1", "P = 4")
    assert found.law.base.name == "params"
    assert found.multiplier.value == pytest.approx(1.5, rel=0.05)
    assert found.costs[0].at_equal_size == pytest.approx(4)
    assert found.costs[0].multiplier.value == pytest.approx(found.multiplier.value / 4, rel=1e-6)
    assert "P = 4 needs 2." in found.summary()


def test_other_exponents_and_another_factor_are_found():
    steeper = sl.compare_recipes(runs(), runs(alpha=0.6, seed=3), **FAST)
    assert steeper.tests[0].p < 0.05
    assert "versus_not_shared" in codes(steeper)
    high, low = steeper.by_loss
    assert high.loss > low.loss
    assert high.multiplier.value != pytest.approx(low.multiplier.value, rel=0.1)
    data = sl.compare_recipes(runs(), runs(D_factor=2.0, seed=3), **FAST)
    assert "versus_other_factor" in codes(data)
    same = sl.compare_recipes(runs(), runs(seed=3), **FAST)
    assert "versus_no_difference" in codes(same)
    assert "do not tell which recipe" in same.summary()


def test_the_ratio_is_the_multiplier():
    law = RecipeLaw(LAWS["chinchilla"], [["A", "B"]])
    at = Points(np.array([1e9]), np.ones(1), np.array([2e10]), others={RECIPE: np.ones(1)})
    params = np.array([1.8, 1e8, 0.35, 8e8, 0.37, 0.5])
    m = float(multiplier(law, params, "compute"))
    grown = LAWS["chinchilla"].loss(params[:5], Points(at.N * m**0.5, at.P, at.D * m**0.5))
    assert law.loss(params, at) == pytest.approx(grown)


def test_without_D_training_costs_are_at_equal_D():
    plain, better = runs(ratios=(1,)), runs(N_factor=1.5, ratios=(1,), seed=3)
    partly = plain.assign(n_tokens=plain["n_tokens"].where(plain.index > 0))
    for first, second in ((plain, better.drop(columns="n_tokens")), (partly, better)):
        found = sl.compare_recipes(first, second, law="params", **{**FAST, "draws": 0, "test_draws": 0})
        (cost,) = found.costs
        assert cost.unit == "6·N·D·P at equal D"
        assert cost.multiplier.value == pytest.approx(found.multiplier.value)


@pytest.mark.skipif(not MOE.is_dir(), reason="needs the public table of ScaleBench: set SCALELAB_PUBLIC_DATA")
@pytest.mark.parametrize(("experts", "m"), [(8, 1.9), (64, 4.5)])
def test_dense_against_mixtures_of_experts(experts, m):
    """Published losses. Reading off: the dense loss at m times the size, interpolated, is that of the experts."""
    table = pd.read_parquet(MOE / "train.parquet")
    columns = {"n_params": "dense_parameter_count", "loss": "loss_validation"}
    options = {**FAST, "test_draws": 0, "columns": columns}
    found = sl.compare_recipes(table, where="num_experts == 1", against=f"num_experts == {experts}", **options)
    means = table.groupby(["num_experts", "dense_parameter_count"])["loss_validation"].mean()
    dense, other = np.log(means[1]), np.log(means[experts])
    x = np.log(dense.index.to_numpy(dtype=float))
    inside = [n for n in other.index if dense.min() < other[n] < dense.max()]
    shifts = [np.interp(-other[n], -dense.to_numpy(), x) - np.log(n) for n in inside]
    assert len(inside) >= 3
    assert found.multiplier.value == pytest.approx(m, rel=0.02)
    assert found.multiplier.low < np.exp(np.mean(shifts)) < found.multiplier.high


def test_own_records_with_seconds_and_serving():
    """Costs at equal size are those of the paired records; truth by pairs of equal backbones."""
    found = sl.compare_recipes(
        ROOT / "results" / "parallel-law", where="P == 1", against="P == 4", gpu="rtx-4090", **FAST
    )
    table = sl.read(ROOT / "results" / "parallel-law").records
    pairs = table.groupby(["n_params_backbone", "n_streams"])[["train_flops", "train_seconds"]].mean().unstack()
    ratios = {name: (pairs[name][4] / pairs[name][1]).to_numpy() for name in ("train_flops", "train_seconds")}
    by_name = {cost.name: cost for cost in found.costs}
    for name, column in (("training FLOPs", "train_flops"), ("training time", "train_seconds")):
        assert ratios[column].min() * 0.85 < by_name[name].at_equal_size < ratios[column].max() * 1.05
    assert 1 < by_name["serving time"].at_equal_size < 4
    assert by_name["training FLOPs"].multiplier.high < 0.5


def test_one_line_for_what_cannot_be_compared(scalelab):
    runs().to_csv("a.csv", index=False)
    runs(E=9.0).to_csv("far.csv", index=False)
    runs().head(2).to_csv("few.csv", index=False)
    pd.DataFrame({"train_flops": [1e18, 1e19, 1e20], "loss": [3.0, 2.8, 2.6]}).to_csv("c.csv", index=False)
    for words, exit_code, says in (
        (["a.csv", "far.csv"], 1, "the recipes have no loss in common"),
        (["a.csv", "few.csv"], 1, "few: 2 runs; a comparison needs 3 or more of each recipe"),
        (["a.csv", "c.csv"], 1, "the recipes share none of N, D and compute"),
        (["a.csv"], 2, "give a second source, or --against"),
        (["a.csv", "--where", "P == 1", "--against", "P == 1"], 2, "--against 'P == 1': selects the same rows"),
        (["a.csv", "a.csv", "--factor", "loss"], 2, "--factor loss: choose one of N, D, compute"),
        (["a.csv", "a.csv", "--law", "params", "--factor", "D"], 2, "the law 'params' has no D; choose N"),
        (["paper", "--where", "P == 1", "--against", "P == 4"], 2, "2 groups of comparable runs"),
    ):
        code, _, line = scalelab("versus", *words)
        assert (code, says in line) == (exit_code, True), line
    with pytest.raises(UsageError, match="needs two names"):
        sl.compare_recipes(runs(), runs(), names=["one"])
    with pytest.raises(ScalelabError, match="parameters; add runs"):
        sl.compare_recipes(runs(sizes=3, ratios=(20,)).head(3), runs(sizes=3, ratios=(20,), seed=3), law="chinchilla")


def test_command_report_json_and_figure(scalelab, tmp_path):
    runs().to_csv("dense.csv", index=False)
    runs(N_factor=1.5, seed=3).to_csv("sparse.csv", index=False)
    words = ("versus", "dense.csv", "sparse.csv", "--draws", "100", "--starts", "10", "--test-draws", "40")
    code, text, _ = scalelab(*words, "--figure", "versus.png", "-o", "versus.csv", "-q")
    assert code == 0
    assert "At equal loss dense needs 1." in text
    assert (tmp_path / "versus.png").stat().st_size > 10_000
    assert pd.read_csv("versus.csv")["multiplier"].iloc[0] == pytest.approx(1.5, rel=0.05)
    code, text, _ = scalelab(*words, "--json", "-q")
    saved = json.loads(text)
    assert saved["multiplier"]["low"] < 1.5 < saved["multiplier"]["high"]
    found = sl.compare_recipes("dense.csv", "sparse.csv", **FAST)
    assert "<table" in found._repr_html_()
    assert repr(found).startswith("<RecipeComparison sparse over dense: N × 1.")
