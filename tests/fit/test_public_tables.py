"""Public tables: does the law that scalelab chooses predict what was held out? Without them, skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scalelab import records
from scalelab.fit import FitOptions, fit_group, group_records
from scalelab.fit.select import fit_chosen
from scalelab.importers import import_runs, write_runs
from tests.support.paths import PUBLIC

OLMO_N = {"190M": 190_354_176, "370M": 371_262_464, "760M": 758_220_288, "1B": 1_279_395_840}


def public(name: str) -> Path:
    if not (PUBLIC / name).exists():
        pytest.skip(f"no {name} at {PUBLIC}: set SCALELAB_PUBLIC_DATA to the folder of public tables")
    return PUBLIC / name


def table(name: str, part: str = "train") -> pd.DataFrame:
    return pd.read_parquet(public(f"scalebench/{name}/{part}.parquet"))


def the_group(frame: pd.DataFrame, columns=None):
    (group,) = group_records(records.read(frame, columns), by_tokens=False)
    return group


def r_squared(fit, test: pd.DataFrame, **points) -> float:
    points = {name: test[column].to_numpy(float) for name, column in points.items()}
    loss = test["loss"] if "loss" in test else test["loss_validation"]
    return 1 - float(((fit.losses(**points) - loss) ** 2).sum() / ((loss - loss.mean()) ** 2).sum())


@pytest.mark.parametrize("corpus", ["stack", "pile"])
def test_losses_of_eight_streams_from_those_of_fewer(corpus):
    train, test = (t[t["group"] == corpus] for t in (table("parallel"), table("parallel", "test")))
    _, fit = fit_chosen(the_group(train.drop(columns="group")), FitOptions(draws=0))
    assert r_squared(fit, test, N="num_params", P="parallel_size") >= 0.99


def test_larger_farseer_runs_from_smaller_ones():
    comparison, fit = fit_chosen(the_group(table("farseer")[["N", "D", "loss"]]), FitOptions(draws=0))
    assert fit.law.name == "farseer"
    assert r_squared(fit, table("farseer", "test"), N="N", D="D") >= 0.95
    assert comparison.rows[0].aicc < {row.label: row for row in comparison.rows}["chinchilla"].aicc - 1000


def test_repeated_data_and_experts_are_recognised():
    for name, law in (("data_constrained", "data-constrained"), ("moe", "experts-started")):
        _, fit = fit_chosen(the_group(table(name).drop(columns="group")), FitOptions(draws=0, starts=60))
        assert fit.law.name == law
        assert fit.r_squared > 0.9


@pytest.mark.parametrize("dense", [132163584, 368123904])
def test_experts_of_larger_models_from_those_of_smaller_ones(dense):
    """Rows of one size and number of experts differ by up to 0.14 nats, so R² cannot come near 1."""
    runs = table("moe").drop(columns="group")
    small, large = runs[runs.dense_parameter_count < dense], runs[runs.dense_parameter_count >= dense]
    columns = {"n_params": "dense_parameter_count", "n_experts": "num_experts", "loss": "loss_validation"}
    r2 = {}
    for law in ("experts", "experts-started"):
        fit = fit_group(the_group(small, columns), law, FitOptions(draws=0))
        r2[law] = r_squared(fit, large, N="dense_parameter_count", X="num_experts")
    assert r2["experts-started"] > max(0.6, r2["experts"] + 0.1)


def test_the_best_learning_rate_and_batch_of_a_larger_model():
    columns = {"n_params": "non_embedding_param_size", "n_tokens": "data_size", "loss": "lm_loss"}
    fit = fit_group(
        the_group(table("lr_bsz").drop(columns="group"), columns), "lr-batch", FitOptions(draws=0, starts=20)
    )
    test = table("lr_bsz", "test")
    N, D = float(test["non_embedding_param_size"].iloc[0]), float(test["data_size"].iloc[0])
    rate, batch = fit.law.optimum(np.array(fit.params), N, D)
    away = np.log(test["lr"] / rate) ** 2 + np.log(test["bsz"] / batch) ** 2
    assert test.loc[away.idxmin(), "lm_loss"] <= 1.002 * test["lm_loss"].min()


def test_the_olmo_ladder_in_one_command(scalelab, tmp_path):
    source = public("olmo_ladder")
    sizes = [f"{name}={n}" for name, n in OLMO_N.items()]
    loss = "loss=eval/c4_en-validation/CrossEntropyLoss"
    code, out, _ = scalelab("import", source, "-o", "olmo", "--n-from", *sizes, "--map", loss)
    assert (code, "imported 16 runs to olmo" in out) == (0, True)
    code, out, _ = scalelab("fit", "olmo", "--law", "all", "--starts", 60)
    assert (code, "Use for predictions: chinchilla." in out) == (0, True)
    assert "farseer (9 parameters), " in out
    assert "not compared: 16 runs are fewer than 3 per parameter" in out
    last = pd.read_csv(source / "1B-10xC.csv").iloc[-1]
    rows = records.read(tmp_path / "olmo").records
    row = rows[(rows["n_params"] == OLMO_N["1B"])].sort_values("n_tokens").iloc[-1]
    assert row["loss"] == last["eval/c4_en-validation/CrossEntropyLoss"]
    assert row["n_tokens"] == last["throughput/total_tokens"]


def test_an_import_without_the_loss_lists_what_there_is(tmp_path):
    from scalelab.errors import DataError

    with pytest.raises(DataError, match=r"no column for loss; map one with `columns={'loss': COLUMN}`"):
        import_runs(public("olmo_ladder"), n_from=OLMO_N)
    imported = import_runs(
        public("olmo_ladder"), n_from=OLMO_N, columns={"loss": "eval/pile-validation/CrossEntropyLoss"}
    )
    assert len(write_runs(imported, tmp_path / "o").files) == 16


@pytest.mark.parametrize(
    ("file", "law", "columns", "options", "expected"),
    [
        ("comments.csv", "chinchilla", None, {}, {"E": 1.8}),
        ("thousands.csv", "chinchilla", None, {}, {"E": 1.8}),
        ("utf16.csv", "chinchilla", None, {}, {"E": 1.8}),
        ("setup_column.csv", "chinchilla", None, {}, {"E": 1.8}),
        ("status_success.csv", "chinchilla", None, {}, {"E": 1.8}),
        ("names_for_where.csv", "chinchilla", None, {}, {"E": 1.8}),
        ("weight_column.csv", "chinchilla", None, {}, {"A": 4.974e7}),
        ("lr_sweep.csv", "chinchilla", None, {"best": True}, {"E": 1.8}),
        ("perplexity.csv", "chinchilla", {"loss": "ln(loss)"}, {}, {"E": 1.8}),
        ("only_total.csv", "chinchilla", {"n_params_total": "parameter_count"}, {"convention": "total"}, {"E": 1.8}),
        ("flops_over_1e18.csv", "compute", None, {"objective": "log"}, {"E": 1.6, "alpha": 0.0941}),
    ],
)
def test_small_inputs_that_failed(file, law, columns, options, expected):
    (group,) = group_records(records.read(public(f"failing/{file}"), columns), by_tokens=False)
    fit = fit_group(group, law, FitOptions(draws=0, **options))
    for name, value in expected.items():
        assert fit.values[name] == pytest.approx(value, rel=0.03)
