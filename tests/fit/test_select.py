from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scalelab import records
from scalelab.errors import ScalelabError
from scalelab.fit import group_records
from scalelab.fit.data import fit_data
from scalelab.fit.options import FitOptions
from scalelab.fit.select import compare_laws, comparison_data


def comparison(table: pd.DataFrame, by_tokens=True):
    (group,) = group_records(table, by_tokens)
    return compare_laws(fit_data(group.records), group.title)


@pytest.mark.parametrize(
    ("corpus", "rise", "half", "best_n"), [("pile", 39.1, 36.4, 0.0012), ("stack-v2-python", 7.8, 11.3, 0.0062)]
)
def test_on_the_papers_losses_the_additive_form_wins(corpus, rise, half, best_n):
    """Figures from an independent least-squares fit by Nelder-Mead of the same two laws."""
    (group,) = [g for g in group_records(records.load("paper")) if g.title.startswith(corpus)]
    found = compare_laws(fit_data(group.records), group.title)
    rows = {row.label: row for row in found.rows}
    parallel, additive, fixed = rows["parallel"], rows["additive"], rows["additive, c = 1/2"]
    assert parallel.aicc - additive.aicc == pytest.approx(rise, abs=0.1)
    assert parallel.aicc - fixed.aicc == pytest.approx(half, abs=0.1)
    assert fixed.held_out["N"] == pytest.approx(best_n, abs=6e-5)
    assert parallel.held_out["N"] == pytest.approx({"pile": 0.0071, "stack-v2-python": 0.0077}[corpus], abs=6e-5)
    assert found.rows[0].law == "additive"
    assert "additive is best supported" in found.verdict
    assert "parallel, has an AICc" in found.verdict
    assert sum(row.weight for row in found.rows) == pytest.approx(1)


@pytest.mark.parametrize(
    ("law", "params"),
    [
        ("parallel", (0.7, 1e7, 0.5, 0.25)),
        ("diversity", (0.7, 1e7, 0.8, 0.25)),
        ("additive", (0.7, 1e7, 0.25, 0.08, 1.0)),
    ],
)
def test_the_law_that_made_the_losses_wins_where_noise_is_small(table_of, law, params):
    found = comparison(table_of(law, params, noise=1e-4))
    assert found.rows[0].law == law
    assert f"{law} is best supported" in found.verdict


def test_with_much_noise_laws_are_not_distinguishable(table_of):
    found = comparison(table_of("parallel", (0.7, 1e7, 0.02, 0.25), noise=2e-2))
    assert "not distinguishable" in found.verdict


def test_where_d_varies_the_joint_laws_compete(table_of):
    table = table_of("joint", (0.7, 1e7, 0.5, 0.3, 1e9, 0.3), D=(1e9, 4e9, 2e10, 1e11), noise=5e-4)
    found = comparison(table, by_tokens=False)
    assert {row.law for row in found.rows} == {"chinchilla", "farseer", "joint", "joint-power", "joint-additive"}
    assert found.rows[0].law == "joint"
    assert set(found.left_out) == {"N", "P", "D", "C"}
    assert found.rows[0].held_out["D"] < 0.01 < max(row.held_out["D"] or 0.0 for row in found.rows)


@pytest.mark.parametrize(("most", "distinct"), [(np.inf, False), (5e9, True)])
def test_unique_tokens_count_only_where_text_was_repeated(most, distinct):
    N, D = np.meshgrid(np.geomspace(1e8, 1e9, 4), np.geomspace(2e9, 2e10, 4))
    table = pd.DataFrame({"n_params": N.ravel(), "n_tokens": D.ravel()})
    table["loss"] = 1.7 + (5e7 / table.n_params) ** 0.34 + (2e9 / table.n_tokens) ** 0.28
    table["n_tokens_unique"] = np.minimum(table.n_tokens, most)
    (group,) = group_records(records.read(table), False)
    assert comparison_data(group, FitOptions()).varies("U") == distinct


