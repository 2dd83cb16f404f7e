"""Rows that are not independent runs, columns of others, verdicts, and how fits of many rows are computed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scalelab import records
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.fit import FitOptions, fit_group, group_records
from scalelab.fit.data import fit_data
from scalelab.fit.descent import descend
from scalelab.fit.influence import covariance
from scalelab.fit.options import build_objective
from scalelab.fit.screen import FEW_ROWS, screen
from scalelab.fit.solver import draw_starts, minimise
from scalelab.fit.warm import refit
from scalelab.laws import LAWS, Points
from tests.support.paths import PUBLIC

TRUTH = {"E": 1.8, "A": 1e8, "alpha": 0.35, "B": 8e8, "beta": 0.37}


def chinchilla(N, D, noise=0.0):
    return LAWS["chinchilla"].loss(np.array(list(TRUTH.values())), Points(N, np.ones_like(N), D)) * np.exp(noise)


def grid(noise=0.0, seed=0, n=5, d=5) -> pd.DataFrame:
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 1e10, n), np.geomspace(4e9, 1e12, d)))
    return pd.DataFrame(
        {
            "n_params": N,
            "n_tokens": D,
            "loss": chinchilla(N, D, noise * np.random.default_rng(seed).normal(size=len(N))),
        }
    )


def curves(runs: int, seed: int, shared=0.004, along=0.004, rho=0.9, points=15) -> pd.DataFrame:
    """Points of curves: each run has an offset of its own and errors that go on from point to point."""
    rng = np.random.default_rng([seed, runs])
    tables = []
    for i, n in enumerate(np.geomspace(5e7, 5e8, runs)):
        errors = [rng.normal()]
        for _ in range(points - 1):
            errors.append(rho * errors[-1] + np.sqrt(1 - rho**2) * rng.normal())
        D = np.linspace(3e8, 5e9, points)
        loss = chinchilla(np.full(points, n), D, shared * rng.normal() + along * np.array(errors))
        tables.append(pd.DataFrame({"run": f"r{i}", "n_params": n, "n_tokens": D, "loss": loss}))
    return pd.concat(tables, ignore_index=True)


def fitted(table, columns=None, points="auto", law="chinchilla", **options):
    (group,) = group_records(records.read(table, columns), by_tokens=False, points=points)
    return fit_group(group, law, FitOptions(**{"draws": 0, **options}))


def codes(fit) -> dict[str, str]:
    return {note.code: note.message for note in fit.notes}


def test_of_curves_the_last_points_are_fitted_or_all_by_run():
    table = curves(8, 0)
    stops = {f"r{i}": 5 + i for i in range(8)}  # runs of different lengths
    table = table[table.groupby("run").cumcount() < table["run"].map(stops)]
    last = fitted(table, points="final")
    assert len(last.runs) == 8
    assert last.data.D.max() == table.groupby("run")["n_tokens"].max().max()
    assert f"{len(table)} points of 8 runs: only the last of each is fitted" in codes(last)["points"]
    every = fitted(table, points="all")
    assert (len(every.runs), every.data.n_configs) == (len(table), 8)
    assert "intervals and influence are computed by run" in codes(every)["points"]
    # Where all runs end at one D, a law of D needs the curves.
    assert len(fitted(curves(8, 0)).runs) == 120


def test_curves_are_recognised_without_run_ids_and_grids_are_none():
    table = curves(6, 0).drop(columns="run")
    assert records.read(table).records["run"].nunique() == 6
    assert records.read(table.assign(step=table.groupby("n_params").cumcount())).records["run"].nunique() == 6
    assert records.read(grid()).records["run"].isna().all()
    assert records.read(grid(d=12)).records["run"].isna().all()


def test_a_run_column_whose_runs_change_their_n_is_an_error_if_mapped():
    table = grid().assign(name=["a", "b"] * 12 + ["a"])
    with pytest.raises(DataError, match="n_params differs between rows of one `run`"):
        records.read(table, {"run": "name"})


@pytest.mark.slow
def test_intervals_by_run_hold_the_truth_where_those_by_point_do_not():
    """With 20 sets and a chance of 95 % each, fewer than 16 by run have a chance of 0.3 %."""
    hits = {"run": 0, "point": 0}
    for seed in range(20):
        for how in hits:
            table = curves(12, seed)
            table = table if how == "run" else table.drop(columns="run").sample(frac=1, random_state=0)
            low, high = fitted(table, points="all", draws=200, starts=20, seed=seed).interval("alpha")
            hits[how] += low < TRUTH["alpha"] < high
    assert hits["run"] >= 16
    assert hits["point"] <= 14


def test_the_best_of_a_tuning_sweep(make_records):
    base = grid(noise=3e-4)
    factors = {1e-4: 1.25, 3e-4: 1.07, 1e-3: 1.0, 3e-3: 1.04}
    sweep = pd.concat([base.assign(loss=base["loss"] * f, lr=lr) for lr, f in factors.items()])
    plain, best = fitted(sweep), fitted(sweep, best=True)
    assert "differ in peak_lr: a tuning sweep is not repeated seeds; " in codes(plain)["tuning"]
    assert "fit only the best of each with `best`" in codes(plain)["tuning"]
    assert best.params == fitted(base).params
    assert "only the best row of each configuration is fitted: 25 of 100" in codes(best)["best"]
    assert "tuning" not in codes(best)
    seeds = pd.concat([grid(noise=2e-3, seed=s).assign(seed=s) for s in range(4)])
    assert "tuning" not in codes(fitted(seeds))
    rates_by_size = seeds.assign(lr=0.01 * (seeds["n_params"] / 1e8) ** -0.5)
    assert "tuning" not in codes(fitted(rates_by_size))
    asymmetric = fitted(sweep, objective="asymmetric")
    assert abs(asymmetric.values["E"] - 1.8) < 0.02 < abs(plain.values["E"] - 1.8)


def test_columns_of_others_act_only_where_they_are_mapped():
    table = grid(noise=2e-3)
    plain = fitted(table)
    strange = table.assign(
        weight=np.geomspace(1e-3, 1, 25),
        status="TIMEOUT",
        setup=range(25),
        corpus=["a", "b"] * 12 + ["a"],
        tokenizer="t",
    )
    read = records.read(strange)
    assert any("not used: 'weight', 'status', 'setup', 'corpus', 'tokenizer'" in note for note in read.notes)
    assert fitted(strange).params == plain.params
    assert fitted(strange, {"weight": "weight"}).params != plain.params
    assert len(group_records(records.read(strange, {"corpus": "corpus"}), by_tokens=False)) == 2


def test_many_outliers_are_one_note():
    table = grid(noise=3e-4, n=8, d=8)
    table.loc[[3, 10, 20, 29, 38, 43, 52, 57], "loss"] *= 1.3
    fit = fitted(table)
    assert "outlier" not in codes(fit)
    assert "8 of 64 rows are far from the law, 8 above it" in codes(fit)["outliers"]


def test_a_fit_that_explains_nothing_fails_and_is_not_saved(scalelab, tmp_path):
    rng = np.random.default_rng(0)
    noise = pd.DataFrame(
        {
            "n_params": 10 ** rng.uniform(7, 10, 40),
            "n_tokens": 10 ** rng.uniform(9, 12, 40),
            "loss": rng.uniform(2, 4, 40),
        }
    )
    noise["loss"] = np.where(noise["n_params"] > 1e8, 4.0, 2.0) + rng.uniform(0, 1, 40) ** 9
    noise.to_csv(tmp_path / "t.csv", index=False)
    code, out, error = scalelab("fit", "t.csv", "--law", "chinchilla", "--no-figure", "--draws", 100)
    assert (code, "this fit does not describe these runs" in error) == (1, True)
    assert len(out.splitlines()) <= 40
    assert not (tmp_path / "fits").exists()
    code, out, _ = scalelab("fit", "t.csv", "--law", "chinchilla", "--no-figure", "--draws", 100, "--force")
    assert (code, "saved" in out) == (0, True)


def test_a_design_that_cannot_separate_n_from_d_is_named():
    N = np.geomspace(1e8, 1e11, 12)
    table = pd.DataFrame({"n_params": N, "n_tokens": 20 * N, "loss": chinchilla(N, 20 * N)})
    assert "D/N is about 20 in all runs" in codes(fitted(table))["fixed_ratio"]
    assert "fixed_ratio" not in codes(fitted(grid()))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"loss": lambda t: np.exp(t["loss"])}, "unit_loss", "perplexities"),
        ({"n_tokens": lambda t: t["n_tokens"] / 1e9}, "unit_D", "tokens per parameter"),
        ({"n_params": lambda t: t["n_params"] / 1e6}, "unit_N", "if it is in millions"),
        ({"n_params": lambda t: np.where(t.index % 2, t["n_params"], t["n_params"] / 1e9)}, "unit_N", "six decades"),
        ({}, None, ""),
    ],
)
def test_units_that_cannot_be_are_noted(change, code, words):
    notes = codes(fitted(grid().assign(**change)))
    assert {c for c in notes if c.startswith("unit_")} == ({code} if code else set())
    assert words in notes.get(code, "")


def test_fits_that_differ_do_not_overwrite_one_another(scalelab, tmp_path):
    table = grid(noise=1e-3)
    table.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "b").mkdir()
    grid(noise=2e-3, seed=1).to_csv(tmp_path / "b" / "t.csv", index=False)
    base = ("fit", "t.csv", "--law", "chinchilla", "--no-figure", "--draws", 100)
    for args in (
        (),
        ("--where", "n_tokens > 5B"),
        ("--where", "n_params < 9B"),
        ("--bound", "alpha=0.1:0.5"),
        ("--bootstrap", "pairs"),
        ("--tie", "beta=alpha"),
        ("--delta", "0.01"),
        ("--best",),
    ):
        assert scalelab(*base, *args)[0] == 0
    assert len(list((tmp_path / "fits").glob("*.json"))) == 8
    assert scalelab(*base)[0] == 0  # the same again
    code, _, error = scalelab("fit", "b/t.csv", *base[2:])
    assert (code, "holds another fit, with source 't.csv' instead of 'b/t.csv'" in error) == (2, True)
    assert scalelab("fit", "b/t.csv", *base[2:], "--force")[0] == 0


def test_starts_tried_on_a_sample_find_the_optimum_of_all_rows():
    """Against all starts on all rows, for more rows than are tried at once."""
    data = fit_data(records.load(grid(noise=3e-3, n=20, d=20)), variables=LAWS["chinchilla"].variables)
    assert len(data.loss) > FEW_ROWS
    objective = build_objective(LAWS["chinchilla"], data, FitOptions())
    target = objective.to_target(data.loss)
    begin = draw_starts(objective, 40, 0)
    values = descend(objective, begin.copy(), target, data.weight)[1]
    found = screen(objective, begin, target, data.weight)
    assert len(found.points) < 40
    assert minimise(objective, target, data.weight, 40).value <= values.min() * (1 + 1e-9)


def test_refits_of_many_rows_end_close_to_their_optima():
    """Within a fifth of a standard error of where 300 steps of the other algorithm end."""
    data = fit_data(records.load(grid(noise=5e-3, n=20, d=20)), variables=LAWS["chinchilla"].variables)
    objective = build_objective(LAWS["chinchilla"], data, FitOptions())
    target = objective.to_target(data.loss)
    z = minimise(objective, target, data.weight, 20).z
    errors = np.sqrt(np.diag(covariance(objective, data, z)))
    targets = target + 5e-3 * np.random.default_rng(0).normal(size=(30, 400))
    slow = descend(objective, np.tile(z, (30, 1)), targets, data.weight)[0]
    quick = refit(objective, data, z, targets, data.weight, errors)[0]
    assert np.sqrt((((quick - slow) / errors) ** 2).mean()) < 0.2
    assert quick.std(axis=0) == pytest.approx(slow.std(axis=0), rel=0.05)


def test_the_status_does_not_hang_on_seed_or_starts():
    file = PUBLIC / "failing" / "degenerate_flips_with_seed.csv"
    if not file.is_file():
        pytest.skip(f"no public tables at {PUBLIC}: set SCALELAB_PUBLIC_DATA")
    found = {fitted(file, starts=starts, seed=s).status for s, starts in [*((s, 50) for s in range(4)), (0, 100)]}
    assert found == {"converged"}


def test_points_and_options_that_cannot_be_are_named():
    with pytest.raises(UsageError, match="points='some': choose one of auto, final, all"):
        group_records(grid(), points="some")
    with pytest.raises(ScalelabError, match="needs C, and there is no column 'train_flops'"):
        fitted(grid(), law="compute")
