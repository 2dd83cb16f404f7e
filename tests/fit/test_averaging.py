"""Averages over laws: weights by hand, quantiles against direct sampling, saved files, and laws that fail."""

import json
from dataclasses import replace

import numpy as np
import pytest

from scalelab import records
from scalelab.api.fitting import fit_law
from scalelab.errors import DataError, UsageError
from scalelab.fit import FitOptions, FitResult, fit_group, group_records, load_fit, save_fit
from scalelab.fit.averaging import LEAST, akaike_weights, problem_of, scaled, with_laws
from scalelab.fit.mixture import LawWeight, MixtureLaw, apportion, averaged, law_share, open_fit
from scalelab.laws import LAWS, Points
from scalelab.plan import Problem
from scalelab.reports.averages import support_lines

QUICK = FitOptions(starts=30, draws=200)


def weighed(table, law="parallel", options=QUICK) -> FitResult:
    (group,) = group_records(table, by_tokens="D" not in LAWS[law].variables)
    return with_laws(fit_group(group, law, options))


@pytest.fixture(scope="module")
def stack() -> FitResult:
    """The paper's losses on Python code."""
    (group,) = [g for g in group_records(records.load("paper")) if g.title.startswith("stack")]
    return with_laws(fit_group(group, "parallel", FitOptions(starts=100, draws=400)))


@pytest.fixture(scope="module")
def open_question(stack) -> FitResult:
    """The same fit, as if AICc did not separate the parallel from the additive law."""
    own, *others = stack.laws
    half = next(entry for entry in others if entry.label == "additive, c = 1/2")
    return replace(stack, laws=(replace(own, weight=0.4), replace(half, weight=0.6)))


def test_weights_follow_from_aicc():
    """exp(−Δ/2) for Δ = 0, 2 and 10, and their sum."""
    each = [1.0, 0.36787944117, 0.00673794700]
    assert akaike_weights([0.0, 2.0, 10.0]) == pytest.approx([e / 1.37461738817 for e in each])
    assert akaike_weights([5.0, 7.0, 15.0]) == pytest.approx(akaike_weights([0.0, 2.0, 10.0]))


def test_on_the_papers_losses_the_additive_forms_have_the_weight(stack):
    """ΔAICc 11.3 of the parallel law and 3.5 of the free exponent, from an independent fit (see test_select)."""
    by_label = {entry.label: entry for entry in stack.laws}
    assert stack.laws[0].label == "parallel"
    assert by_label["parallel"].delta == pytest.approx(11.3, abs=0.1)
    assert by_label["additive"].delta == pytest.approx(3.5, abs=0.1)
    # Without laws below 1 %: the two forms of the additive law remain.
    ratio = np.exp(-by_label["additive"].delta / 2)
    assert by_label["additive"].weight == pytest.approx(ratio / (1 + ratio))
    assert by_label["additive, c = 1/2"].weight == pytest.approx(1 / (1 + ratio))
    assert by_label["parallel"].weight == 0
    assert "below 1 %" in by_label["parallel"].reason
    assert all(entry.fit is None for entry in stack.laws if not entry.weight)
    (line,) = support_lines(stack)
    assert (
        "These data support additive, c = 1/2 and additive: the AICc of the parallel law is 11.3 higher." in line.text
    )
    assert "average over 85 % additive, c = 1/2 + 15 % additive" in line.text


def test_a_law_with_small_noise_has_all_the_weight(table_of):
    fit = weighed(table_of("parallel", (0.7, 1e7, 0.5, 0.25), noise=1e-4))
    assert fit.laws[0].weight > 0.9
    assert "These data support the parallel law: the AICc of the next," in next(iter(support_lines(fit))).text


def test_with_much_noise_laws_are_said_not_to_be_separated(table_of):
    fit = weighed(table_of("parallel", (0.7, 1e7, 0.3, 0.25), noise=1e-2))
    used = [entry for entry in fit.laws if entry.weight > 0]
    assert len(used) > 2
    assert sum(entry.weight for entry in used) == pytest.approx(1)
    assert min(entry.weight for entry in used) >= LEAST
    assert "These data do not separate" in next(iter(support_lines(fit))).text


