"""The plan: against brute force, closed forms and counting; what it says where nothing fits."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import scalelab as sl
from scalelab.architecture import Architecture, architecture_for, mlp_width
from scalelab.cli import main
from scalelab.cost import Device, Workload
from scalelab.cost.compare import price_by
from scalelab.cost.equal_loss import paper_decoder
from scalelab.cost.hardware import find_hardware
from scalelab.cost.runtime import CLASSES
from scalelab.errors import UsageError
from scalelab.fit import save_fit
from scalelab.plan import Limits, Problem, Shapes, make_plan
from scalelab.plan.doubt import Factors
from scalelab.plan.payback import break_even
from scalelab.plan.problem import tokens_of, train_flops
from scalelab.plan.search import CostCurve, Sized, widest
from scalelab.records import paper_records
from scalelab.reports.plan_units import percent
from scalelab.units import format_bytes, format_count, format_duration, parse_bytes, parse_duration, plain_number
from tests.support.tables import fit_table

STREAMS = (1, 2, 4, 8, 16)
# Figures as they are reached, so that what is counted by hand has no spread; those of its class are tested below.
GPU = Device("rtx-4090", 0.7, 0.9, replace(find_hardware("rtx-4090"), kind=""))
FAMILY = Shapes(paper_decoder(1024, 151_936))
TABLE = paper_records()
STACK = TABLE[TABLE["corpus"] == "stack-v2-python"]


@pytest.fixture(scope="module")
def fit():
    return fit_table(STACK)


@pytest.fixture(scope="module")
def saved(fit, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "fit.json"
    save_fit(fit, path)
    figures = "tflops: {fp32: 82.6, bf16: 165.2}, bandwidth: 1008, memory: 24, source: as the table, measured: true"
    (path.parent / "mine.yaml").write_text(f"rtx-4090: {{{figures}}}")
    return path


def problem(fit, limits=Limits(), workload=Workload(1, 512, 128), **more):  # noqa: B008
    return Problem(fit, FAMILY, workload, price_by("roofline", GPU), limits, tokens_of(fit, None), **more)


LIMITS = [
    Limits(memory_bytes=4e9, latency_s=0.5),
    Limits(memory_bytes=3e9),
    Limits(latency_s=0.2),
    Limits(latency_s=1.0, train_flops=1e21),
]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("batch", [1, 16])
def test_the_lowest_loss_is_that_of_trying_all_widths(fit, limits, batch):
    asked = problem(fit, limits, Workload(batch, 512, 128))
    plan = make_plan(asked, STREAMS, GPU)
    tried = {}
    for P in STREAMS:
        for width in np.geomspace(64, 6000, 250):
            model = FAMILY.of_width(width, P)
            cost = asked.price(model, asked.workload)
            training = 6 * model.backbone_params * 42e9 * P
            inside = cost.memory_bytes <= (limits.memory_bytes or 24 * 2**30)
            inside &= cost.latency_s <= (limits.latency_s or math.inf) and training <= (limits.train_flops or math.inf)
            if inside:
                tried[P] = float(fit.predict(model.n_params, P))  # the widest so far
    for option in plan.options:
        assert tried[option.P] - 5e-3 < option.loss.value <= tried[option.P]
        assert option.within
        assert max(asked.used(option.candidate).values()) == pytest.approx(1, abs=1e-9)
        assert asked.used(option.candidate)[option.binds] == pytest.approx(1, abs=1e-9)
    best = min(plan.options, key=lambda o: o.loss.value)
    assert plan.winner is best
    assert tried[best.P] - min(tried.values()) < 5e-3


def test_each_limit_can_be_the_one_that_binds(fit):
    def binding(**limits):
        return {o.binds for o in make_plan(problem(fit, Limits(**limits)), STREAMS, GPU).options}

    assert binding(memory_bytes=1e9, latency_s=60) == {"memory"}
    assert binding(latency_s=0.1) == {"latency"}
    assert binding(train_flops=1e19) == {"training"}
    assert binding() == {"memory"}  # of the device
    assert problem(fit).device_binds
    assert problem(fit, Limits(memory_bytes=1e15)).bounds["memory"] == 24 * 2**30
    assert not problem(fit, Limits(memory_bytes=1e9)).device_binds


def test_looser_limits_are_never_worse(fit):
    tight = Limits(memory_bytes=2e9, latency_s=0.3, train_flops=1e21)
    before = {o.P: o for o in make_plan(problem(fit, tight), STREAMS, GPU).options}
    for looser in (
        replace(tight, memory_bytes=3e9),
        replace(tight, latency_s=0.4),
        replace(tight, train_flops=None),
        Limits(),
    ):
        after = make_plan(problem(fit, looser), STREAMS, GPU)
        for option in after.options:
            assert option.loss.value <= before[option.P].loss.value
            assert option.candidate.N >= before[option.P].candidate.N


@pytest.mark.parametrize("limits", LIMITS)
def test_where_streams_gain_nothing_the_plain_model_is_best(fit, limits):
    k = fit.law.names.index("k")
    useless = replace(
        fit,
        params=tuple(0.0 if i == k else v for i, v in enumerate(fit.params)),
        draws=tuple(tuple(0.0 if i == k else v for i, v in enumerate(row)) for row in fit.draws),
    )
    plan = make_plan(problem(useless, limits), STREAMS, GPU)
    assert plan.winner is not None
    assert (plan.winner.P, plan.winner.share, plan.gain) == (1, 1.0, None)
    cheapest = make_plan(problem(useless, limits), STREAMS, GPU, target=1.3)
    assert cheapest.winner is not None
    assert (cheapest.winner.P, cheapest.winner.share) == (1, 1.0)


def test_the_probability_is_the_share_of_draws_counted_one_by_one(fit):
    asked = problem(fit, Limits(latency_s=1.0), Workload(8, 512, 128))
    plan = make_plan(asked, STREAMS, GPU)
    wins = dict.fromkeys(STREAMS, 0)
    gains = []
    for draw in fit.draws:
        E, A, alpha, k = (dict(zip(fit.law.names, draw, strict=True))[n] for n in ("E", "A", "alpha", "k"))
        losses = {o.P: E + (A / (o.candidate.N * (k * math.log(o.P) + 1))) ** alpha for o in plan.options}
        wins[min(losses, key=lambda P: losses[P])] += 1
        gains.append(losses[1] - losses[plan.winner.P])
    assert {o.P: o.share for o in plan.options} == {P: wins[P] / len(fit.draws) for P in STREAMS}
    assert plan.no_answer == 0
    if plan.winner.P > 1:
        assert (plan.gain.low, plan.gain.high) == pytest.approx(np.quantile(gains, [0.025, 0.975]), abs=1e-12)


@pytest.mark.parametrize(("by", "target", "latency"), [("latency", 1.07, 0.455), ("memory", 1.1, None)])
def test_the_cheapest_way_to_a_loss_counted_draw_by_draw(fit, by, target, latency):
    asked = problem(fit, Limits(latency_s=latency))
    plan = make_plan(asked, STREAMS, GPU, target, by)

    def cheapest(params):
        """P and cost by the closed form of N and the price of that very decoder."""
        E, A, alpha, k = (dict(zip(fit.law.names, params, strict=True))[n] for n in ("E", "A", "alpha", "k"))
        costs = {}
        for P in STREAMS:
            N = A / (target - E) ** (1 / alpha) / (k * math.log(P) + 1)
            found = asked.at_width(FAMILY.width_of(N, P), P)
            assert pytest.approx(N, rel=1e-12) == found.N
            if latency is None or found.latency <= latency:
                costs[P] = found.metric(by)
        return min(costs.items(), key=lambda item: item[1]) if costs else (None, None)

    assert (plan.winner.P, plan.winner.costs[by].value) == (
        cheapest(fit.params)[0],
        pytest.approx(cheapest(fit.params)[1]),
    )
    draws = fit.draws[:60]
    few = make_plan(replace(asked, fit=replace(fit, draws=draws)), STREAMS, GPU, target, by)
    counted = [cheapest(draw)[0] for draw in draws]
    assert {o.P: o.share for o in few.options} == {P: counted.count(P) / len(draws) for P in STREAMS}
    assert few.no_answer == counted.count(None) / len(draws)
    if latency is not None:
        assert 0 < few.no_answer < 1  # the case is there
    assert plan.winner.loss.value == target
    assert plan.winner.N.low < plan.winner.N.value < plan.winner.N.high


def test_what_already_the_narrowest_reaches_is_told_with_its_own_loss(fit, saved, capsys):
    """Rounding of exp(ln N) once left out P = 4, and every loss was said to be the one asked for."""
    plan = make_plan(problem(fit), (*STREAMS, 32, 64), GPU, target=10.0)
    assert plan.left_out == {}
    for option in plan.options:
        assert option.candidate.width == 16
        assert option.loss.value == pytest.approx(float(fit.predict(option.candidate.N, option.P)), rel=1e-12)
    assert plan.winner.P == 1
    assert ask(saved, "--loss", 10) == 0
    assert (
        "(hidden 16) with no streams (P = 1), the narrowest decoder considered, with loss 2.9005"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("heads", [12, 16, 40])
@pytest.mark.parametrize("ladder", [False, True])
@pytest.mark.parametrize(("width", "P"), [(6000.0, 1), (1316.4, 8), (431.9, 4), (150.0, 2)])
def test_what_is_said_to_be_buildable_is(heads, ladder, width, P):
    """As an `Architecture` of whole numbers, each head with an even number of dimensions."""
    shapes = Shapes(Architecture(64 * heads, mlp_width(64 * heads), 36, heads, 4, 500), deepening=ladder)
    for wider in (False, True):
        found = list(shapes.buildable(width, P, wider))
        assert all(type(n) is int for model in found for n in (model.hidden_size, model.num_layers, model.P))
        for model in found:
            assert model.hidden_size % (2 * heads) == model.hidden_size % 32 == 0
            assert model.intermediate_size == mlp_width(model.hidden_size)
            assert (model.hidden_size >= width) if wider else (0 < model.hidden_size <= width)
            assert model.num_layers == 36 or (ladder and abs(model.num_layers - model.hidden_size / 24) < 1)
        assert [m.hidden_size for m in found] == sorted((m.hidden_size for m in found), reverse=not wider)
    assert found  # there is always a wider one


def test_what_is_to_be_built_is_within_the_limits_or_reaches_the_loss(saved, fit, capsys):
    for words in (("--memory", "4GB"), ("--memory", "4GB", "--heads", 12), ("--latency", "33ms", "--shapes", "ladder")):
        assert ask(saved, *words, "--json") == 0
        P = json.loads(capsys.readouterr().out)["winner"]
        assert ask(saved, *words) == 0
        said = capsys.readouterr().out
        hidden, layers = map(int, re.search(r"To build: hidden (\d+) with (\d+) layers", said).groups())
        heads = 12 if "--heads" in words else 16
        model = Architecture(hidden, mlp_width(hidden), layers, heads, 2, 151_936, P=P)
        cost = problem(fit).price(model, Workload(1, 512, 128))
        assert cost.memory_bytes <= (4e9 if "--memory" in words else 24 * 2**30)
        assert cost.latency_s <= (0.033 if "--latency" in words else math.inf)
        assert f"has N = {format_count(model.n_params)}, loss {float(fit.predict(model.n_params, model.P)):.4f}" in said
    assert ask(saved, "--loss", 1.07) == 0
    reached = float(re.search(r"To build: hidden 1280 .* loss ([\d.]+)", capsys.readouterr().out)[1])
    assert reached <= 1.07
    assert ask(saved, "--loss", 1.07, "--latency", "453ms") == 0
    assert re.search(r"To build: hidden 1280 .*, which exceeds the limits\.", capsys.readouterr().out)


def test_costs_between_sizes_are_those_of_the_sizes(fit):
    asked = problem(fit)
    sizes = np.geomspace(3e8, 3e9, 7)
    curve = CostCurve(asked, 4, sizes)
    for metric in ("memory", "latency", "training"):
        exact = [asked.at_width(FAMILY.width_of(n, 4), 4).metric(metric) for n in sizes]
        assert curve.at(metric, sizes) == pytest.approx(exact, rel=3e-5)
    assert curve.at("memory", np.array([math.inf]))[0] == math.inf


def test_training_multiplies_by_streams_for_the_tokens_that_see_them():
    plain, streams = FAMILY.of_width(1024, 1), FAMILY.of_width(1024, 8)
    assert train_flops(plain, 1e9) == pytest.approx(6 * plain.n_params * 1e9)
    assert train_flops(streams, 1e9) == pytest.approx(8 * train_flops(plain, 1e9))
    assert train_flops(streams, 1e9, 0.02) == pytest.approx((0.98 + 0.02 * 8) * train_flops(plain, 1e9))


def test_break_even_is_where_both_totals_are_equal():
    assert break_even(-1, -1) == ("at once", 0)
    assert break_even(1, 1) == break_even(0, 1) == ("never", math.inf)
    for once, each, verdict in ((10.0, -0.1, "after"), (-10.0, 0.1, "until")):
        found, tokens = break_even(once, each)
        assert (found, once + each * tokens) == (verdict, pytest.approx(0))


def test_streams_stand_beside_the_plain_model_of_their_loss(fit):
    plan = make_plan(problem(fit, LIMITS[0]), STREAMS, GPU)
    k = fit.values["k"]
    for option in plan.options[1:]:
        versus = option.versus
        assert pytest.approx(option.candidate.N * (k * math.log(option.P) + 1), rel=1e-9) == versus.plain.N
        made = versus.plain.latency - option.candidate.latency
        assert versus.token_s == pytest.approx(-made / 128)
        # 165.2 TFLOP/s of an RTX 4090 at 0.4
        extra = (option.candidate.training - versus.plain.training) / (165.2e12 * 0.4)
        assert versus.train_s == pytest.approx(extra)
        assert versus.verdict == "after"
        assert versus.tokens * made / 128 == pytest.approx(extra)
    assert plan.options[0].versus is None


def test_a_fit_without_draws_has_a_winner_and_no_probability(fit):
    for target in (None, 1.1):
        plan = make_plan(problem(replace(fit, draws=()), LIMITS[0]), STREAMS, GPU, target)
        assert plan.winner.share is None
        assert plan.winner.loss.low is None
        assert plan.no_answer == 0


def test_a_ladder_is_shallow_where_it_is_narrow():
    ladder = Shapes(paper_decoder(1024, 500), deepening=True)
    for wish in (2e5, 3e6, 5e7, 1e9):
        rung = architecture_for(wish, 500)
        width = ladder.width_of(wish, 1)
        assert ladder.of_width(width, 1).num_layers == pytest.approx(rung.num_layers, rel=0.35, abs=1)
        assert ladder.n_params(width, 1) == pytest.approx(wish, rel=1e-9)
    assert ladder.n_params(1024, 4) == paper_decoder(1024, 500, 4).n_params + 36 * 3 * 1024 * (5.4 * 1024 - 5504)
    assert ladder.width_of(1, 1) is None


def test_tokens_are_those_of_the_runs(fit):
    assert tokens_of(fit, None) == 42e9
    assert tokens_of(fit, 42.001e9) == 42.001e9
    with pytest.raises(UsageError, match="is valid for the D of its runs only, 42B"):
        tokens_of(fit, 1e12)
    unknown = replace(fit, data=replace(fit.data, D=np.full(len(fit.runs), np.nan), known=("N", "P")))
    assert tokens_of(unknown, None) is None
    assert tokens_of(unknown, 1e12) == 1e12
    with pytest.raises(UsageError, match="`train_flops` needs"):
        problem(unknown, Limits(train_flops=1e21))
    plan = make_plan(problem(unknown, LIMITS[0]), STREAMS, GPU)
    assert plan.winner.versus.verdict is None
    with pytest.raises(UsageError, match="`by='training'` needs"):
        make_plan(problem(unknown), STREAMS, GPU, 1.1, "training")


def test_a_law_that_knows_D_and_not_P_plans_plain_models():
    rng = np.random.default_rng(0)
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 3e9, 6), np.geomspace(2e9, 1e11, 5)))
    table = STACK.iloc[np.arange(len(N)) % len(STACK)].reset_index(drop=True)
    table = table.assign(n_params=N, n_streams=1, n_tokens=D, seed=0, n_params_backbone=N, config=None)
    table["loss"] = (1.5 + (1e8 / N) ** 0.34 + (5e8 / D) ** 0.3) * np.exp(rng.normal(0, 1e-3, len(N)))
    fit = fit_table(table, "chinchilla", starts=50)
    plan = make_plan(problem(fit, LIMITS[0]), STREAMS, GPU)
    assert [o.P for o in plan.options] == [1]
    assert pytest.approx(1e11) == plan.problem.D
    assert plan.winner.loss.value == pytest.approx(float(fit.predict(plan.winner.candidate.N, 1, 1e11)))
    more = make_plan(replace(problem(fit, LIMITS[0]), D=1e12), STREAMS, GPU)
    assert more.winner.loss.value < plan.winner.loss.value


@pytest.mark.parametrize(
    ("text", "value"), [("4GB", 4e9), ("4 GiB", 2**32), ("512mb", 5.12e8), ("1e3b", 1000.0), (".5TiB", 2**39)]
)
def test_bytes_are_read(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize(("text", "value"), [("500ms", 0.5), ("2s", 2.0), ("1.5min", 90.0), ("20us", 2e-5)])
def test_durations_are_read(text, value):
    assert parse_duration(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("text", ["", "4", "GB", "-4GB", "0GB", "4 parsecs", "4GB2", "nan", "1e999s"])
def test_what_is_no_quantity_is_refused(text):
    for parse in (parse_bytes, parse_duration):
        with pytest.raises(UsageError, match="is not a"):
            parse(text)


def test_quantities_are_written_as_they_are_read():
    said = [format_bytes(v) for v in (2**32, 1000 * 2**20, 1023.9 * 2**20, 512)]
    assert said == ["4 GiB", "1000 MiB", "1 GiB", "512 B"]
    assert [format_bytes(v, binary=False) for v in (4e9, 3.456e9, 999.9e6)] == ["4 GB", "3.46 GB", "1 GB"]
    assert [format_duration(v) for v in (0.5, 1.234, 2e-5, 75)] == ["500 ms", "1.23 s", "20 µs", "1m15s"]
    assert [plain_number(v) for v in (999.9996, 999.4, 1000.4, 0.99996)] == ["1000", "999", "1000", "1"]


def ask(saved, *words):
    mine = ["--hardware", str(saved.parent / "mine.yaml"), "--gpu", "rtx-4090", "--train-gpu", "rtx-4090"]
    mine += ["--flops-efficiency", "0.7", "--memory-efficiency", "0.9"]
    return main(["plan", str(saved), *mine, "--max-P", "16", *map(str, words)])


def test_the_command_says_what_the_library_finds(saved, fit, capsys, tmp_path):
    limits = ("--memory", "4GB", "--latency", "500ms")
    plan = make_plan(problem(fit, LIMITS[0]), STREAMS, GPU)
    assert ask(saved, *limits, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["winner"] == plan.winner.P == 8
    assert made["limits"] == {"memory": 4e9, "latency": 0.5}
    assert [row["loss"]["value"] for row in made["options"]] == [o.loss.value for o in plan.options]
    assert [row["probability_best"] for row in made["options"]] == [o.share for o in plan.options]
    (tmp_path / "deep").mkdir()
    figure = tmp_path / "deep" / "plan.svg"
    assert ask(saved, *limits, "--figure", figure) == 0
    said = capsys.readouterr().out
    assert "with P = 8 streams, loss 1.0622" in said
    assert "; limited by latency." in said
    assert "4.33 times those of the plain model of equal loss" in said
    assert plan.winner.share == 1  # of the draws there are: nothing is said to be sure
    assert "is best in >99 % of the fit's bootstrap draws, if the" in said
    assert "streams break even after 17.6B tokens" in said
    assert "16*" in said  # no run had so many
    assert figure.stat().st_size > 10_000


def test_what_the_runs_do_not_reach_is_said(saved, capsys):
    assert ask(saved, "--memory", "3GB") == 0
    said = "".join(capsys.readouterr())
    assert "No run has more than P = 8, so P = 16 is extrapolated by the law. The best with measured P: N" in said
    assert "P = 16 is the largest considered" in said
    assert "P 16 is a factor of 2 outside the runs" in said
    assert ask(saved, "--memory", "3GB", "--second-stage-fraction", 0.02) == 0
    said = capsys.readouterr().out
    assert "with streams for 2 % of the tokens" in said
    assert "Assumption: two-stage training reaches the loss of the law" in said


def test_limits_that_nothing_is_within_say_which_and_what_would_do(saved, fit, capsys):
    assert ask(saved, "--memory", "1MB") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "no decoder is within 1 MB: even hidden 16 with P = 1 needs memory 5.69 MB instead of 1 MB" in said.err
    assert ask(saved, "--loss", "1.0", "--memory", "4GB", "--latency", "500ms") == 1
    said = capsys.readouterr().err
    least = {
        n: min(o.costs[n].value for o in make_plan(problem(fit), STREAMS, GPU, 1.0).options)
        for n in ("memory", "latency")
    }
    assert f"memory {format_bytes(least['memory'], binary=False)} (P = 16)" in said
    assert f"latency {format_duration(least['latency'])} (P = 8)" in said
    assert "lowest loss within the limits is 1.0622 (P = 8)" in said
    assert said.count("\n") == 1
    assert ask(saved, "--loss", "0.5") == 1  # below the law's floor
    assert "no size of any P reaches it" in capsys.readouterr().err


def test_the_legend_explains_what_is_there_and_all_broken_limits_are_named(saved, fit, capsys):
    assert ask(saved, "--loss", "1.0", "--memory", "4GB", "--latency", "500ms") == 1
    said = capsys.readouterr().out
    assert "> best" not in said
    assert "limit: ! the ones exceeded, worst first; * outside the runs" in said
    asked = problem(fit, LIMITS[0])
    rows = re.findall(r"^ +(\d+)\*? .*?(!.*?)  ", said, re.MULTILINE)
    assert len(rows) == len(STREAMS)
    for P, shown in rows:
        option = next(o for o in make_plan(asked, STREAMS, GPU, 1.0).options if int(P) == o.P)
        over = {"memory": option.candidate.memory / 4e9, "latency": option.candidate.latency / 0.5}
        assert shown.removeprefix("!").split(", ") == sorted((n for n in over if over[n] > 1), key=lambda n: -over[n])
    assert "!latency, memory" in said or "!memory, latency" in said
    assert ask(saved, "--memory", "4GB") == 0
    assert "> best; limit: the one reached; * outside the runs\n" in capsys.readouterr().out
    # With streams the prefixes alone are beyond both limits; without, the narrowest is within.
    assert ask(saved, "--memory", "8MB", "--latency", "0.5ms", "--tokens-out", 1) == 0
    assert "no P = 16: even the narrowest decoder exceeds the limit" in capsys.readouterr().out


def test_a_winner_far_from_every_run_is_said_first(saved, fit, capsys):
    assert ask(saved, "--latency", "30ms", "--tokens-out", 32) == 0
    assert "Far outside the runs" not in capsys.readouterr().out
    assert ask(saved, "--latency", "0.7ms", "--tokens-out", 1) == 0
    said = capsys.readouterr().out
    plan = make_plan(problem(fit, Limits(latency_s=0.7e-3), Workload(1, 512, 1)), STREAMS, GPU)
    factor = fit.data.N.min() / plan.winner.N.value
    assert factor > 10  # the case is there
    width = plan.winner.candidate.width
    size = f"N = {format_count(plan.winner.N.value)} (hidden {width:.0f})"
    far = f"{size} is {factor:,.0f} times smaller than the smallest run"
    assert far in said
    assert said.index(far) < said.index("Best: ")
    assert f"N {format_count(plan.winner.N.value)} is a factor" not in said  # once is enough


def test_notes_on_what_streams_gain_stand_before_the_plan(tmp_path, make_records, capsys):
    """A fit that cannot tell whether streams help once gave a best P in all draws, and no word on it."""
    doubtful = fit_table(make_records(k=0.0, noise=0.004))
    codes = {note.code for note in doubtful.notes}
    assert "k_unresolved" in codes
    save_fit(doubtful, tmp_path / "doubtful.json")
    words = ["plan", str(tmp_path / "doubtful.json"), "--memory", "4GB", "--max-P", "4"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.err.count("(k_unresolved)\n") == 1
    assert "Best: " in said.out
    shown = sl.make_plan(doubtful, memory="4GB", max_P=4).summary()
    assert shown.index("(k_unresolved)") < shown.index("Best: ")
    assert main([*words, "--json"]) == 0
    assert "k_unresolved" in {note["code"] for note in json.loads(capsys.readouterr().out)["fit_notes"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--memory", "4"), "--memory: '4' is not an amount of memory .*its unit is missing"),
        (("--latency", "2 parsecs"), "--latency: '2 parsecs' is not a duration"),
        (("--train-flops", "-1"), "--train-flops: '-1' is not a positive count"),
        (("--loss", "0"), "--loss 0: must be above 0, in nats per token"),
        (("--loss", "1.1", "--by", "joy"), "--by joy: choose one of memory, latency, ttft, tpot, training"),
        (("--by", "memory"), "--by memory: needs a loss to reach: give --loss as well"),
        (("--shapes", "odd"), "--shapes odd: choose one of paper, ladder"),
        (("--runtime", "abacus"), "--runtime abacus: choose one of graphs, eager, llama.cpp, vllm"),
        (("--reserve", "2"), "--reserve: '2' is not an amount of memory"),
        (("--ttft", "soon"), "--ttft: 'soon' is not a duration"),
        (("--tensor-parallel", "7"), "16 heads cannot be divided among 7 devices"),
        (("--train-gpu", "abacus"), "--train-gpu abacus: unknown"),
        (("--second-stage-fraction", "0"), "must lie in"),
        (("--max-P", "0"), "--max-P 0: choose between"),
        (("--D", "1T"), "leave out --D"),
        (("--gpu", "abacus"), "--gpu abacus: unknown; scalelab cost --list-hardware lists all"),
        (("--gpu", "rtx4090"), r"--gpu rtx4090: unknown; did you mean rtx-4090\?"),
        (("--heads", "3"), "3 heads do not divide among 2 KV heads"),
    ],
)
def test_bad_words_are_named(saved, words, message, capsys):
    assert ask(saved, *words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert re.search(message, said.err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tensor-parallel", "2"), "llm-analysis prices only one device"),
        (("--runtime", "vllm"), "llm-analysis has no runtimes"),
    ],
)
def test_what_llm_analysis_cannot_price_is_priced_by_the_roofline_and_said(saved, words, message, capsys):
    assert ask(saved, "--engine", "llm-analysis", *words) == 0
    assert f"note: priced by the roofline: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["parscale", "serving"])
@pytest.mark.parametrize("gpu", ["a100-sxm-80gb", "rtx-4090"])  # the second is none of llm-analysis's
def test_a_preset_means_the_same_in_every_command(saved, preset, gpu):
    plan = sl.make_plan(saved, preset=preset, gpu=gpu, max_P=1)
    prices = sl.price(2560, 1, preset=preset, gpu=gpu)
    (engine,) = prices.engines
    assert plan.problem.workload == next(iter(prices)).workload
    assert plan.priced_by.split(",")[0] == engine
    note = f"priced by the roofline: {gpu}: llm-analysis does not have this device"
    assert [note in plan.price_notes, note in prices.notes] == [(preset, gpu) == ("parscale", "rtx-4090")] * 2
    assert plan.binary


def of_class(fit, limits, gpu="rtx-4090", workload=Workload(1, 512, 128), **device):  # noqa: B008
    """A problem and its device with the constants and the spread of its class."""
    used = Device(gpu, **device)
    return Problem(fit, FAMILY, workload, price_by("roofline", used), limits, tokens_of(fit, None)), used


def test_limits_on_first_and_later_tokens_bind_as_those_on_latency_do(fit):
    first, device = of_class(fit, Limits(ttft_s=0.05))
    for option in make_plan(first, STREAMS, device).options:
        assert option.binds == "ttft"
        assert option.candidate.cost.prefill_s == pytest.approx(0.05, rel=1e-9)
    later, device = of_class(fit, Limits(tpot_s=0.01))
    plan = make_plan(later, STREAMS, device)
    for option in plan.options:
        assert option.binds == "tpot"
        assert option.candidate.cost.decode_s / 127 == pytest.approx(0.01, rel=1e-9)
    cheapest = make_plan(replace(first, limits=Limits()), STREAMS, device, 1.1, "ttft")
    assert cheapest.winner.costs["ttft"].value == min(o.costs["ttft"].value for o in cheapest.options)


def test_costs_have_the_interval_of_published_errors(fit):
    asked, device = of_class(fit, Limits(latency_s=0.5))
    for option in make_plan(asked, STREAMS, device).options:
        spread, latency = option.candidate.cost.spread, option.costs["latency"]
        assert spread == CLASSES["geforce"].spread > 0
        spread = math.hypot(spread, 0.025 * math.log2(option.P))  # and that of rows
        assert math.log(latency.high / latency.low) == pytest.approx(2 * 1.96 * spread, rel=0.15)
        assert latency.low < latency.value < latency.high
        assert option.costs["training"].low is None  # FLOPs are counted


def test_doubt_about_costs_is_doubt_about_the_best(fit):
    """The same prices with and without their spread: what is best in all draws of the law alone is no longer."""
    sure, device = of_class(fit, Limits(latency_s=0.5))
    priced = sure.price
    without = replace(sure, price=lambda m, w: replace(priced(m, w), spread=0.0, memory_spread=0.0))
    before, after = (make_plan(p, STREAMS, device) for p in (without, sure))
    assert before.winner.P == after.winner.P
    assert before.winner.loss == after.winner.loss
    assert 0 < after.winner.share < before.winner.share
    assert sum(o.share for o in after.options) + after.no_answer == pytest.approx(1)
    assert after.gain.low < before.gain.low < before.gain.high < after.gain.high


def test_the_share_with_doubt_is_that_of_planning_each_draw_anew(fit):
    """Each draw by itself: limits over its factors, the widest within them by bisection, the law of the draw."""
    few = replace(fit, draws=fit.draws[:40])
    asked, device = of_class(few, Limits(latency_s=0.5))
    plan = make_plan(asked, (1, 4, 8), device)
    factors = Factors(asked, 40)
    wins = dict.fromkeys((1, 4, 8), 0)
    for i, draw in enumerate(few.draws):
        losses = {}
        for option in plan.options:
            sized = Sized(option.P, option.candidate, 0.0, None, np.empty(0), np.empty(0))
            factor = factors.of("latency", sized)[i]
            memory = 24 * 2**30 - CLASSES["geforce"].reserve_gib * 2**30
            tight = replace(asked, limits=Limits(memory / factors.of("memory", sized)[i], 0.5 / factor))
            found, _ = widest(tight, option.P)
            losses[option.P] = float(asked.losses(np.array(draw), np.array(found.N), option.P))
        wins[min(losses, key=lambda P: losses[P])] += 1
    for option in plan.options:
        assert option.share == pytest.approx(wins[option.P] / 40, abs=0.03)


def test_what_is_said_of_sizes_training_and_doubt(saved, capsys):
    """On a device whose class has a spread: N has an interval, a P that is best in few draws is open."""
    words = (
        "--memory",
        "4GB",
        "--tpot",
        "50ms",
        "--ttft",
        "2s",
        "--gpu",
        "snapdragon-8-elite-npu",
        "--weights",
        "int4",
    )
    assert ask(saved, *words, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    (best,) = [row for row in made["options"] if row["P"] == made["winner"]]
    assert best["N"]["low"] < best["N"]["value"] < best["N"]["high"]
    assert ask(saved, *words) == 0
    said = "".join(capsys.readouterr())
    assert "With the error of the cost model, the limits allow N from" in said
    assert ("The best P is uncertain: " in said) == (best["probability_best"] < 0.5)
    assert "(which include latency errors of ×0.38–2.66, 95 %)" in said
    assert "no published measurements of its class (npu)" in said
    if made["winner"] > 1:
        assert "times its training FLOPs" in said


def test_limits_that_doubt_may_leave_nothing_within(fit):
    """A device of large spread and a limit that only just leaves something: no warning, and shares that add up."""
    loose, device = of_class(fit, Limits(), "snapdragon-8-elite-npu")
    tight = replace(loose, limits=Limits(ttft_s=1.05 * loose.at_width(16, 2).ttft))
    plan = make_plan(tight, (1, 2), device)
    assert plan.winner is not None
    assert plan.no_answer > 0  # the case is there
    assert sum(o.share for o in plan.options) + plan.no_answer == pytest.approx(1)


def test_shares_are_rounded_to_nothing_or_all_only_where_they_are_that():
    said = [percent(v) for v in (0.0, 0.004, 0.005, 0.006, 0.5, 0.994, 0.996, 1.0)]
    assert said == ["0 %", "<1 %", "<1 %", "1 %", "50 %", "99 %", ">99 %", ">99 %"]
    assert percent(1.0, certain=True) == "100 %"


def test_a_device_that_is_measured_leaves_no_doubt_about_costs(fit):
    asked = problem(fit, LIMITS[0])
    for option in make_plan(asked, STREAMS, GPU).options:
        assert option.costs["latency"].low is None


def test_training_takes_the_days_of_the_device_that_trains(fit):
    asked, device = of_class(fit, Limits(latency_s=20), "snapdragon-8-elite")
    here, there = (
        make_plan(asked, (1, 2), device, train_on=on).options[1].versus for on in (None, Device("h100-sxm-80gb"))
    )
    assert here.train_s / there.train_s == pytest.approx(989.5 / 1.91)
    # Both priced: even in money.
    rented, device = of_class(fit, Limits(latency_s=0.5), "h200-sxm-141gb")
    paid = make_plan(rented, (1, 2), device, train_on=Device("a100-sxm-80gb", price_per_hour=2.0)).options[1].versus
    hours = paid.train_s / 3600 * 2.0
    assert paid.tokens * -paid.token_s / 3600 * find_hardware("h200-sxm-141gb").price_per_hour == pytest.approx(hours)


def test_the_most_requests_are_within_the_limits_and_one_more_is_not(fit):
    asked, device = of_class(fit, Limits(memory_bytes=6e9, tpot_s=0.02, ttft_s=2.0))
    option = make_plan(asked, (1, 4), device, 1.1).options[1]
    most, stops = asked.most_requests(option.candidate)
    assert most > 1
    model = option.candidate.cost.architecture
    inside, beyond = (asked.price(model, Workload(batch, 512, 128)) for batch in (most, most + 1))
    assert inside.memory_bytes <= 6e9
    assert inside.ttft_s <= 2.0
    assert inside.tpot_s <= 0.02
    over = {"memory": beyond.memory_bytes / 6e9, "ttft": beyond.ttft_s / 2.0, "tpot": beyond.tpot_s / 0.02}
    assert max(over.values()) > 1
    assert stops == max(over, key=lambda name: over[name])


def test_what_nobody_would_use_is_said(saved, capsys):
    words = ["plan", str(saved), "--max-P", "2"]
    assert main([*words, "--gpu", "raspberry-pi-5", "--train-gpu", "h100-sxm-80gb"]) == 0
    said = capsys.readouterr().out
    assert "longer than most users wait" in said
    assert "fills the device's memory" in said
    assert main([*words, "--gpu", "rtx-4090", "--memory", "40GB", "--tpot", "20ms"]) == 0
    said = capsys.readouterr().out
    assert "--memory of 40 GB is more than the device has; the plan uses 24.9 GB." in said
    assert "longer than most users wait" not in said
    assert "of h100-sxm-80gb." in said
    assert "100 %" not in said
    assert main([*words, "--gpu", "apple-m2", "--compute", "int8", "--latency", "2s"]) == 0
    assert "apple-m2 has no int8 units: matrix products are priced at fp32" in capsys.readouterr().err


def test_the_plan_needs_no_torch(saved):
    code = (
        "import sys; from scalelab.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'llm_analysis'} & set(sys.modules); sys.exit(code)"
    )
    words = ["plan", str(saved), "--memory", "2GiB", "--max-P", "2"]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
