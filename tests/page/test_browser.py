"""Pages in a real browser: no errors, no requests, and controls that do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import scalelab as sl
from scalelab.page import document
from scalelab.units import format_bytes, format_count, format_duration, format_interval, format_number
from tests.page.conftest import HOSTILE

pytestmark = pytest.mark.browser


def charts(page) -> dict[str, int]:
    """Return the number of traces of each chart that can be seen."""
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('[data-chart]')].filter(e => e.offsetParent)"
        ".map(e => [e.dataset.chart, (e.data || []).length]))"
    )


def column(page, name: str) -> list[str]:
    return page.evaluate(
        f"[...document.querySelectorAll('table.runs tbody tr')].filter(r => !r.hidden).map(r => r.cells["
        f"[...document.querySelectorAll('table.runs th')].findIndex(h => h.dataset.column === '{name}')].dataset.value)"
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_chart_is_drawn_in_both_themes(open_page, paper, theme):
    page = open_page(paper.path, color_scheme=theme)
    assert page.get_attribute("html", "data-theme") == theme
    seen = charts(page)
    assert {*seen} >= {"loss", "residuals", "predicted", "plan-memory", "plan-latency", "cost-memory", "cost-latency"}
    assert all(seen.values()), seen
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") != theme
    assert charts(page) == seen


def test_runs_are_sorted_and_filtered_by_keyboard(open_page, paper):
    page = open_page(paper.path)
    page.focus("th[data-column=loss] button")
    page.keyboard.press("Enter")
    losses = [float(v) for v in column(page, "loss")]
    assert losses == sorted(losses)
    assert page.get_attribute("th[data-column=loss]", "aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert [float(v) for v in column(page, "loss")] == sorted(losses, reverse=True)
    assert page.get_attribute("th[data-column=n_params]", "aria-sort") == "none"
    page.fill("input[type=search]", "pile 1.09B")
    assert len(column(page, "loss")) == sum(
        "1.09B" in (format_count(n), format_count(b))
        for n, b, corpus in sl.list_runs("paper").frame[["n_params", "n_params_backbone", "corpus"]].to_numpy()
        if corpus == "pile"
    )
    page.fill("input[type=search]", "")
    page.select_option(".filters label >> nth=0 >> select", "8")
    assert {*column(page, "n_streams")} == {"8"}
    assert "12 of 48 runs" in page.inner_text(".filters")


def test_boxes_change_the_charts(open_page, paper):
    page = open_page(paper.path)
    before = charts(page)["loss"]
    page.uncheck("#fit [data-group='0'] label:has-text('P = 8') input")
    assert charts(page)["loss"] == before - 3  # its band, and its curve inside and outside the runs
    page.uncheck("#fit [data-group='0'] label:has-text('95 % bands') input")
    assert charts(page)["loss"] == before - 3 - 3
    page.check("#fit [data-group='0'] label:has-text('stack-v2-python') input")
    assert charts(page)["loss"] > before - 6
    page.check("#plan [data-group='0'] label:has-text('P = 2') input")
    arrows = page.evaluate("document.querySelector('[data-chart=cost-memory]').layout.annotations.length")
    assert arrows == 2


def test_another_group_can_be_chosen(open_page, paper):
    page = open_page(paper.path)
    page.select_option(".choice select", "1")
    titles = page.eval_on_selector_all(
        "#fit .group > h3, #plan .group > h3", "list => list.filter(e => e.offsetParent).map(e => e.textContent)"
    )
    assert titles == ["stack-v2-python, D 42B"] * 2
    assert all(charts(page).values())


def test_downloads_are_the_data(open_page, paper, tmp_path):
    page = open_page(paper.path)
    with page.expect_download() as started:
        page.click("button:has-text('Runs as CSV')")
    csv = tmp_path / started.value.suggested_filename
    started.value.save_as(csv)
    assert csv.name == "runs.csv"
    assert csv.read_text(encoding="utf-8") == sl.list_runs("paper").to_csv()
    with page.expect_download() as started:
        page.click("button:has-text('Fit of pile')")
    file = tmp_path / started.value.suggested_filename
    started.value.save_as(file)
    assert sl.load_fit(file).params == paper.fits["pile"].params


def test_loss_curves_can_be_told_apart(open_page, sweep):
    page = open_page(sweep.path)
    seen = charts(page)
    assert seen["curves"] == 8  # four P of two seeds, at the largest N
    assert seen["correlation"] == seen["effective"] == 3
    page.check("label:has-text('difference to P = 1') input")
    assert charts(page)["curves"] == 6
    shown = page.evaluate("document.querySelector('[data-chart=curves]').data.map(t => t.y[t.y.length - 1])")
    assert max(map(abs, shown)) < 0.2


def test_hostile_names_do_nothing(open_page, hostile):
    page = open_page(hostile.path, viewport={"width": 390, "height": 844})
    for group in range(len(HOSTILE)):
        page.select_option(".choice select", str(group))
        assert all(charts(page).values())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.check("#fit [data-group='3'] fieldset:has-text('Also show') input >> nth=0")
    page.hover("#fit [data-group='3'] [data-chart=loss]")
    assert page.evaluate("window.hacked") is None
    assert page.title() == HOSTILE[0]
    assert HOSTILE[0] in page.inner_text("main")
    assert page.eval_on_selector_all("main img, main script, main b b, main i script", "list => list.length") == 0


@pytest.mark.parametrize("name", ["paper", "sweep"])
def test_nothing_is_wider_than_a_telephone(open_page, request, name):
    path: Path = request.getfixturevalue(name).path
    page = open_page(path, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert all(charts(page).values())


def test_numbers_are_written_as_in_python(open_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(document("Numbers", [], {"P": [1, 2]}, ["chart.js"]), encoding="utf-8")
    page = open_page(path)
    rng = np.random.default_rng(0)
    values = [
        *np.exp(rng.uniform(-25, 40, 300)).tolist(),
        0.0,
        1.0,
        999.5,
        999.9996,
        1e3,
        999_999.0,
        1e15,
        59.9999,
        60.0,
    ]
    seen = page.evaluate(
        "values => values.map(v => [scalelab.format.count(v), scalelab.format.count(v, 4), scalelab.format.bytes(v), "
        "scalelab.format.seconds(v), scalelab.format.number(v, 4), scalelab.format.ends(v, null), "
        "scalelab.format.ends(v, 2 * v)])",
        values,
    )
    for value, shown in zip(values, seen, strict=True):
        assert shown == [
            format_count(value),
            format_count(value, 4),
            format_bytes(value),
            format_duration(value),
            format_number(value),
            format_interval(value, None),
            format_interval(value, 2 * value),
        ], value
    assert page.evaluate("scalelab.data") == {"P": [1, 2]}