def test_the_point_estimate_is_the_weighted_mean_of_the_losses(open_question):
    mixed, N, P = open_question.averaged(), np.array([1e9, 7e9]), np.array([2.0, 16.0])
    parallel, half = (open_question.averaged(name).losses(N, P) for name in ("parallel", "additive, c = 1/2"))
    assert mixed.losses(N, P) == pytest.approx(0.4 * parallel + 0.6 * half, rel=1e-12)
    found = open_question.predict("7B", 16)
    assert found[0].loss.value == pytest.approx(mixed.losses(7e9, 16.0), rel=1e-12)
    # N of equal loss is that of the same mean: there the plain average has this loss.
    plain = open_question.n_equivalent("7B", 16)
    assert mixed.losses(plain.value, 1.0) == pytest.approx(mixed.losses(7e9, 16.0), rel=1e-9)


def test_quantiles_are_those_of_a_sample_of_both_laws(open_question):
    """Against direct sampling: choose a law by its weight, then one of its draws."""
    fits = [open_question.averaged(name) for name in ("parallel", "additive, c = 1/2")]
    at = (2e10, 1.0)  # where the laws differ
    losses = [f.evaluate(np.array(f.draws), *at) for f in fits]
    rng = np.random.default_rng(0)
    which = rng.random(200_000) < 0.4
    sample = np.where(which, rng.choice(losses[0], len(which)), rng.choice(losses[1], len(which)))
    mixed = open_question.averaged()
    low, high = mixed.band(*at)
    spread = np.ptp(np.quantile(sample, [0.025, 0.975]))
    assert (low, high) == pytest.approx(tuple(np.quantile(sample, [0.025, 0.975])), abs=0.08 * spread)
    # Law of total variance, from the same sample.
    between = 0.4 * 0.6 * (losses[0].mean() - losses[1].mean()) ** 2
    expected = between / sample.var()
    values = mixed.evaluate(np.array(mixed.draws), *at)
    assert law_share(mixed, values) == pytest.approx(expected, rel=0.05)
    assert open_question.predict(*at)[0].law_share == pytest.approx(law_share(mixed, values))
    assert law_share(fits[0], losses[0]) is None


def test_draws_are_in_proportion_to_the_weights(open_question):
    which = np.array(open_question.averaged().draws)[:, 0]
    assert (which == 0).mean() == pytest.approx(0.4)
    assert apportion([0.5, 0.3, 0.2], 7) == [4, 2, 1]
    assert sum(apportion([1 / 3] * 3, 1000)) == 1000


def test_rows_of_a_mixture_are_evaluated_by_their_own_laws():
    """Points may be shared by all rows, or different for each, as in searches for the best N."""
    laws = [LAWS["parallel"], LAWS["additive"]]
    centres = [np.array([0.7, 1e7, 0.4, 0.2]), np.array([0.8, 1.1e7, 0.3, 0.07, 0.5])]
    mixed = MixtureLaw(["a", "b"], laws, [0.25, 0.75], centres)
    params = np.stack([mixed.row(i, centre) for i, centre in enumerate(centres)] + [mixed.row(-1, np.zeros(0))])
    N, P = np.array([1e9, 2e9, 5e9]), np.array([1.0, 4.0, 8.0])
    one, two = (law.loss(c, Points(N, P)) for law, c in zip(laws, centres, strict=True))
    assert mixed.loss(params, Points(N, P)) == pytest.approx(np.stack([one, two, 0.25 * one + 0.75 * two]))
    own = Points(N[:, None], P[:, None])  # a point for each row
    assert mixed.loss(params, own)[:, 0] == pytest.approx([one[0], two[1], 0.25 * one[2] + 0.75 * two[2]])
    assert mixed.loss(params[0], Points(N, P)) == pytest.approx(one)


