"""Named status of a fit, options that steer it, and notes with severity and figures."""

import numpy as np
import pandas as pd
import pytest

from scalelab.errors import ScalelabError, UsageError
from scalelab.fit import FitOptions, solver
from scalelab.fit.data import fit_data
from scalelab.fit.options import build_objective
from scalelab.fit.solver import draw_starts, minimise
from scalelab.laws import LAWS, Law, Parameter
from tests.support.laws_of_others import TRUTHS as OTHERS
from tests.support.tables import fit_table

JOINT = (0.7, 1e7, 0.5, 0.3, 1e9, 0.35)


def notes_of(result):
    return {note.code: note for note in result.notes}


def test_converged_and_at_bound(make_records):
    assert fit_table(make_records(noise=1e-3)).status == "converged"
    bounded = fit_table(make_records(noise=1e-3), bounds={"alpha": (0.3, 1.0)})
    assert bounded.status == "at_bound"
    assert bounded.values["alpha"] == pytest.approx(0.3, rel=1e-6)
    assert notes_of(bounded)["at_bound"].severity == "serious"
    assert notes_of(bounded)["at_bound"].figures == {"value": pytest.approx(0.3)}


def test_at_a_bound_the_other_parameters_are_still_the_best(make_records):
    """As good as with the parameter fixed there, from all starts, and in every bootstrap refit."""
    bounded = fit_table(make_records(noise=1e-3), bounds={"k": (0.0, 0.3)})
    fixed = fit_table(make_records(noise=1e-3), fix={"k": 0.3})
    assert bounded.status == "at_bound"
    assert bounded.agreement > 0.95
    assert bounded.params == pytest.approx(fixed.params, rel=1e-5)
    assert bounded.objective == pytest.approx(fixed.objective, rel=1e-9)
    ends = np.array(bounded.draws)
    assert ends[:, 2].max() == 0.3
    assert 0.3 < (ends[:, 2] == 0.3).mean() < 0.7  # the refits' truth is at the bound
    assert np.std(ends[:, 3]) == pytest.approx(np.std(np.array(fixed.draws)[:, 3]), rel=0.3)


def test_parameters_that_only_their_product_shows_are_degenerate(make_records):
    class Product(Law):
        name = "product"
        parameters = (
            Parameter("a", "1", (0.1, 10.0)),
            Parameter("b", "1", (0.1, 10.0)),
            Parameter("alpha", "1", (0.05, 1.0)),
        )

        def loss(self, params, at):
            a, b, alpha = (params[..., i, None] for i in range(3))
            return a * b * (at.N / 1e9) ** -alpha

    result = fit_table(make_records(noise=1e-3), Product())
    assert result.status == "degenerate"
    assert result.interval("a") is None  # refits from one point of a flat valley would stay at it
    assert notes_of(result)["degenerate"].figures["condition"] > 1e6


def test_an_objective_with_many_minima_is_start_dependent():
    class Waves(Law):
        name = "waves"
        parameters = (Parameter("w", "1", (0.0, 3000.0), (-1.0, 3001.0), positive=False),)

        def loss(self, params, at):
            return 3 + np.sin(params[..., 0, None] * at.ln_N)

    n = np.geomspace(1e6, 1e9, 30)
    table = pd.DataFrame({"n_params": n, "n_streams": 1, "loss": 3 + np.sin(1234.5 * np.log(n))})
    result = fit_table(table, Waves(), starts=200)
    assert result.status == "start_dependent"
    assert notes_of(result)["starts_disagree"].severity == "serious"


def test_a_start_that_never_moved_is_told(make_records, monkeypatch):
    """With every start drawn at the optimum of an earlier fit, the optimum is a start."""
    first = fit_table(make_records(noise=1e-3))
    assert "start_is_optimum" not in notes_of(first)
    data = fit_data(make_records(noise=1e-3))
    z = build_objective(LAWS["parallel"], data, FitOptions()).from_params(np.array(first.params))
    monkeypatch.setattr(solver, "draw_starts", lambda objective, count, seed: np.tile(z, (count, 1)))
    assert "start_is_optimum" in notes_of(fit_table(make_records(noise=1e-3)))


def test_starts_far_out_get_moving(make_records):
    """Starts whose reducible loss is next to nothing have steps of e^100 to refuse before one that helps."""
    data = fit_data(make_records(noise=1e-3))
    objective = build_objective(LAWS["parallel"], data, FitOptions())
    starts = draw_starts(objective, 300, 0)
    assert (starts[:, 1] < np.log(1e-6)).any()
    assert minimise(objective, objective.to_target(data.loss), data.weight, 300).agreement > 0.95


@pytest.mark.parametrize("objective", ["huber", "log", "raw"])
def test_every_law_recovers_its_own_parameters(table_of, objective):
    truths = {
        "parallel": (0.7, 1e7, 0.5, 0.25),
        "power": (0.7, 1e7, 0.3, 0.25),
        "diversity": (0.7, 1e7, 0.8, 0.25),
        "additive": (0.7, 1e7, 0.25, 0.08, 1.0),
        "chinchilla": (0.7, 1e7, 0.3, 1e9, 0.35),
        "joint": JOINT,
        "joint-additive": (0.7, 1e7, 0.3, 1e9, 0.35, 0.08, 1.0),
    }
    assert {*truths, *OTHERS} == {*LAWS}  # those of other variables are in test_laws_of_others.py
    for law, params in truths.items():
        D = (1e9, 1e10, 1e11) if "D" in LAWS[law].variables else (1e10,)
        P = (1, 2, 4, 8) if "P" in LAWS[law].variables else (1,)
        result = fit_table(table_of(law, params, noise=0.0, D=D, P=P), law, objective=objective, draws=0)
        assert result.params == pytest.approx(params, rel=1e-3), law
        assert result.r_squared > 1 - 1e-9


