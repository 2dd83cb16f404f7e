"""Output of `scalelab compare`: nothing is cut off, and every file it names exists."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scalelab.cli import main
from scalelab.cost import Device
from scalelab.cost.compare import Size, compare, price_by, price_runs
from scalelab.cost.equal_loss import MeasuredRun, measured_runs, paper_decoder, plain_loss, widened
from scalelab.cost.hardware import find_hardware
from scalelab.laws import get_law
from scalelab.plan.comparison import Question, answer, comparable_groups
from scalelab.plot.cost import Step, plot_cost
from scalelab.reports.comparison import verdicts
from tests.support.tables import fit_table

# The roofs alone: no time to start a kernel.
PRICE = price_by("roofline", Device("bare", 0.7, 0.9, replace(find_hardware("a100-sxm-80gb"), kind="")))
TINY = replace(paper_decoder(64, 512), num_layers=3, num_heads=4, num_kv_heads=1)
RUNS = [MeasuredRun(replace(TINY, P=P), 1e5 * P, 3 - 0.1 * P) for P in (1, 2)]


def question(**more):
    made = Question(1536, (8,), (1,), (64,), 151_936, None, PRICE, "roofline")
    return replace(made, **more)


def stack():
    return comparable_groups("paper", {}, None, "stack-v2-python", None, True)[0]


def step(from_loss=2.9):
    return Step(2, from_loss, 2.8, compare(PRICE, RUNS[1].architecture, Size(2e5), [1], [64]))


@pytest.mark.parametrize("batches", [[1], [1, 2], [1, 2, 4, 8]])
def test_a_heading_fits_into_the_figure(batches):
    """With one or two columns it used to be cut off on both sides."""
    heading = f"a corpus of some name; {'a device of some name; ' * 5}mean over 64, 128, 256, 512 tokens in"
    figure = plot_cost(price_runs(PRICE, RUNS, batches, [64]), [step()], heading)
    figure.draw_without_rendering()
    (title,) = [text for text in figure.texts if "corpus" in text.get_text()]
    box = title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert title.get_text().replace("\n", " ") == heading


def test_units_suit_the_costs():
    figure = plot_cost(price_runs(PRICE, RUNS, [1], [64]))
    assert [axes.get_xlabel() for axes in figure.axes] == ["memory, MiB", "latency, µs"]
    (point, *_) = figure.axes[0].lines[0].get_xydata()
    average = price_runs(PRICE, RUNS, [1], [64])[1][0][1]
    assert point[0] == pytest.approx(average.memory_bytes / 2**20)
    large = [MeasuredRun(paper_decoder(2560, 151_936), 4e9, 2.0)]
    figure = plot_cost(price_runs(PRICE, large, [1], [64]))
    assert [axes.get_xlabel() for axes in figure.axes] == ["memory, GiB", "latency, s"]


@pytest.mark.parametrize("known", [True, False])
def test_the_legend_has_arrows_where_the_figure_has(known):
    figure = plot_cost(price_runs(PRICE, RUNS, [1], [64]), [step(2.9 if known else None)])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    arrows = [text for axes in figure.axes for text in axes.texts if text.arrow_patch is not None]
    assert len(arrows) == (4 if known else 0)
    assert ("add streams, P = 2" in labels) == ("larger N, equal loss" in labels) == known


def test_the_loss_without_streams_is_the_measured_one_or_the_laws():
    (measured,) = answer(question(), stack(), None, None)
    assert measured.base_loss == 1.0817
    (by_law,) = answer(question(hidden=3072), stack(), get_law("parallel"), None)
    fit = fit_table(stack().records)
    plain = paper_decoder(3072, 151_936)
    assert by_law.base_loss == pytest.approx(float(fit.predict(plain.n_params)), rel=1e-6)
    assert by_law.base_loss > by_law.loss


def test_the_plain_model_of_streams_is_found_among_the_runs():
    runs = measured_runs(stack().records, 151_936)
    streams = next(r.architecture for r in runs if (r.architecture.hidden_size, r.P) == (2048, 4))
    assert plain_loss(runs, streams) == 1.0451
    assert plain_loss(runs, replace(streams, num_layers=12)) is None
    assert plain_loss([r for r in runs if r.P > 1], streams) is None
    # Of a table that knows no shapes, the width is that which N gives.
    assert plain_loss([MeasuredRun(widened(TINY, 64.2), 1e5, 2.5)], widened(replace(TINY, P=2), 64.0)) == 2.5


def test_an_interval_around_nothing_is_left_open():
    (one,) = answer(question(), stack(), get_law("parallel"), None)
    backbone = one.streams.with_streams(1).n_params
    sizes = {"gain nothing here": (0.9, 0.8, 0.95), "is open": (0.99, 0.9, 1.01), "A larger N adds": (1.9, 1.8, 2.0)}
    for words, ends in sizes.items():
        size = Size(*(share * backbone for share in ends))
        rows = tuple(compare(PRICE, one.streams, size, [1], [64]))
        said = verdicts(replace(one, size=size, rows=rows))
        assert words in said[0]
        assert any("streams add more memory than a larger N" in line for line in said) == (words == "is open")


def test_a_fit_of_other_data_is_refused(make_records, tmp_path, monkeypatch, capsys):
    """Pile's fit was once shown under the name of Stack, if that was the only group."""
    monkeypatch.chdir(tmp_path)
    mine = make_records(noise=0.002).drop(columns="corpus")  # then the name is the file's
    mine.to_csv("mine.csv", index=False)
    mine.assign(loss=mine["loss"] * 1.1).to_csv("other.csv", index=False)
    assert main(["fit", "mine.csv", "--draws", "100", "--starts", "20", "--no-figure", "--out", "."]) == 0
    Path("mine-d-1b.json").rename("fit.json")
    capsys.readouterr()
    words = ["compare", "--hidden", "1536", "--fit", "fit.json", "--json"]
    assert main([*words, "--data", "other.csv"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "--fit is of 'mine, D 1B', and other.csv has other, D 1B" in said.err
    assert main([*words, "--data", "mine.csv"]) == 0
    rows = json.loads(capsys.readouterr().out)
    Path("mine.csv").rename("renamed.csv")
    assert main([*words, "--data", "renamed.csv"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["memory_ratio"] == rows[0]["memory_ratio"]