def test_laws_with_different_variables_are_averaged(table_of):
    table = table_of(
        "joint", (0.7, 1e7, 0.02, 0.3, 1e9, 0.3), D=(1e9, 4e9, 2e10), N=(1e8, 4e8, 1e9), P=(1, 4), noise=5e-3
    )
    (group,) = group_records(table, by_tokens=False)
    fit = with_laws(fit_group(group, "joint", FitOptions(starts=20, draws=100)))
    used = {entry.law for entry in fit.laws if entry.weight > 0}
    assert {"joint", "chinchilla"} <= used
    row = fit.predict("1B", 4, "4B")[0]
    assert row.loss.low < row.loss.value < row.loss.high
    best = fit.compute_optimal("1e20", 2)[0]
    mixed = fit.averaged()
    N = best.N.value
    near = [float(mixed.losses(n, 2.0, 1e20 / (12 * n))) for n in (0.99 * N, N, 1.01 * N)]
    assert near[1] == min(near)


def test_a_saved_fit_holds_its_laws_to_the_last_digit(stack, tmp_path):
    save_fit(stack, tmp_path / "fit.json")
    again = load_fit(tmp_path / "fit.json")
    assert again == stack
    assert again.predict("7B", 8).to_dict() == stack.predict("7B", 8).to_dict()
    alone = open_fit(tmp_path / "fit.json", "parallel")
    assert alone.draws == stack.draws
    assert not alone.laws


def test_a_file_of_the_format_before_has_one_law(stack, tmp_path):
    from scalelab.fit.saved import _digest, fit_text

    saved = json.loads(fit_text(replace(stack, laws=())))
    del saved["laws"], saved["digest"]
    saved["format"] = 3
    body = {k: v for k, v in saved.items() if k != "format"}
    saved["digest"] = _digest(body | {"format": 3})
    (tmp_path / "old.json").write_text(json.dumps(saved))
    old = load_fit(tmp_path / "old.json")
    assert old.averaged() is old
    assert old.predict("7B", 8)[0].law_share is None
    assert old.predict("7B", 8).to_dict() == stack.predict("7B", 8, law="parallel").to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda laws: laws[1].update(weight=0.5), "do not add up to 1"),
        (lambda laws: laws[1].update(weight=-0.5), "not between 0 and 1"),
        (lambda laws: laws[1]["fit"].update(law="unheard-of"), "'unheard-of' is not one of this version"),
        (lambda laws: laws[1]["fit"]["draws"][0].pop(), "wrong number of parameters"),
        (lambda laws: laws[1].pop("delta"), "not a saved fit"),
        (lambda laws: laws[1]["fit"]["params"].__setitem__(0, 9.0), "predicts other losses"),
    ],
)
def test_damaged_laws_are_refused_by_name(stack, tmp_path, change, message):
    from scalelab.fit.saved import _digest, fit_text

    saved = json.loads(fit_text(stack))
    del saved["digest"]
    change(saved["laws"])
    saved["digest"] = _digest(saved)
    (tmp_path / "bad.json").write_text(json.dumps(saved))
    with pytest.raises(DataError, match=rf"bad\.json.*{message}"):
        load_fit(tmp_path / "bad.json")


def test_a_law_that_the_fit_does_not_hold_is_named(stack):
    with pytest.raises(UsageError, match="holds 'parallel' and 'additive, c = 1/2' and 'additive' and not 'diversity'"):
        stack.predict("7B", 8, law="diversity")
    assert stack.averaged("additive").fixed == ()
    assert stack.averaged("additive, c = 1/2").fixed == ("c",)


def test_few_runs_are_not_enough_to_weigh_laws(table_of):
    fit = weighed(table_of("parallel", (0.7, 1e7, 0.5, 0.25), N=(1e8, 1e9, 1e10), P=(1, 2, 4), noise=1e-3))
    assert fit.laws == (LawWeight("parallel", "parallel", None, 1.0, "9 runs are fewer than 3 per parameter"),)
    assert fit.averaged().law.name == "parallel"
    assert "No other law was weighed: 9 runs" in next(iter(support_lines(fit))).text


