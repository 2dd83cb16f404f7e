"""Lifetime plans: against published optima, brute force and limits; what they say where there is no answer."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

import scalelab as sl
from scalelab.cli import main
from scalelab.cost import Device, Workload
from scalelab.cost.compare import price_by
from scalelab.cost.equal_loss import paper_decoder
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit import save_fit
from scalelab.laws import LAWS, Law, Parameter, Points
from scalelab.laws.published import PUBLISHED
from scalelab.plan import Shapes
from scalelab.plan.lifetime import LifetimePlan, plan_lifetime
from scalelab.plan.lifetime_costs import LifetimeCosts, Serving
from scalelab.plan.lifetime_curve import curve
from scalelab.plan.lifetime_reach import Belief
from scalelab.plan.lifetime_search import LawDraws, Search
from tests.support.tables import fit_table

SARDANA = PUBLISHED["sardana"]
JOINT = {"E": 1.69, "A": 5.8e7, "k": 0.35, "alpha": 0.336, "B": 1.73e9, "beta": 0.283}
ONCE = np.array([1.0])


def believe(law=SARDANA.law, params=SARDANA.params, draws=0, spread=0.01):
    rng = np.random.default_rng(0)
    values = np.array(params, dtype=float)
    drawn = values * np.exp(spread * rng.standard_normal((draws, len(values))))
    return Belief((LawDraws(law, values, drawn),), "law", "all parameters")


def joint(draws=0, spread=0.01, name="joint", **changes):
    law = LAWS[name]
    values = JOINT | changes
    return believe(law, [values[n] for n in law.names], draws, spread)


def chinchilla_loss(N):
    """The loss of the model with the lowest 6·N·D among those of its loss: αA/N^α = βB/D^β (arXiv 2203.15556)."""
    p = dict(zip(SARDANA.law.names, SARDANA.params, strict=True))
    of_N = (p["A"] / N) ** p["alpha"]
    return p["E"] + of_N * (1 + p["alpha"] / p["beta"])


def at(N, P, D):
    return Points(*(np.array([float(v)]) for v in (N, P, D)))


# Printed in the README of the authors' code of arXiv 2401.00448, with α = 0.336 and β = 0.283.
def test_the_published_optimum_of_training_and_serving_flops():
    plan = plan_lifetime(believe(), 2e12, 1.947, (1,), LifetimeCosts())
    best, trained = plan.winner, plan.train_best
    assert best.N.value == pytest.approx(2.418e10, rel=5e-4)
    assert best.D.value == pytest.approx(2.657e12, rel=5e-4)
    assert best.N.value / trained.N.value == pytest.approx(0.7096, abs=1e-4)
    assert best.D.value / trained.D.value == pytest.approx(1.4677, abs=1e-4)
    assert 1 - plan.saving_over_train_best.value == pytest.approx(0.9522, abs=1e-4)


def test_the_published_optimum_of_money():
    """A100 80 GB at $1.40 and half its bf16 peak trains; A100 40 GB at $0.60 serves in int8, at 0.4 and 0.2 of it."""
    flop = 1.40 / 3600 / 312e12 / 0.5
    token = 2 * 0.60 / 3600 / 624e12 * (1e13 / 0.4 + 2.5e12 / 0.2)  # per parameter, all requests together
    search = Search(SARDANA.law, np.array([SARDANA.params]), 1, 1.947)

    def train(N, D):
        return 6 * N * D * flop

    def serve(N):
        return token * N

    best = search.optimum(ONCE, train, serve)
    trained = search.at(search.train_best[:, None], ONCE, train, serve)
    assert best.N[0, 0] == pytest.approx(2.053e10, rel=5e-4)
    assert best.D[0, 0] == pytest.approx(3.302e12, rel=5e-4)
    assert (best.N / trained.N).item() == pytest.approx(0.6023, abs=1e-4)
    assert (best.D / trained.D).item() == pytest.approx(1.8241, abs=1e-4)
    assert (best.total / trained.total).item() == pytest.approx(0.8876, abs=1e-4)


def test_the_published_example_of_a_13b_model():
    """Figure 1: with 2T tokens of demand, 7B on more data saves 1.7e22 FLOPs (17 %) over a Chinchilla-optimal 13B."""
    plan = plan_lifetime(believe(), 2e12, chinchilla_loss(13e9), (1,), LifetimeCosts())
    assert plan.train_best.N.value == pytest.approx(13e9, rel=1e-5)
    assert round(plan.winner.N.value / 1e9) == 7
    assert plan.train_best.total.value - plan.winner.total.value == pytest.approx(1.7e22, rel=0.03)
    assert plan.saving_over_train_best.value == pytest.approx(0.17, abs=0.005)


@pytest.mark.parametrize("loss", [1.9, 2.3, 3.0])
@pytest.mark.parametrize("P", [1, 8])
def test_the_optimum_agrees_with_another_minimiser(loss, P):
    belief, costs = joint(), LifetimeCosts(second_stage=0.1)
    p = JOINT

    def total(ln_N):
        N = math.exp(ln_N)
        rest = loss - p["E"] - (p["A"] / (N * (p["k"] * math.log(P) + 1))) ** p["alpha"]
        D = p["B"] * rest ** (-1 / p["beta"]) if rest > 0 else math.inf
        return math.log(6 * N * D * (1 + 0.1 * (P - 1)) + 2 * N * P * 5e11)

    least = math.log(p["A"] / (p["k"] * math.log(P) + 1) * (loss - p["E"]) ** (-1 / p["alpha"]))
    found = minimize_scalar(total, bounds=(least + 1e-9, least + 12), method="bounded", options={"xatol": 1e-10})
    option = plan_lifetime(belief, 5e11, loss, (P,), costs).options[0]
    assert option.N.value == pytest.approx(math.exp(found.x), rel=1e-5)
    assert option.total.value == pytest.approx(math.exp(found.fun), rel=1e-10)
    assert belief.laws[0].law.loss(belief.laws[0].params, at(option.N.value, P, option.D.value)) == pytest.approx(
        loss, abs=1e-10
    )


def test_without_serving_it_is_chinchillas_optimum_and_n_falls_with_served_tokens():
    loss = chinchilla_loss(1e9)
    served = np.geomspace(1.0, 1e18, 13)
    found = [plan_lifetime(believe(), float(s), loss, (1,), LifetimeCosts()) for s in served]
    N, D = (np.array([getattr(plan.winner, name).value for plan in found]) for name in "ND")
    assert N[0] == pytest.approx(1e9, rel=1e-5)
    assert found[0].saving_over_train_best.value == pytest.approx(0, abs=1e-9)
    assert (np.diff(N[3:]) < 0).all()
    assert (np.diff(D[3:]) > 0).all()
    assert N[-1] > Search(SARDANA.law, np.array([SARDANA.params]), 1, loss).smallest[0]


def test_a_law_that_cannot_be_solved_for_D_gives_the_same_optimum():
    class Own(Law):
        name, variables, parameters = "own", ("N", "D"), (Parameter("E", "nats", (0.1, 1.0)),)

        def loss(self, params, at):
            rest = [np.array([p]) for p in SARDANA.params[1:]]
            return SARDANA.law.loss(np.concatenate([params, *(r + 0 * params for r in rest)], axis=-1), at)

    closed = plan_lifetime(believe(), 2e12, 1.947, (1,), LifetimeCosts()).winner
    searched = plan_lifetime(believe(Own(), SARDANA.params[:1]), 2e12, 1.947, (1,), LifetimeCosts()).winner
    assert searched.N.value == pytest.approx(closed.N.value, rel=1e-5)
    assert searched.total.value == pytest.approx(closed.total.value, rel=1e-10)


def test_streams_that_act_like_parameters_scale_n_and_cost_by_known_factors():
    """In FLOPs with streams throughout, P multiplies the cost per parameter, and N falls by k·ln P + 1."""
    plan = plan_lifetime(joint(), 2e12, 2.05, (1, 4), LifetimeCosts())
    one, four = plan.options
    gain = JOINT["k"] * math.log(4) + 1
    assert four.N.value == pytest.approx(one.N.value / gain, rel=1e-5)
    assert four.D.value == pytest.approx(one.D.value, rel=1e-5)
    assert four.total.value == pytest.approx(one.total.value * 4 / gain, rel=1e-9)
    assert plan.winner.P == 1
    assert [region.P for region in plan.regions()] == [1]


def test_a_second_stage_makes_streams_win_until_a_number_of_served_tokens():
    plan = plan_lifetime(joint(), 1e10, 2.05, (1, 2, 4, 8), LifetimeCosts(second_stage=0.02))
    regions = plan.regions()
    assert [r.P for r in regions] == [8, 4, 2, 1]
    assert regions[0].low == 0
    assert "P = 8 is the largest considered; a larger `max_P` may be cheaper" in plan.summary(500)
    assert math.isinf(regions[-1].high)
    for before, after in pairwise(regions):
        assert before.high == after.low
        around = [before.high * factor for factor in (0.97, 1.03)]
        best = [plan_lifetime(joint(), served, 2.05, (1, 2, 4, 8), plan.costs).winner.P for served in around]
        assert best == [before.P, after.P]


def test_intervals_and_shares_are_those_of_single_draws():
    belief = joint(draws=16, spread=0.02, k=0.2)
    costs = LifetimeCosts(second_stage=0.02)
    plan = plan_lifetime(belief, 3e11, 2.05, (1, 2), costs)
    single = [
        plan_lifetime(believe(belief.laws[0].law, row), 3e11, 2.05, (1, 2), costs) for row in belief.laws[0].draws
    ]
    wins = np.mean([each.winner.P > 1 for each in single])
    assert 0 < wins < 1
    assert plan.streams_win == pytest.approx(wins)
    assert plan.options[1].share == pytest.approx(wins)
    N = [each.options[1].N.value for each in single]
    assert plan.options[1].N.low == pytest.approx(np.quantile(N, 0.025), rel=1e-6)
    assert plan.options[1].N.high == pytest.approx(np.quantile(N, 0.975), rel=1e-6)
    assert plan.overall["N"].value == pytest.approx(np.median([each.winner.N.value for each in single]), rel=1e-6)


def test_a_mixture_of_laws_pools_their_draws():
    one, other = joint(draws=30), joint(draws=10, name="joint-power", gamma=0.2)
    mixed = Belief((*one.laws, *other.laws), "two laws", "all parameters")
    plan = plan_lifetime(mixed, 1e12, 2.05, (1, 4), LifetimeCosts(second_stage=0.02))
    parts = [plan_lifetime(b, 1e12, 2.05, (1, 4), LifetimeCosts(second_stage=0.02)) for b in (one, other)]
    expected = 0.75 * parts[0].streams_win + 0.25 * parts[1].streams_win
    assert plan.streams_win == pytest.approx(expected)
    assert plan.winner.N.value == parts[0].options[[o.P for o in plan.options].index(plan.winner.P)].N.value
    assert plan.options[0].drawn.N.shape == (40, 1)


def test_draws_whose_floor_is_above_the_loss_are_counted_and_open_the_interval():
    plan = plan_lifetime(believe(draws=200, spread=0.02), 1e12, 1.72, (1,), LifetimeCosts())
    floors = plan.belief.laws[0].draws[:, 0]
    assert 0.05 < plan.no_answer < 0.95
    assert plan.no_answer == pytest.approx(np.mean(floors >= 1.72))
    assert math.isinf(plan.winner.N.high)
    assert "law's floor E there" in plan.summary()


def serving(gpu="h100-sxm-80gb", batch=8, limits=None):
    device = Device(gpu)
    shapes = Shapes(paper_decoder(1024, 151_936), convention="total")
    return Serving(shapes, Workload(batch, 512, 128), price_by("roofline", device), device, limits or {})


@pytest.mark.parametrize("unit", ["seconds", "money"])
def test_seconds_and_money_agree_with_prices_of_single_decoders(unit):
    costs = LifetimeCosts(unit, 1.0, serving(), train_on=Device("h100-sxm-80gb"))
    option = plan_lifetime(joint(), 1e12, 2.3, (2,), costs).options[0]
    width = costs.serving.width_of(option.N.value, 2)
    priced = costs.serving.cost(width, 2)
    hour = 3.0 / 3600 if unit == "money" else 1.0  # dollars of an H100
    assert option.serving.value == pytest.approx(1e12 * priced.latency_s / (8 * 640) * hour, rel=2e-3)
    seconds = 6 * option.N.value * option.D.value * 2 / (989.5e12 * 0.4)
    assert option.training.value == pytest.approx(seconds * hour, rel=1e-9)
    # No decoder near it is cheaper.
    for factor in (0.9, 1.1):
        N = np.array([[option.N.value * factor]])
        D = Search(LAWS["joint"], costs_params(), 2, 2.3).tokens(N)
        other = costs.serving.cost(costs.serving.width_of(N.item(), 2), 2).latency_s / (8 * 640) * hour * 1e12
        assert other + costs.train(N, D, 2).item() > option.total.value


def costs_params():
    return np.array([[JOINT[name] for name in LAWS["joint"].names]])


def test_limits_on_serving_bind():
    free = plan_lifetime(joint(), 1e9, 2.2, (1, 4), LifetimeCosts(serving=serving())).winner
    bound = serving().cost(serving().width_of(free.N.value / 2, 1), 1).memory_bytes
    tight = LifetimeCosts(serving=serving(limits={"memory": bound}))
    plan = plan_lifetime(joint(), 1e9, 2.2, (1, 4), tight)
    plain = plan.plain
    assert plain.N.value == pytest.approx(free.N.value / 2, rel=1e-4)
    assert plain.binds == "memory"
    assert plain.total.value > free.total.value
    nothing = plan_lifetime(joint(), 1e9, 1.75, (1, 4), LifetimeCosts(serving=serving(limits={"memory": 1e9})))
    assert nothing.winner is None
    assert re.search(r"above \S+B, even with endless tokens, and the limit on memory allows N up", nothing.left_out[1])
    assert "nothing reaches a loss of 1.75 within the limits: with P = 1 it takes N above" in nothing.summary(500)


def test_attention_adds_its_flops_to_served_tokens():
    costs = LifetimeCosts(serving=serving(), attention=True)
    width = 2048.0
    N = costs.serving.shapes.n_params(width, 1)
    by_hand = 2 * N + 36 * 4 * width * 320  # layers × (scores and sums) × width × mean context of 640 tokens
    assert costs.serve(1, np.array([N / 2, N * 2]))(np.array([N])).item() == pytest.approx(by_hand, rel=1e-3)


def test_the_curve_agrees_with_single_plans():
    belief = joint(draws=20, spread=0.02)
    plan = plan_lifetime(belief, 1e11, 2.05, (1, 2), LifetimeCosts(second_stage=0.02))
    served = np.array([1e9, 1e11, 1e14])
    found = curve(plan, served)
    for i, tokens in enumerate(served):
        single = plan_lifetime(belief, float(tokens), 2.05, (1, 2), plan.costs)
        assert found.best[i] == single.winner.P
        assert found.optima[2].N[0, i] == pytest.approx(single.options[1].N.value, rel=1e-6)
        assert found.streams_win[i] == pytest.approx(single.streams_win)


@pytest.fixture(scope="module")
def runs():
    """60 runs of a known joint law, with noise of 0.3 %."""
    rng, rows = np.random.default_rng(0), []
    for N in (2e8, 4e8, 8e8, 1.6e9, 3.2e9):
        for D in (1e10, 4e10, 1.6e11):
            for P in (1, 2, 4, 8):
                of_N = (JOINT["A"] / (N * (JOINT["k"] * math.log(P) + 1))) ** JOINT["alpha"]
                loss = JOINT["E"] + of_N + (JOINT["B"] / D) ** JOINT["beta"]
                rows.append((N, D, P, loss * math.exp(0.003 * rng.standard_normal())))
    return pd.DataFrame(rows, columns=["n_params", "n_tokens", "n_streams", "loss"])


@pytest.fixture(scope="module")
def fit(runs):
    return fit_table(runs, "joint", draws=100, starts=20)


@pytest.fixture(scope="module")
def saved(fit, tmp_path_factory):
    path = tmp_path_factory.mktemp("lifetime") / "fit.json"
    save_fit(fit, path)
    return path


def test_a_fit_gives_the_optimum_of_the_true_law_within_its_interval(fit):
    plan = sl.make_plan(fit, serve_tokens="200B", loss=2.05, P=(1, 2, 4, 8), second_stage_fraction=0.02)
    assert isinstance(plan, LifetimePlan)
    true = plan_lifetime(joint(), 2e11, 2.05, (1, 2, 4, 8), plan.costs)
    for mine, other in zip(plan.options, true.options, strict=True):
        assert mine.N.low < other.N.value < mine.N.high
        assert mine.D.low < other.D.value < mine.D.high
    assert plan.winner.notes  # far outside the runs
    assert "P > 1 is cheaper than P = 1 in" in plan.summary()
    assert "<table" in plan._repr_html_()
    assert list(plan.to_frame().index) == [1, 2, 4, 8]


def test_the_command_prints_json_and_draws(saved, tmp_path, capsys):
    figure, table = tmp_path / "life.png", tmp_path / "life.csv"
    words = ["plan", str(saved), "--serve-tokens", "200B", "--loss", "2.05", "--max-P", "2", "--by", "money"]
    words += ["--second-stage-fraction", "0.02", "--batch", "8", "--figure", str(figure), "-o", str(table), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["by"] == "money"
    assert found["winner"] == min(found["options"], key=lambda o: o["total"]["value"])["P"]
    assert figure.stat().st_size > 10_000
    assert len(pd.read_csv(table)) == 2


WRONG = {
    "needs the loss to reach, in nats per token: give --loss": ["sardana", "--serve-tokens", "2T"],
    "the law's floor is 1.6900, with endless parameters": ["sardana", "--serve-tokens", "2T", "--loss", "1.6"],
    "is a cost of a model's life: give --serve-tokens": ["sardana", "--by", "money", "--loss", "2"],
    "published constants are for lifetime plans: give --serve-tokens, or a saved fit": ["sardana", "--loss", "2"],
    "a lifetime plan finds the best D: leave out --D": ["sardana", "--serve-tokens", "2T", "--loss", "2", "--D", "1T"],
    "--by latency: choose one of flops, seconds, money": [
        "sardana",
        "--serve-tokens",
        "2T",
        "--loss",
        "2",
        "--by",
        "latency",
    ],
    "B, beta missing: the law 'chinchilla' has E, A, alpha, B, beta": [
        *("chinchilla", "--constants", "E=1.69", "A=4e7", "alpha=0.34", "--serve-tokens", "2T", "--loss", "2"),
    ],
    "has no price per hour: give --price-per-hour": [
        *("sardana", "--serve-tokens", "2T", "--loss", "2", "--by", "money", "--gpu", "apple-m2-ultra"),
    ],
    "--train-utilisation 40: must lie in (0, 1]": [
        *("sardana", "--serve-tokens", "2T", "--loss", "2", "--by", "seconds", "--train-utilisation", "40"),
    ],
    "jointt: not a law: --constants need one of chinchilla, farseer, joint, joint-power, joint-additive": [
        *("jointt", "--constants", "E=1", "--serve-tokens", "2T", "--loss", "2"),
    ],
    "joint: a law, not a saved fit; fit it first, or give --serve-tokens and its --constants": ["joint", "--loss", "2"],
    "--train-price-per-hour -3: must be a number of at least 0": [
        *("sardana", "--serve-tokens", "2T", "--loss", "2", "--by", "money", "--train-price-per-hour", "-3"),
    ],
    "--train-utilisation: applies to seconds and money: give --by": [
        *("sardana", "--serve-tokens", "2T", "--loss", "2", "--train-utilisation", "0.5"),
    ],
    "no P, so only P = 1 can be planned": ["sardana", "--serve-tokens", "2T", "--loss", "2", "--P", "2", "4"],
    "--serve-tokens: 'lots' is not a positive count": ["sardana", "--serve-tokens", "lots", "--loss", "2"],
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_requests_get_one_line(message, capsys):
    assert main(["plan", *WRONG[message]]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1


def test_constants_in_hoffmanns_form_are_noticed(capsys):
    words = ["plan", "chinchilla", "--constants", "E=1.69", "A=406.4", "alpha=0.34", "B=410.7", "beta=0.28"]
    assert main([*words, "--serve-tokens", "2T", "--loss", "2"]) == 0
    assert "if it is Hoffmann's A/N^alpha, give A=4.714e7" in capsys.readouterr().err


def test_a_law_without_D_is_refused_with_a_remedy(runs):
    one_D = runs[runs["n_tokens"] == 1e10]
    flat = fit_table(one_D, "parallel", draws=0, starts=10)
    with pytest.raises(UsageError, match=r"has no D.*such as chinchilla, joint, joint-power or joint-additive"):
        sl.make_plan(flat, serve_tokens=1e12, loss=2.5)


def test_published_constants_give_the_losses_of_their_papers():
    """Chinchilla, 70B on 1.4T: 1.69 + 406.4/N^0.34 + 410.7/D^0.28."""
    for name, by_hand in {
        "hoffmann": 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28,
        "besiroglu": 1.8172 + 482.01 / 70e9**0.3478 + 2085.43 / 1.4e12**0.3658,
    }.items():
        found = PUBLISHED[name]
        assert found.law.loss(np.array(found.params), at(70e9, 1, 1.4e12))[0] == pytest.approx(by_hand, rel=1e-12)
    with pytest.raises(ScalelabError, match="no such file"):
        sl.make_plan("gopher", serve_tokens=1e12, loss=2.0)
