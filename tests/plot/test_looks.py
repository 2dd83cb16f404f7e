"""Every figure is readable: nothing overlaps or is cut, levels differ, files are as conferences want them."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import scalelab as sl
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.profile import profile_fit
from scalelab.plot import (
    plot_contours,
    plot_draws,
    plot_loss,
    plot_loss_panels,
    plot_predicted,
    plot_profiles,
    plot_residuals,
    save_figure,
)
from scalelab.plot.curves import plot_curves
from scalelab.plot.layout import new_panels
from scalelab.plot.measured import plot_against, plot_efficiency, serving_measurements
from scalelab.plot.streams import plot_weights
from scalelab.plot.style import SIZES, looks
from scalelab.plot.ticks import log_axis, plain
from tests.support.drawn import boxes, covered, outside, overlapping
from tests.support.tables import fit_table


@pytest.fixture(scope="module")
def fit():
    """A fit of 24 published losses."""
    return sl.fit_law("paper", where="corpus == 'stack-v2-python'", draws=100, starts=20)


@pytest.fixture(scope="module")
def profiles(fit):
    return [profile_fit(fit, name) for name in ("A", "alpha")]


@pytest.fixture(scope="module")
def plan(fit):
    return sl.make_plan(fit, memory="4GB", latency="500ms", gpu="rtx-4090", P=[1, 4, 16])


def draw(kind, fit, profiles, plan, **options):
    """Return a figure of this kind."""
    one = serving_measurements().query("model == 'smollm2-135m' and tokens_in == tokens_in.min()")
    weights = np.random.default_rng(0).dirichlet(np.ones(4), 24)
    functions = {
        "loss": lambda: plot_loss(fit, **options),
        "contours": lambda: plot_contours(fit, **options),
        "residuals": lambda: plot_residuals(fit, **options),
        "predicted": lambda: plot_predicted(fit, **options),
        "pairs": lambda: plot_draws(fit, **options),
        "profiles": lambda: plot_profiles(fit, profiles, **options),
        "panels": lambda: plot_loss_panels({"a": fit, "b$c_" * 20: fit}, **options),
        "plan": lambda: plan.plot(**options),
        "limits": lambda: plan.plot("contours", **options),
        "prices": lambda: sl.price(2560, P=[1, 2, 4, 8], batch=[1, 8], engine="roofline").plot(**options),
        "compare": lambda: sl.compare_costs(
            2560, data="paper", corpus="pile", law="parallel", engine="roofline", batch=[1, 8], lengths=[64]
        ).plot(**options),
        "predictions": lambda: fit.predict(N=[1e9, 3e9, 8e9], P=[1, 8]).plot(**options),
        "curves": lambda: plot_curves(*curves_of(), **options),
        "serving": lambda: plot_against(serving_measurements(), "heading", **options),
        "efficiency": lambda: plot_efficiency(one, "heading", **options),
        "weights": lambda: plot_weights(weights, ["Ġtoken", "x" * 20] * 12, "heading", **options),
    }
    drawn = functions[kind]()
    return drawn if isinstance(drawn, mpl.figure.Figure) else drawn.get_figure(root=True)


def curves_of(n_sizes=4, streams=(1, 2, 8)):
    import pandas as pd

    rng, tokens = np.random.default_rng(0), np.arange(1, 201) * 1e4
    sizes = np.geomspace(2e4, 8e5, n_sizes)
    rows = [
        {"key": f"{N:.0f}-{P}", "n_params_backbone": N, "n_params": N, "n_streams": P, "n_tokens": 2e6, "status": "ok"}
        for N in sizes
        for P in streams
    ]
    loss = {
        row["key"]: 2 + (1e4 / row["n_params"]) ** 0.2 + (2e4 / tokens) ** 0.3 - 0.02 * np.log(row["n_streams"])
        for row in rows
    }
    noisy = {
        key: pd.DataFrame({"n_tokens": tokens, "loss": y + 0.05 * rng.normal(size=200)}) for key, y in loss.items()
    }
    return pd.DataFrame(rows), noisy


KINDS = (
    *("loss", "contours", "residuals", "predicted", "pairs", "profiles", "panels", "plan", "limits", "prices"),
    *("compare", "predictions", "curves", "serving", "efficiency", "weights"),
)
# Panels of each kind, where there are several.
COUNTS = {"pairs": 6, "profiles": 2, "panels": 2, "plan": 2, "prices": 2, "compare": 4, "curves": 4, "serving": 2}
COUNTS |= {"efficiency": 2}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_overlaps_or_is_cut_and_no_legend_covers_data(kind, fit, profiles, plan):
    for size in SIZES:
        figure = draw(kind, fit, profiles, plan, size=size)
        assert overlapping(figure) == [], size
        assert outside(figure) == [], size
        assert covered(figure) == 0, size
        width = {"one-column": 3.25, "two-columns": 6.75}.get(size)
        assert width is None or figure.get_figwidth() == width


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_draws_into_axes_of_ones_own(kind, fit, profiles, plan):
    before = dict(mpl.rcParams)
    count = COUNTS.get(kind, 1)
    mine, ax = plt.subplots(1, count, figsize=(4 * count, 3), layout="constrained")
    assert draw(kind, fit, profiles, plan, ax=ax) is mine
    assert all(axes.has_data() for axes in np.ravel(ax))
    mine, (left, right) = plt.subplots(1, 2, figsize=(14, 7), layout="constrained")
    right.plot([0, 1])
    assert draw(kind, fit, profiles, plan, ax=left) is mine  # one axes, replaced by the panels
    assert len(right.lines) == 1
    assert right in mine.axes
    plt.close("all")
    assert dict(mpl.rcParams) == before
    with pytest.raises(UsageError, match="size"):
        draw(kind, fit, profiles, plan, ax=right, size="one-column")


def test_a_long_name_is_wrapped_and_shown_as_it_is(fit, profiles, plan):
    named = replace(fit, group="corpus_$a$/" * 30)
    for kind in ("loss", "pairs"):
        figure = draw(kind, named, profiles, plan)
        assert outside(figure) == []
        assert any("corpus_$a$/" in text for text, _ in boxes(figure))  # not mathematics


def test_several_panels_need_as_many_axes(fit):
    _, ax = plt.subplots(1, 3)
    with pytest.raises(UsageError, match="6 panels: give a list of 6 axes, not 3"):
        plot_draws(fit, ax=ax)
    with pytest.raises(UsageError, match="one panel"):
        fit.plot("loss", ax=ax)
    plt.close("all")


def test_settings_of_a_person_stay_and_do_not_leak_in(fit):
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 20, "pdf.fonttype": 3, "font.family": "serif"}):
        before = dict(mpl.rcParams)
        figure = plot_loss(fit)
        figure.savefig("/dev/null", format="png", dpi=40)
        assert dict(mpl.rcParams) == before
    assert figure.axes[0].get_facecolor()[:3] == (1, 1, 1)
    assert figure.axes[0].xaxis.label.get_fontsize() == 10
    assert figure.axes[0].xaxis.label.get_fontfamily() == ["serif"]  # their choice


def test_the_style_sheet_is_one_of_matplotlibs():
    with plt.style.context(["scalelab.plot.scalelab", "scalelab.plot.one-column"]):
        assert mpl.rcParams["pdf.fonttype"] == mpl.rcParams["ps.fonttype"] == 42
        assert mpl.rcParams["figure.figsize"] == [3.25, 2.5]
        assert mpl.rcParams["font.size"] == 8


@pytest.mark.parametrize("save", ["save_figure", "savefig"])
def test_pdf_and_eps_embed_truetype_fonts(save, fit, tmp_path):
    figure = plot_residuals(fit)
    for ending in ("pdf", "eps") if save == "savefig" else ("pdf",):
        path = tmp_path / f"figure.{ending}"
        save_figure(figure, path) if save == "save_figure" else figure.savefig(path)
        raw = path.read_bytes()
        if ending == "pdf":
            packed = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", raw, re.DOTALL)
            raw += b"".join(zlib.decompress(part) for part in packed if part[:1] == b"x")
            assert b"/CIDFontType2" in raw
            assert b"/FontFile2" in raw
        else:
            assert b"/FontType 42 def" in raw
        assert b"/Type3" not in raw.replace(b" ", b"")
        assert b"/FontType 3 def" not in raw


def test_the_ending_chooses_the_format(fit, tmp_path):
    figure = plot_residuals(fit, size="one-column")
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "eps": b"%!PS", "jpg": b"\xff\xd8", "PDF": b"%PDF"}
    for ending, start in starts.items():
        path = tmp_path / f"figure.{ending}"
        save_figure(figure, path)
        assert path.read_bytes().startswith(start)
    svg = (tmp_path / "figure.svg").read_text()
    assert ">P = 8</text>" in svg  # text, not shapes
    for ending in ("svg", "pdf", "png"):  # the same data give the same file
        files = [tmp_path / f"{name}.{ending}" for name in ("one", "other")]
        for file in files:
            save_figure(plot_residuals(fit, size="one-column"), file)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_format_without_its_program_is_one_line(fit, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ScalelabError, match=r"figure.pgf: 'xelatex' not found"):
        save_figure(plot_residuals(fit), tmp_path / "figure.pgf")
    assert not [*tmp_path.iterdir()]


def test_parameters_have_their_greek_letters(fit, profiles):
    for figure in (plot_draws(fit), plot_profiles(fit, profiles)):
        texts = " ".join(text for text, _ in boxes(figure))
        assert "α" in texts
        assert "alpha" not in texts


@pytest.mark.parametrize("levels", [(1, 2, 4, 8), (1, 3, 6), tuple(range(1, 13)), (1e9, 2e9, 4e9)])
def test_levels_differ_in_marker_and_in_lightness_or_hue(levels):
    found = looks(levels)
    assert len({*found.values()}) == len(levels)
    neighbours = list(found.values())
    assert all(a.marker != b.marker for a, b in pairwise(neighbours))
    assert len({look.color for look in neighbours}) == len(levels)


def test_a_power_of_two_has_the_same_look_in_every_figure():
    assert looks([4])[4] == looks([1, 2, 4, 8])[4] == looks([2, 4, 64])[4]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1e8, 1e9, ["100M", "200M", "500M", "1B"]),
        (4e8, 8e9, ["500M", "700M", "1B", "1.5B", "2B", "3B", "5B", "7B"]),
        (1e3, 1e12, ["10k", "1M", "100M", "10B"]),
        (5e8, 5.4e8, ["500M", "510M", "520M", "530M", "540M"]),
        (1.234e8, 1.2345e8, None),
    ],
)
def test_ticks_are_round_counts_that_fit(low, high, labels):
    panels = new_panels(1, size="one-column" if labels and labels[-1] == "7B" else "screen", panel=(4, 3))
    log_axis(panels.axes[0].xaxis)
    panels.axes[0].set_xlim(low, high)
    found = [text for text, _ in boxes(panels.figure) if text[-1] in "kMB"]
    assert overlapping(panels.figure) == []
    assert len(found) >= 2
    assert len({*found}) == len(found)
    if labels:
        assert found == labels


def test_costs_have_no_exponent():
    panels = new_panels(1)
    log_axis(panels.axes[0].xaxis, plain)
    panels.axes[0].set_xlim(200, 3000)
    assert "1000" in [text for text, _ in boxes(panels.figure)]


def test_the_bar_of_contours_has_their_colours(fit):
    """A fill that is paler than its bar cannot be read."""
    figure = plot_contours(fit)
    filled, points = (
        next(c for c in figure.axes[0].collections if c.get_array() is not None and (hasattr(c, "levels") == is_filled))
        for is_filled in (True, False)
    )
    figure.draw_without_rendering()
    assert filled.get_alpha() is None
    bar = figure.axes[1].collections[-1]
    in_bar = {tuple(np.round(colour[:3], 6)) for colour in bar.get_facecolors()}
    in_fill = {tuple(np.round(colour[:3], 6)) for colour in filled.get_facecolors()}
    assert in_fill <= in_bar
    assert points.get_cmap() is filled.get_cmap()
    lightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(to_rgb, in_fill)]
    assert min(lightness) > 0.3  # black lines and labels can be read on all of them


def test_curves_are_smoothed_and_say_so():
    runs, raw = curves_of()
    figure = plot_curves(runs, raw)
    first = figure.axes[0]
    assert first.get_title() == "N = 20k"
    assert "mean over the last 10 % of tokens" in figure._supylabel.get_text()
    assert len(first.lines) == 3
    x, y = first.lines[0].get_data()
    truth = 2 + (1e4 / 2e4) ** 0.2 + (2e4 / x) ** 0.3
    late = x > 5e5
    assert np.std((y - truth)[late]) < 0.5 * np.std((raw["20000-1"]["loss"].to_numpy() - truth)[late])
    assert y[-1] == pytest.approx(raw["20000-1"]["loss"].to_numpy()[-20:].mean())  # the last 10 % of 200 points
    assert {axes.get_ylim() for axes in figure.axes} == {first.get_ylim()}  # so that panels can be compared


def test_curves_of_one_p_are_one_panel_with_a_colour_for_each_n():
    figure = plot_curves(*curves_of(streams=(1,)))
    assert len(figure.axes) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["N = 20k", "N = 68.4k"]
    assert len(plot_curves(*curves_of(n_sizes=20, streams=(1, 2))).axes) == 12


def test_the_limits_of_a_plan_pass_through_its_options(plan):
    """An option that a limit binds is on that limit's line."""
    axes = plan.plot("contours").axes[0]
    lines = {line.get_linestyle(): line for line in axes.lines if line.get_linewidth() == 2.0}
    for option in plan.options:
        x, y = lines[{"latency": "-.", "memory": "--"}[option.binds]].get_data()
        assert np.interp(np.log(option.P), np.log(y), x) == pytest.approx(option.N.value, rel=5e-3)


def test_groups_side_by_side_have_the_same_looks(make_records):
    few, many = fit_table(make_records(P=(1, 4))), fit_table(make_records(P=(1, 2, 4)))
    figure = plot_loss_panels({"few": few, "many": many})
    assert [axes.get_title() for axes in figure.axes] == ["few", "many"]
    of = [{line.get_marker(): line.get_color() for line in axes.lines} for axes in figure.axes]
    assert of[0]["^"] == of[1]["^"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:3] == ["P = 1", "P = 2", "P = 4"]


def test_an_unknown_size_or_kind_is_refused(fit, plan):
    with pytest.raises(UsageError, match="choose one of screen, one-column, two-columns"):
        plot_loss(fit, size="poster")
    for result in (plan, fit.predict(N=1e9), fit.profile("k"), sl.price(2560, P=2, engine="roofline")):
        with pytest.raises(UsageError, match="choose one of"):
            result.plot("pie")