def test_delta_chooses_between_squares_and_absolute_values(make_records):
    table = make_records(noise=3e-3, seed=2)
    squares = fit_table(table, objective="log", draws=0)
    assert fit_table(table, delta=10.0, draws=0).params == pytest.approx(squares.params, rel=1e-5)
    assert fit_table(table, delta=1e-4, draws=0).params != pytest.approx(squares.params, rel=1e-3)


def test_fixed_and_bounded_parameters(make_records):
    table = make_records(noise=1e-3)
    fixed = fit_table(table, fix={"k": 0.3, "E": 0.7})
    assert (fixed.values["k"], fixed.values["E"]) == (0.3, 0.7)
    assert set(fixed.fixed) == {"k", "E"}
    assert fixed.interval("k") is None
    assert fixed.interval("alpha") is not None
    assert (np.array(fixed.covariance)[2] == 0).all()
    within = fit_table(table, bounds={"alpha": (0.1, 0.5)})
    assert within.params == pytest.approx(fit_table(table).params, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fix": {"q": 1.0}}, r"fix='q': the law 'parallel' has parameters E, A, k, alpha"),
        ({"fix": {"E": -1.0}}, r"fix=\{'E': -1\.0\}: E must be positive"),
        ({"bounds": {"alpha": (1.0, 0.5)}}, "`bounds` alpha: the lower bound 1 must be below 0.5"),
        ({"bounds": {"alpha": (100.0, 200.0)}}, "`bounds` alpha: 100 to 200 is outside the law's range, 0.001 to 5"),
        ({"fix": {"k": 1.0}, "bounds": {"k": (0.0, 1.0)}}, "k cannot be in both `fix` and `bounds`"),
        ({"objective": "l3"}, "objective='l3': choose one of huber, log, raw, asymmetric"),
        ({"bootstrap": "bag"}, "bootstrap='bag': choose one of residual, wild, pairs"),
        ({"fix": {"E": 0.7, "A": 1e7, "k": 0.1, "alpha": 0.2}}, "all parameters are fixed"),
    ],
)
def test_options_that_cannot_be_are_named(make_records, options, message):
    with pytest.raises(UsageError, match=message):
        fit_table(make_records(noise=1e-3), **options)


def test_what_a_law_needs_and_the_data_do_not_hold_is_said(make_records, table_of):
    with pytest.raises(ScalelabError, match="the law 'joint' needs more than one value of D"):
        fit_table(make_records(), "joint")
    with pytest.raises(ScalelabError, match=r"4 distinct \(N, D\) cannot determine 5 parameters"):
        fit_table(table_of("chinchilla", (0.7, 1e7, 0.3, 1e9, 0.35), N=(1e8, 1e9), D=(1e9, 1e10)), "chinchilla")
    with pytest.raises(ScalelabError, match="the law 'joint' needs D, and there is no column 'n_tokens'"):
        fit_table(make_records().drop(columns="n_tokens"), "joint")
    ignored = fit_table(table_of("joint", JOINT, D=(1e9, 1e10, 1e11)), "chinchilla")
    assert notes_of(ignored)["P_ignored"].figures == {"levels": 4}


def test_few_levels_of_p_and_one_are_noted(make_records):
    assert notes_of(fit_table(make_records(P=(1, 4), noise=1e-3)))["few_P"].figures == {"levels": 2}
    one = fit_table(make_records(P=(1,), noise=1e-3), "additive")
    assert set(one.fixed) == {"B", "c"}
    assert "so the fit fixes B = 0, c = 0.5" in notes_of(one)["one_P"].message


def test_two_sizes_are_too_few_for_a_floor_and_a_power(make_records):
    note = notes_of(fit_table(make_records(N=(1e9, 8e9), noise=1e-3)))["few_N"]
    assert note.figures == {"levels": 2}
    assert "use 3 or more" in note.message
    assert "few_N" not in notes_of(fit_table(make_records(N=(1e9, 3e9, 8e9), noise=1e-3)))


def test_seed_noise_above_the_effect_of_p_is_noted(make_records):
    tables = [make_records(k=0.01, noise=2e-2, seed=seed) for seed in range(3)]
    note = notes_of(fit_table(pd.concat(tables, ignore_index=True)))["seed_noise"]
    assert note.figures["seed_noise"] > note.figures["effect"]
    clear = [make_records(k=0.4, noise=1e-3, seed=seed) for seed in range(3)]
    assert "seed_noise" not in notes_of(fit_table(pd.concat(clear, ignore_index=True)))


def test_e_and_alpha_tied_over_a_narrow_range_and_not_over_a_wide_one(make_records):
    narrow = notes_of(fit_table(make_records(noise=1e-3)))["E_alpha_tied"]
    assert narrow.figures["correlation"] > 0.99
    wide = fit_table(make_records(E=1.5, A=1e6, alpha=0.6, N=np.geomspace(1e6, 1e11, 10), noise=1e-3))
    assert "E_alpha_tied" not in notes_of(wide)


def test_a_run_that_moves_the_fit_is_named(make_records):
    table = make_records(N=(1e8, 1.1e8, 1.2e8, 1.3e8, 1e10), P=(1, 2, 4, 8), noise=1e-3)
    table.loc[19, "loss"] *= 1.02
    note = notes_of(fit_table(table))["leverage"]
    assert "the run at N 10B, P 8" in note.message
    assert note.figures["shift"] > 1.5