def test_without_several_p_there_is_little_to_compare(table_of):
    found = comparison(table_of("parallel", (0.7, 1e7, 0.5, 0.25), P=(1,), N=np.geomspace(1e8, 1e10, 8)))
    assert [row.label for row in found.rows] == ["power of N"]
    assert "Only power of N" in found.verdict


def test_too_few_runs_for_any_law(table_of):
    with pytest.raises(ScalelabError, match="2 configurations are too few for any law"):
        comparison(table_of("parallel", (0.7, 1e7, 0.5, 0.25), N=(1e8, 1e9), P=(1,)))


def test_what_cannot_be_left_out_is_not_scored(table_of):
    found = comparison(table_of("parallel", (0.7, 1e7, 0.5, 0.25), P=(1, 2)))
    assert all(row.held_out["P"] is None for row in found.rows if row.label != "no effect of P")
    three = comparison(table_of("parallel", (0.7, 1e7, 0.5, 0.25), N=(1e8, 1e9, 1e10)))
    assert {row.held_out["N"] for row in three.rows} == {None}  # two sizes are left, and three are needed


def test_repeating_runs_is_no_new_evidence(table_of):
    table = table_of("parallel", (0.7, 1e7, 0.5, 0.25), noise=5e-3)
    once, often = comparison(table), comparison(pd.concat([table] * 10, ignore_index=True))
    assert [row.label for row in often.rows] == [row.label for row in once.rows]
    assert [row.delta for row in often.rows] == pytest.approx([row.delta for row in once.rows], abs=1e-4)
    weighted = comparison(table.assign(weight=7.0))
    assert [row.delta for row in weighted.rows] == pytest.approx([row.delta for row in once.rows], abs=1e-4)


def test_a_law_with_many_parameters_is_named_not_chosen_on_few_runs(table_of):
    """Sixteen runs, four sizes by four lengths, as ladders of small models have them."""
    table = table_of(
        "farseer",
        (0.2, -0.1, 0.05, 4.6, -0.8, -0.15, -1.2, -0.15, 0.1),
        P=(1,),
        N=(2e8, 4e8, 8e8, 1.3e9),
        D=(4e9, 8e9, 2e10, 4e10),
        noise=1e-4,
    )
    found = comparison(table, by_tokens=False)
    assert [row.label for row in found.rows] == ["chinchilla"]
    assert found.chosen == "chinchilla"
    assert found.unsupported == {"farseer": 9, "farseer, power floor": 8}
    assert "Only chinchilla has enough runs." in found.verdict
    assert (
        "farseer (9 parameters) and farseer, power floor (8 parameters) are not compared: 16 runs are fewer than 3 "
        "per parameter."
    ) in found.verdict


def test_the_criteria_by_hand(table_of):
    """AICc = n ln(RSS/n) + 2K + 2K(K + 1)/(n − K − 1), K being the parameters and the variance."""
    table = table_of("parallel", (0.7, 1e7, 0.5, 0.25), noise=5e-3)
    (group,) = group_records(table)
    data = fit_data(group.records).means()
    n, row = len(data.loss), comparison(table).best
    K = row.n_free + 1
    log_likelihood = n * np.log(np.exp((row.bic - K * np.log(n)) / n))
    assert row.aicc == pytest.approx(log_likelihood + 2 * K + 2 * K * (K + 1) / (n - K - 1))


def test_points_of_a_curve_are_no_runs(table_of):
    N, D = np.geomspace(1e8, 1e10, 14), np.geomspace(1e9, 1e11, 4)
    table = table_of("chinchilla", (0.7, 1e7, 0.3, 1e9, 0.3), N=N, P=(1,), D=D, noise=1e-3)
    (group,) = group_records(table, by_tokens=False)
    data = fit_data(group.records)
    rows = compare_laws(data, "rows")
    curves = compare_laws(replace(data, run=np.unique(data.N, return_inverse=True)[1]), "curves")
    assert rows.unsupported == {}
    assert set(curves.unsupported) == {"farseer", "farseer, power floor"}
    assert "not compared: 14 runs are fewer than 3 per parameter" in curves.verdict
