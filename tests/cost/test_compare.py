"""Streams beside the plain model of equal loss: the published ratios, and what must hold for any data."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scalelab.architecture import Architecture, expert_width, mlp_width
from scalelab.cost import Device, Workload
from scalelab.cost.compare import Size, average, compare, price_by, price_runs
from scalelab.cost.engines import get_engine
from scalelab.cost.equal_loss import (
    MeasuredRun,
    RealWidth,
    decoder_of_size,
    equal_loss_size,
    family_of,
    measured_runs,
    paper_decoder,
    widened,
)
from scalelab.cost.hardware import Hardware
from scalelab.errors import DataError, UsageError
from scalelab.fit import save_fit
from scalelab.fit.derived import n_equivalent, n_equivalent_draws
from scalelab.records import paper_records
from tests.support.paths import DATA
from tests.support.tables import fit_table

HEADLINE = ("--hidden", 1536, "--P", 8, "--data", "paper", "--corpus", "stack-v2-python")
MOE = Architecture(1024, expert_width(1024, 2), 12, 16, 2, 32_000, num_experts=8)
ODD = Architecture(768, 2048, 12, 12, 12, 50_000, tied_embeddings=False)
PAPER = paper_decoder(1536, 151_936)


@pytest.fixture(scope="module")
def runs():
    table = paper_records()
    return measured_runs(table[table["corpus"] == "stack-v2-python"], 151_936)


def test_the_published_headline(scalelab):
    """Section 3.3 of arXiv 2505.10475: 22 times less memory increase, 6 times less latency increase."""
    code, out, _ = scalelab("compare", *HEADLINE, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["batch"] for row in rows] == [1, 2, 4, 8]
    expected = [(21.6, 6.2), (12.3, 3.1), (6.6, 1.6), (3.5, 0.84)]
    for row, (memory, latency) in zip(rows, expected, strict=True):
        assert row["memory_ratio"] == pytest.approx(memory, abs=0.05)
        assert row["latency_ratio"] == pytest.approx(latency, abs=0.05 if latency > 1 else 0.005)
    assert round(rows[0]["memory_ratio"]) == 22
    assert round(rows[0]["latency_ratio"]) == 6
    # Between the sizes 2048 and 2560 of the paper, at (1.0451 − 1.0383)/(1.0451 − 1.0213) of ln N.
    ln_N = math.log(2774773760) + (1.0451 - 1.0383) / (1.0451 - 1.0213) * math.log(4353203200 / 2774773760)
    assert rows[0]["plain_n_params"] == pytest.approx(math.exp(ln_N), rel=1e-12)


def test_the_table_the_words_and_the_recipe(scalelab):
    code, out, _ = scalelab("compare", *HEADLINE)
    assert code == 0
    for text in ("21.6×", "6.16×", "12.3×", "3.11×", "6.64×", "1.60×", "3.47×", "0.84×", "2179.65", "3.156B"):
        assert text in out
    assert "P = 8 streams add more latency than a larger N: 0.84× at batch 8." in out
    assert "tokens in = tokens out = 64, 128, 256, 512" in out
    assert "MLP 5.4·hidden" in out


def test_the_increase_of_streams_is_that_of_the_reference_rows(runs):
    """The reference knows P = 1 and P = 8 at hidden 1536, so the denominators need no code of ours."""
    wanted: dict[tuple[int, int], list[tuple[float, float]]] = {}
    with (DATA / "cost_reference.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["hidden"] == "1536":
                values = (float(row["total_memory_bytes"]), float(row["total_latency_s"]))
                wanted.setdefault((int(row["P"]), int(row["batch"])), []).append(values)
    streams = next(r.architecture for r in runs if (r.architecture.hidden_size, r.P) == (1536, 8))
    batches = sorted({batch for _, batch in wanted})
    for row in compare(price_by("llm-analysis", Device()), streams, Size(3e9), batches):
        for P, got in ((1, row.base), (8, row.streams)):
            memory, latency = np.mean(wanted[P, row.batch], axis=0)
            assert len(wanted[P, row.batch]) == 4
            assert got.memory_bytes == pytest.approx(memory, rel=1e-9)
            assert got.latency_s == pytest.approx(latency, rel=1e-9)


@pytest.mark.parametrize("convention", ["paper", "backbone", "total"])
@pytest.mark.parametrize("family", [PAPER, replace(PAPER, P=8), MOE, replace(MOE, P=4), ODD])
def test_a_width_is_found_from_its_count(family, convention):
    for hidden in (33.3, 1024.0, 2179.65, 1e5):
        model = widened(family, hidden)
        assert decoder_of_size(family, model.count_params(convention), convention).hidden_size == pytest.approx(
            hidden, rel=1e-10
        )


def test_the_count_of_a_real_width_by_hand():
    """36 layers of 16 heads with 2 KV heads, MLP 5.4·h, norms, QKV biases: non-embedding parameters."""
    h = 2179.6504418425156
    kv = 2 * h / 16
    layer = 2 * h * h + 2 * h * kv + h + 2 * kv + 3 * h * 5.4 * h + 2 * h
    assert widened(PAPER, h).n_params == pytest.approx(36 * layer + h, rel=1e-14)


@pytest.mark.parametrize("engine", ["llm-analysis", "roofline"])
@pytest.mark.parametrize("model", [PAPER, replace(PAPER, P=8), MOE, replace(MOE, P=4), ODD])
def test_a_real_width_at_a_whole_number_costs_what_the_architecture_does(engine, model):
    real = widened(model, model.hidden_size)
    values = vars(real) | {"intermediate_size": model.intermediate_size}
    same = RealWidth(**values)
    assert same.total_params == model.total_params
    priced = get_engine(engine)
    a, b = (priced(m, Workload(2, 64, 32), Device()) for m in (model, same))
    assert (a.memory_bytes, a.latency_s) == pytest.approx((b.memory_bytes, b.latency_s), rel=1e-12)


@pytest.mark.parametrize("engine", ["llm-analysis", "roofline"])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_costs_and_ratios_rise_with_the_plain_model(engine, batch):
    price = price_by(engine, Device())
    sizes = np.geomspace(1.6e9, 2e10, 12)
    rows = [compare(price, replace(PAPER, P=8), Size(n), [batch], [64, 256])[0] for n in sizes]
    assert all(np.diff([row.memory_ratio.value for row in rows]) > 0)
    assert all(np.diff([row.latency_ratio.value for row in rows]) > 0)


def test_more_requests_at_once_favour_growing_the_model():
    rows = compare(price_by("llm-analysis", Device()), replace(PAPER, P=8), Size(3.2e9), [1, 2, 4, 8, 16, 32])
    assert all(np.diff([row.memory_ratio.value for row in rows]) < 0)
    assert all(np.diff([row.latency_ratio.value for row in rows]) < 0)


def plain_runs(sizes, losses):
    return [MeasuredRun(decoder_of_size(PAPER, n), n, loss) for n, loss in zip(sizes, losses, strict=True)]


def test_interpolation_is_exact_for_a_line_in_ln_N():
    sizes = [1e9, 2e9, 5e9]
    runs = plain_runs(sizes, [3 - 0.1 * math.log(n) for n in sizes])
    for n in (1e9, 1.7e9, 2e9, 4.9e9, 5e9):
        found, (low, high) = equal_loss_size(runs, 3 - 0.1 * math.log(n), "made")
        assert found == pytest.approx(n, rel=1e-9)
        assert low * (1 - 1e-9) <= n <= high * (1 + 1e-9)


@pytest.mark.parametrize(
    ("losses", "loss", "message"),
    [
        ([3.0, 2.8, 2.7], 2.6, r"made: loss 2.6000 is outside the losses with P = 1, 2.7000 to 3.0000 for N 1B to 5B"),
        ([3.0, 2.8, 2.7], 3.1, "is outside the losses with P = 1"),
        ([2.8, 3.0, 2.7], 2.9, "do not decrease steadily with N and cross 2.9000 2 times"),
    ],
)
def test_a_loss_that_cannot_be_placed_is_refused(losses, loss, message):
    with pytest.raises(DataError, match=message) as caught:
        equal_loss_size(plain_runs([1e9, 2e9, 5e9], losses), loss, "made")
    assert "`law='parallel'`" in str(caught.value)


def test_one_plain_size_is_not_enough():
    with pytest.raises(DataError, match="fewer than two sizes with P = 1"):
        equal_loss_size(plain_runs([1e9], [3.0]), 3.0, "made")


def test_seeds_are_averaged_and_configs_of_a_sweep_are_read():
    recorded = replace(MOE, P=4)
    config = json.dumps({"architecture": vars(recorded)})
    rows = [
        {"n_params": recorded.n_params, "n_streams": 4, "loss": loss, "config": config, "seed": seed}
        for seed, loss in enumerate((2.0, 3.0))
    ]
    (run,) = measured_runs(pd.DataFrame(rows), 1)
    assert run.architecture == recorded
    assert run.loss == pytest.approx(math.sqrt(6.0))


@pytest.mark.parametrize("config", ["", "lr: 3", "[1]", '{"architecture": "gpt2"}', '{"architecture": {"P": 2}}', "{}"])
def test_other_programs_configs_are_no_shapes(config):
    row = {"n_params": 1e9, "n_streams": 1, "loss": 2.0, "config": config}
    (run,) = measured_runs(pd.DataFrame([row]), 50_000)
    assert run.architecture.n_params == pytest.approx(1e9)
    assert run.architecture.vocab_size == 50_000


def test_a_law_with_tokens_is_asked_at_the_most_of_them_or_at_D(scalelab, table_of, tmp_path):
    law = (0.7, 1e7, 0.5, 0.3, 1e9, 0.35)
    table_of("joint", law, D=(1e9, 1e10, 1e11), noise=0.0).to_csv(tmp_path / "made.csv", index=False)
    losses = {}
    for D in (None, "1B", "100B"):
        at = () if D is None else ("--D", D)
        arguments = ("--hidden", 1536, "--P", 4, "--data", "made.csv", "--law", "joint", "--batch", 1, *at, "--json")
        (row,) = json.loads(scalelab("compare", *arguments)[1])
        losses[D] = row["loss"]
        assert row["plain_n_params"] == pytest.approx(row["n_params"] * (0.5 * math.log(4) + 1), rel=1e-4)
    assert losses[None] == losses["100B"] < losses["1B"]
    code, _, err = scalelab("compare", "--hidden", 1536, "--P", 4, "--data", "made.csv", "--law", "joint", "--D", "x")
    assert code == 2
    assert "--D" in err


def test_sizes_that_differ_in_more_than_width_have_no_size_between():
    shallow = MeasuredRun(replace(PAPER, hidden_size=1024, intermediate_size=mlp_width(1024), num_layers=8), 1e8, 3.0)
    with pytest.raises(UsageError, match="the runs differ in more than width; choose one of 1024, 1536"):
        family_of([shallow, MeasuredRun(PAPER, PAPER.n_params, 2.8)], 1280, "made")


def test_a_family_has_sizes_that_were_not_measured(runs):
    assert family_of(runs, 3072, "paper") == paper_decoder(3072, 151_936)


def test_a_law_gives_the_equal_size_it_was_made_with_and_intervals_hold_the_point(scalelab, make_records, tmp_path):
    """Losses of the parallel law: the plain model of equal loss has N·(k ln P + 1) parameters."""
    make_records().to_csv(tmp_path / "made.csv", index=False)
    code, out, _ = scalelab("compare", "--hidden", 1536, "--P", 8, "--data", "made.csv", "--law", "parallel", "--json")
    row = json.loads(out)[0]
    assert code == 0
    assert row["plain_n_params"] == pytest.approx(row["n_params"] * (0.4 * math.log(8) + 1), rel=1e-5)
    make_records(noise=0.002).to_csv(tmp_path / "noisy.csv", index=False)
    code, out, _ = scalelab("compare", "--hidden", 1536, "--data", "noisy.csv", "--law", "parallel", "--json")
    for row in json.loads(out):
        for name in ("plain_n_params", "memory_ratio", "latency_ratio"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_intervals_are_those_of_ratios_worked_out_draw_by_draw(make_records):
    fit = fit_table(make_records(noise=0.003, seed=1))
    streams = replace(PAPER, P=4)
    found = n_equivalent(fit, streams.n_params, 4)
    price = price_by("llm-analysis", Device())
    (row,) = compare(price, streams, Size(found.value, found.low, found.high), [4], [128])
    base, more = (average(price, m, 4, [128]) for m in (PAPER, streams))
    memory, latency = [], []
    k = fit.law.names.index("k")
    for draw in fit.draws:
        plain = average(price, decoder_of_size(PAPER, streams.n_params * (draw[k] * math.log(4) + 1)), 4, [128])
        memory.append((plain.memory_bytes - base.memory_bytes) / (more.memory_bytes - base.memory_bytes))
        latency.append((plain.latency_s - base.latency_s) / (more.latency_s - base.latency_s))
    for ratio, by_draw in ((row.memory_ratio, memory), (row.latency_ratio, latency)):
        assert (ratio.low, ratio.high) == pytest.approx(tuple(np.quantile(by_draw, [0.025, 0.975])), rel=1e-3)


def test_what_rows_cost_is_in_the_interval_of_latency_alone(make_records):
    """Published multiples of rows are off on their own; what a device is for all models alike cancels."""
    price, streams = price_by("roofline", Device("h100-sxm-80gb")), replace(PAPER, P=4)
    (row,) = compare(price, streams, Size(3e9), [4], [128])
    assert (row.memory_ratio.low, row.memory_ratio.high) == (None, None)
    grown = row.plain.latency_s - row.base.latency_s
    spread = row.streams.streams_spread
    assert spread == 2 * 0.025
    ends = [grown / (row.streams.latency_s * math.exp(z * spread) - row.base.latency_s) for z in (1.96, -1.96)]
    assert (row.latency_ratio.low, row.latency_ratio.high) == pytest.approx(ends)
    (wide,) = compare(price, streams, Size(3e9, 2.5e9, 3.5e9), [4], [128])
    assert wide.latency_ratio.low < row.latency_ratio.low < row.latency_ratio.high < wide.latency_ratio.high
    fit = fit_table(make_records(noise=0.003, seed=1))
    found, draws = n_equivalent(fit, streams.n_params, 4), n_equivalent_draws(fit, streams.n_params, 4)
    size = Size(found.value, found.low, found.high, tuple(draws))
    (row,) = compare(price, streams, size, [32], [128])
    scores = np.random.default_rng(1).standard_normal(len(draws))
    ratios = []
    for n, z in zip(draws, scores, strict=True):
        added = row.streams.latency_s * math.exp(z * spread) - row.base.latency_s
        grown = average(price, decoder_of_size(PAPER, n), 32, [128]).latency_s - row.base.latency_s
        ratios.append(grown / added if added > 0 else math.inf)
    expected = np.quantile(ratios, [0.025, 0.975], method="closest_observation")
    assert (row.latency_ratio.low, row.latency_ratio.high) == pytest.approx(tuple(expected), rel=0.1)


def test_streams_that_may_add_nothing_have_no_upper_end():
    (row,) = compare(price_by("roofline", Device("h100-sxm-80gb")), replace(PAPER, P=8), Size(3e9), [1], [64])
    assert row.latency_ratio.low < row.latency_ratio.value < row.latency_ratio.high == math.inf
    own = Device("box", hardware=Hardware("box", {"fp32": 1e12, "bf16": 1e12}, 1e11, 2**36, measured=True))
    (row,) = compare(price_by("roofline", own), replace(PAPER, P=8), Size(3e9), [1], [64])
    assert (row.latency_ratio.low, row.latency_ratio.high) == (None, None)


def test_the_command_says_how_far_prices_are_off(scalelab):
    words = ("--hidden", 1536, "--P", 8, "--data", "paper", "--corpus", "stack-v2-python", "--batch", 1)
    code, out, _ = scalelab("compare", *words, "--preset", "serving")
    assert code == 0
    assert "95 %: latency ×0.65–1.54, memory ×0.85–1.17; they affect all models alike" in out
    assert "extra latency of P = 8 streams: ×0.86–1.16; the intervals of ratios include this" in out
    assert "ratio (95 %" in out
    (row,) = json.loads(scalelab("compare", *words, "--preset", "serving", "--json")[1])
    low, high = row["base_latency_interval_s"]
    assert (low, high) == pytest.approx([row["base_latency_s"] * math.exp(z * 0.22) for z in (-1.96, 1.96)])
    assert row["streams_latency_interval_s"][1] / row["streams_latency_s"] > high / row["base_latency_s"]
    assert "published errors" not in scalelab("compare", *words)[1]  # llm-analysis has none


def test_a_saved_fit_answers_without_data_and_as_its_law_does(scalelab, make_records, tmp_path):
    table = make_records(noise=0.002)
    table.to_csv(tmp_path / "made.csv", index=False)
    save_fit(fit_table(table, draws=1000), tmp_path / "fit.json")
    by_law = json.loads(scalelab("compare", "--hidden", 1536, "--data", "made.csv", "--law", "parallel", "--json")[1])
    saved = json.loads(scalelab("compare", "--hidden", 1536, "--fit", "fit.json", "--json")[1])
    for a, b in zip(by_law, saved, strict=True):
        assert a["memory_ratio"] == pytest.approx(b["memory_ratio"], rel=1e-6)
        assert a["latency_ratio_low"] == pytest.approx(b["latency_ratio_low"], rel=1e-3)


def test_a_loss_no_plain_model_reaches_has_no_ratio(scalelab, make_records, tmp_path):
    """Losses that fall by more with P than they are above the floor of N."""
    table = make_records(k=0.0)
    table["loss"] -= 0.6 * (1 - table["n_streams"] ** -0.5)
    table.to_csv(tmp_path / "made.csv", index=False)
    arguments = ("--hidden", 2560, "--P", 8, "--data", "made.csv", "--law", "additive")
    code, out, _ = scalelab("compare", *arguments)
    assert code == 0
    assert "no plain model of any size reaches the loss of P = 8" in out
    row = json.loads(scalelab("compare", *arguments, "--json")[1])[0]
    assert row["plain_n_params"] == row["memory_ratio"] == "inf"
    assert row["plain_memory_bytes"] is None


def test_streams_that_gain_nothing_are_said_to(scalelab, make_records, tmp_path):
    make_records(k=-0.1).to_csv(tmp_path / "made.csv", index=False)
    _, out, _ = scalelab("compare", "--hidden", 1536, "--P", 8, "--data", "made.csv", "--law", "parallel")
    assert "P = 8 streams gain nothing here" in out


def test_a_table_that_knows_no_shapes_is_taken_for_the_papers_family(scalelab, tmp_path):
    table = paper_records()
    table[table["corpus"] == "stack-v2-python"][["n_params", "n_streams", "loss"]].to_csv(
        tmp_path / "mine.csv", index=False
    )
    known = json.loads(scalelab("compare", *HEADLINE, "--json")[1])
    code, out, _ = scalelab("compare", "--hidden", 1536, "--P", 8, "--data", "mine.csv", "--json")
    assert code == 0
    for a, b in zip(known, json.loads(out), strict=True):
        assert b["plain_n_params"] == pytest.approx(a["plain_n_params"], rel=1e-12)
        assert b["memory_ratio"] == pytest.approx(a["memory_ratio"], rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give --data with measured losses, or --fit"),
        (["--corpus", "pile", "--fit", "x.json"], 2, "give --data as well"),
        (["--data", "paper", "--corpus", "bible"], 2, "--corpus bible: not in paper; choose one of pile, stack"),
        (["--data", "paper", "--corpus", "pile", "--P", "16"], 2, "no run with hidden size 1536 and P = 16"),
        (["--data", "paper", "--P", "1"], 2, "--P: '1' is not a whole number of at least 2"),
        (["--data", "paper", "--engine", "abacus"], 2, "--engine abacus: choose one of llm-analysis"),
        (["--data", "paper", "--corpus", "pile", "--gpu", "abacus"], 2, "--gpu abacus"),
        (["--data", "paper", "--D", "1B"], 2, "--D 1B: not in paper; choose one of 42B"),
        (["--data", "paper", "--corpus", "pile", "--law", "chinchilla"], 1, "needs more than one value of D"),
        (["--data", "paper", "--corpus", "pile", "--law", "nonsense"], 2, "nonsense"),
        (["--fit", "none.json"], 2, "none.json: no such file"),
        (["--data", "paper", "--vocab", "0"], 2, "--vocab 0: choose between 1 and"),
        (["--data", "paper", "--corpus", "pile", "--lengths", "0"], 2, "--lengths: '0'"),
    ],
)
def test_bad_requests_are_one_clear_line(scalelab, arguments, code, message):
    got, out, err = scalelab("compare", "--hidden", 1536, *arguments)
    assert (got, out) == (code, "")
    assert message in err


def test_outside_of_the_measured_sizes_it_refuses_and_a_law_extrapolates(scalelab):
    arguments = ("compare", "--hidden", 2560, "--P", 8, "--data", "paper", "--corpus", "pile")
    code, _, err = scalelab(*arguments)
    assert code == 1
    assert "is outside the losses with P = 1, 1.8451 to 2.1113 for N 536M to 4.35B; extrapolate with a law, such" in err
    assert "such as --law parallel" in err
    code, out, _ = scalelab(*arguments, "--law", "parallel")
    assert code == 0
    assert "is a factor of 1.7" in out
    assert "(extrapolation)" in out


def test_the_figure_has_a_curve_for_each_P_and_two_arrows_a_step(runs, scalelab, tmp_path):
    from scalelab.plot.cost import Step, plot_cost

    price, streams = price_by("llm-analysis", Device()), replace(PAPER, P=8)
    rows = compare(price, streams, Size(1e10), [1, 8], [64])
    figure = plot_cost(price_runs(price, runs, [1, 8], [64]), [Step(8, 1.0817, 1.0, rows)], "a title, $ and all")
    figure.draw_without_rendering()
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert len(axes.lines) == 4
        assert all(len(line.get_xdata()) == 6 for line in axes.lines)
        arrows = [text for text in axes.texts if text.arrow_patch is not None]
        assert len(arrows) == 2
        for arrow in arrows:  # they end inside of the figure
            assert axes.viewLim.x0 <= arrow.xy[0] <= axes.viewLim.x1
            assert axes.viewLim.y0 <= arrow.xy[1] <= axes.viewLim.y1
    (tmp_path / "new").mkdir()
    code, out, _ = scalelab("compare", *HEADLINE, "--batch", 1, "--lengths", 64, "--figure", "new/figure.png")
    assert code == 0
    assert "saved new/figure.png" in out
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = scalelab("compare", *HEADLINE, "--batch", 1, "--lengths", 64, "--figure", "figure.nonsense")
    assert code == 2
    assert "--figure figure.nonsense: must end in one of " in err


def test_nothing_heavy_is_imported_where_it_is_not_asked_for():
    code = (
        "import sys; from scalelab.cli import main; "
        "main(['compare', '--hidden', '1536', '--data', 'paper', '--engine', 'roofline', '--json']); "
        "heavy = ('torch', 'transformers', 'llm_analysis', 'matplotlib'); "
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert len(json.loads(done.stdout)) == 8