def test_a_chosen_law_is_used_alone(table_of):
    table = table_of("additive", (0.7, 1e7, 0.25, 0.08, 0.5), noise=1e-3)
    options = {"starts": 10, "draws": 100}
    assert fit_law(table, "additive", **options).laws == ()
    assert fit_law(table, fix={"k": 0.3}, **options).laws == ()
    assert fit_law(table, "parallel", average=True, **options).laws[0].label == "parallel"
    assert fit_law(table, average=False, **options).laws == ()
    assert fit_law(table, **options).laws[0].law == "parallel"
    with pytest.raises(UsageError, match="leave out `fix`, `bounds` and `tie`"):
        fit_law(table, average=True, fix={"k": 0.3}, **options)


def test_a_law_without_a_floor_may_be_averaged(table_of):
    """The truth has no floor, so E ends at its bound, zero, which is a law of its own and not a failure."""
    fit = weighed(table_of("power", (1e-9, 1e7, 0.2, 0.25), noise=3e-3))
    power = next(entry for entry in fit.laws if entry.label == "power")
    assert power.fit.status == "at_bound"
    assert power.weight > 0.5


def test_other_failures_leave_a_law_out(stack):
    fit = stack.averaged("additive")
    assert problem_of(fit, stack) == ""
    assert "do not determine its parameters" in problem_of(replace(fit, status="degenerate"), stack)
    assert "does not converge" in problem_of(replace(fit, status="start_dependent"), stack)
    at_bound = replace(fit, status="at_bound", params=(*fit.params[:4], LAWS["additive"].parameters[4].bounds[0]))
    assert problem_of(at_bound, stack) == "these runs do not determine its c"
    assert problem_of(replace(fit, draws=()), stack) == "it has no intervals"


def test_the_weight_of_a_law_that_fails_goes_to_the_plausible_ones_only():
    assert scaled({"a": 0.6, "b": 0.3, "c": 0.1}, {"a"}) == pytest.approx({"b": 0.75, "c": 0.25})
    assert scaled({"a": 1.0}, {"a"}) == {}


def test_a_plan_counts_the_draws_of_every_law(open_question):
    from scalelab.api.planning import make_plan

    plan = make_plan(open_question, memory="4GB", latency="500ms", gpu="rtx-4090", P=[1, 2, 4, 8])
    assert isinstance(plan.problem, Problem)
    assert {*plan.by_law} == {"parallel", "additive, c = 1/2"}
    for option in plan.options:
        mean = 0.4 * plan.by_law["parallel"][option.P] + 0.6 * plan.by_law["additive, c = 1/2"][option.P]
        assert option.share == pytest.approx(mean)
    assert 0 < plan.law_share < 1
    words = plan.summary(120)
    assert "averaged over 40 % parallel + 60 % additive, c = 1/2" in words
    alone = make_plan(open_question, memory="4GB", latency="500ms", gpu="rtx-4090", P=[1, 2, 4, 8], law="parallel")
    assert not alone.by_law
    assert "if the parallel law is right" in alone.summary(120)


def test_streams_against_a_larger_n_are_averaged(open_question):
    from scalelab.api.costs import compare_costs

    (both,) = compare_costs(2560, 8, fit=open_question, batch=1)
    (one,) = compare_costs(2560, 8, fit=open_question, batch=1, law="parallel")
    assert "average of 40 % parallel + 60 % additive, c = 1/2; " in both.source
    assert "of the variance of ln N is between the laws" in both.source
    assert both.size.value == open_question.n_equivalent(both.n_params, 8).value
    assert one.size.value == open_question.n_equivalent(one.n_params, 8, law="parallel").value
    assert one.size.value < both.size.value


def test_pages_show_one_law_and_say_so(stack):
    from scalelab.page.explorer import fit_data

    shown = fit_data(averaged(stack, "parallel"))
    with_note = fit_data(stack)
    assert with_note["notes"][0].startswith("This page shows the parallel law alone. The commands predict and plan")
    assert {k: v for k, v in with_note.items() if k != "notes"} == {k: v for k, v in shown.items() if k != "notes"}
