"""Figures hold what they should; how they look was looked at."""

import numpy as np
import pytest
from matplotlib.lines import Line2D

from scalelab.api.fitting import fit_law
from scalelab.errors import UsageError
from scalelab.fit.profile import profile_fit
from scalelab.plot import (
    plot_contours,
    plot_draws,
    plot_loss,
    plot_predicted,
    plot_profiles,
    plot_residuals,
)
from scalelab.plot.layout import legend_below, new_panels
from scalelab.plot.style import style
from tests.support.tables import fit_table


@pytest.fixture
def fit(make_records):
    return fit_table(make_records(noise=2e-3))


def points(axes) -> int:
    return sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() in ("o", "s", "^", "D"))


def legend(figure):
    return figure.legends[0].get_texts()


def test_loss_residuals_and_predicted_show_every_run(fit):
    for plot in (plot_loss, plot_residuals, plot_predicted):
        figure = plot(fit)
        assert points(figure.axes[0]) == 24
        assert figure._repr_png_().startswith(b"\x89PNG")
        assert [text.get_text() for text in legend(figure)][:4] == ["P = 1", "P = 2", "P = 4", "P = 8"]


@pytest.mark.parametrize(
    ("own", "label"),
    [
        (None, "N, non-embedding parameters with streams"),  # a sweep's records say what they count
        ("n_params", "N, parameters"),
        ("model_size", "N, model_size"),
    ],
)
def test_an_axis_has_the_users_own_name(make_records, own, label):
    records = make_records()
    table = records if own is None else records[["n_params", "n_streams", "loss"]].rename(columns={"n_params": own})
    fit = fit_law(table if own else "paper", draws=0, starts=20)
    fit = next(iter(fit.values())) if own is None else fit
    assert [plot(fit).axes[0].get_xlabel() for plot in (plot_loss, plot_residuals, plot_contours)] == [label] * 3
    assert fit.summary(width=160).count(label.replace(", ", ": ", 1)) == 1


def test_an_axis_of_losses_has_the_users_own_name(make_records):
    table = make_records()[["n_params", "n_streams", "loss"]].rename(columns={"loss": "eval/c4"})
    fit = fit_law(table, columns={"loss": "eval/c4"}, draws=0, starts=20)
    assert plot_loss(fit).axes[0].get_ylabel() == "eval/c4"
    assert plot_predicted(fit).axes[0].get_xlabel() == "measured eval/c4"


def test_contours_are_the_laws_losses(fit):
    axes = plot_contours(fit).axes[0]
    sets = [c for c in axes.collections if hasattr(c, "levels")]
    for level, path in zip(sets[-1].levels, sets[-1].get_paths(), strict=True):
        vertices = path.vertices
        if len(vertices):
            assert fit.losses(vertices[:, 0], vertices[:, 1]) == pytest.approx(np.full(len(vertices), level), abs=3e-4)


def test_profiles_cross_their_threshold_at_the_interval(fit):
    profiles = [profile_fit(fit, name) for name in ("k", "alpha")]
    figure = plot_profiles(fit, profiles)
    assert [axes.get_xlabel() for axes in figure.axes] == ["k", "α"]
    curve = figure.axes[0].lines[-1]
    for end in profiles[0].interval:
        side = curve.get_xdata() < fit.values["k"] if end < fit.values["k"] else curve.get_xdata() > fit.values["k"]
        order = np.argsort(curve.get_xdata()[side])
        height = np.interp(end, curve.get_xdata()[side][order], curve.get_ydata()[side][order])
        assert height == pytest.approx(1, abs=0.02)


def test_draws_are_shown_for_each_pair(fit, make_records):
    assert len(plot_draws(fit).axes) == 6
    assert len(plot_draws(fit_table(make_records(noise=1e-3), fix={"E": 0.7, "A": 1.1e7, "k": 0.4})).axes) == 1


def test_laws_over_d_have_figures_too(table_of):
    chinchilla = fit_table(
        table_of("chinchilla", (1.7, 1e7, 0.34, 1e9, 0.28), P=(1,), D=(1e9, 1e10, 1e11)), "chinchilla"
    )
    assert [t.get_text() for t in legend(plot_loss(chinchilla))] == [
        "D = 1B",
        "D = 10B",
        "D = 100B",
        "95 % interval",
        "beyond the runs",
    ]
    with pytest.raises(UsageError, match="contours need a law with N and P"):
        plot_contours(chinchilla)
    joint = fit_table(table_of("joint", (0.7, 1e7, 0.5, 0.3, 1e9, 0.35), D=(1e9, 1e10, 1e11)), "joint")
    assert points(plot_loss(joint).axes[0]) == 60
    assert "D 100B" in plot_contours(joint).axes[0].get_title()


def test_many_levels_have_a_colour_bar(make_records):
    figure = plot_loss(fit_table(make_records(P=tuple(range(1, 13)), noise=1e-3)))
    assert [text.get_text() for text in legend(figure)] == ["beyond the runs"]
    assert figure.axes[1].get_ylabel() == "P"
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == ["1", "3", "5", "8", "10", "12"]


def test_a_figure_of_few_runs_without_intervals(make_records, tmp_path):
    fit = fit_table(make_records(N=(1e9, 4e9), P=(1, 2), noise=1e-2))
    for plot in (plot_loss, plot_contours, plot_residuals, plot_predicted):
        plot(fit).savefig(tmp_path / "figure.png")


def test_weights_of_a_mixture_fill_the_height():
    from scalelab.plot.streams import plot_weights

    weights = np.random.default_rng(0).dirichlet(np.ones(8), 12)
    figure = plot_weights(weights, ["Ġa", "Ċ", "x" * 20] * 4, "a_b$c")
    axes = figure.axes[0]
    tops = {}
    for bar in axes.patches:
        tops[bar.get_x()] = max(tops.get(bar.get_x(), 0), bar.get_y() + bar.get_height())
    assert list(tops.values()) == pytest.approx([1.0] * 12)
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["␣a", "⏎", "x" * 11 + "…"]
    assert {text.get_text() for text in legend(figure)} == {f"stream {p}" for p in range(1, 9)}
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("entries", "width", "rows"), [(3, 3.25, [3]), (7, 6.4, [7]), (7, 4.6, [4, 3]), (6, 3.25, [3, 3])]
)
def test_a_legend_below_reads_along_its_rows(entries: int, width: float, rows: list[int]):
    figure = new_panels(1, panel=(width, 3)).root
    labels = [f"P = {2**i}" for i in range(entries)]
    with style():
        legend_below(figure, [Line2D([], []) for _ in labels], labels)
    figure.draw_without_rendering()
    drawn = [(text.get_window_extent(), text.get_text()) for text in figure.legends[0].get_texts()]
    drawn.sort(key=lambda entry: (-round(entry[0].y0), entry[0].x0))
    assert [text for _, text in drawn] == labels
    heights = [round(box.y0) for box, _ in drawn]
    assert [heights.count(y) for y in sorted(set(heights), reverse=True)] == rows
