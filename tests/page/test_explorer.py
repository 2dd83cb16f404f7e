"""The explorer in a real browser: controls change numbers, settings can be shared, and names are shown as text."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scalelab as sl
from scalelab.errors import UsageError
from scalelab.fit.derived import n_equivalent, predicted
from scalelab.laws import Law, Parameter
from scalelab.page.explorer import explorer_data, explorer_page
from scalelab.records import paper_records
from scalelab.units import format_count
from tests.support.tables import fit_table

pytestmark = pytest.mark.browser
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> [bold red] \u202egnol" + "x" * 200


class Plain(Law):
    """A law of one's own, which the page cannot evaluate."""

    name = "plain"
    variables = ("N",)
    parameters = (Parameter("E", "nats/token", (0.5, 2.0)), Parameter("s", "1", (0.1, 10.0)))

    def loss(self, params, at):
        return params[..., 0, None] + params[..., 1, None] * at.N ** (-0.2)


def chinchilla_table():
    """Return losses of a known law over N and D, with noise of one per mille."""
    rng = np.random.default_rng(5)
    N, D = (a.ravel() for a in np.meshgrid([1e7, 3e7, 1e8, 3e8, 1e9], [1e9, 3e9, 1e10, 3e10]))
    loss = 1.7 + (6e7 / N) ** 0.34 + (3e8 / D) ** 0.29
    return pd.DataFrame({"n_params": N, "n_tokens": D, "loss": loss * np.exp(1e-3 * rng.standard_normal(len(N)))})


@pytest.fixture(scope="module")
def fits():
    pile = paper_records().query("corpus == 'pile'")
    few = dict(draws=60, starts=20)
    return [
        fit_table(pile.assign(corpus=HOSTILE), **few),
        fit_table(chinchilla_table(), "chinchilla", **few),
        fit_table(chinchilla_table(), "tokens", draws=20, starts=10),
        fit_table(pile.query("n_streams == 1"), Plain(), draws=20, starts=10),
    ]


@pytest.fixture
def file(fits, tmp_path):
    path = tmp_path / "explorer.html"
    path.write_text(explorer_page(fits), encoding="utf-8")
    return path


def tile(page, name: str) -> str:
    return page.locator(f'[data-tile="{name}"] .explorer-value').inner_text()


def settle(page) -> None:
    """Wait until the chart of the last change is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_controls_change_the_numbers_and_the_address(open_page, file, fits):
    page = open_page(file)
    fit = fits[0]
    N = 2.8e9
    assert page.locator("#explorer-N").input_value() == "2.8B"
    assert tile(page, "Loss") == f"{predicted(fit, N, 4.0).value:.4f}"
    before = {name: tile(page, name) for name in ("Loss", "Memory", "Time to first token", "Time per token")}
    page.get_by_label("Parameters N, slider").press("ArrowRight")
    assert all(tile(page, name) != value for name, value in before.items())
    page.get_by_label("Parallel streams P", exact=True).fill("8")
    page.keyboard.press("Enter")
    page.get_by_label("Parameters N", exact=True).fill("1.6B")
    page.keyboard.press("Tab")
    assert tile(page, "Loss") == f"{predicted(fit, 1.6e9, 8.0).value:.4f}"
    assert tile(page, "Plain N of equal loss") == format_count(n_equivalent(fit, 1.6e9, 8.0).value)
    memory = tile(page, "Memory")
    page.select_option("#explorer-weights", "q4_k_m")
    assert tile(page, "Memory") != memory
    page.select_option("#explorer-device", "rtx-4090")
    page.locator("#explorer-memory-limit").fill("1GiB")
    page.locator("#explorer-memory-limit").press("Enter")
    assert "exceeds 1 GiB" in page.locator('[data-tile="Memory"]').inner_text()
    settle(page)
    shared = page.url
    assert "#explorer&" in shared
    again = open_page(shared)
    assert again.locator(".explorer-tiles").inner_text() == page.locator(".explorer-tiles").inner_text()
    assert again.locator(".explorer-answer").inner_text() == page.locator(".explorer-answer").inner_text()
    again.get_by_role("button", name="Use this setting").click()
    assert again.locator('[data-tile="Memory"].warn').count() == 0


def test_wrong_values_are_named_and_change_nothing(open_page, file):
    page = open_page(file)
    before = page.locator(".explorer-tiles").inner_text()
    for name, text in (("N", "big"), ("N", "-1"), ("N", "1e999"), ("P", "2.5"), ("P", "0"), ("batch", "1e9")):
        field = page.locator(f"#explorer-{name}")
        field.fill(text)
        field.press("Enter")
        assert page.locator(f"#explorer-{name}-fault").inner_text().startswith("Give a ")
        assert field.get_attribute("aria-invalid") == "true"
    page.locator("#explorer-ttft-limit").fill("soon")
    page.locator("#explorer-ttft-limit").press("Enter")
    assert page.locator("#explorer-ttft-limit-fault").inner_text() == "Give a time such as 500ms, or nothing."
    assert page.locator(".explorer-tiles").inner_text() == before
    page.goto(f"{file.as_uri()}#explorer&N=1e400&P=-3&device=none&weights=__proto__&kv=constructor&fit=99&memory=x")
    page.reload()
    assert page.locator(".explorer-tiles").inner_text() == before


def test_names_from_the_data_are_text(open_page, file):
    page = open_page(file)
    settle(page)
    assert page.locator("#explorer-fit option").first.inner_text().startswith("<script>alert(1)</script><img")
    assert page.locator("main img, main script").count() == 0
    assert "\u202e" not in page.content()


def test_laws_without_streams_without_size_and_of_ones_own(open_page, file, fits):
    page = open_page(file)
    page.select_option("#explorer-fit", "1")
    settle(page)
    assert page.locator(".explorer-results h3").inner_text() == "Loss over N"
    assert page.locator("#explorer-P").is_disabled()
    page.locator("#explorer-D").fill("20B")
    page.locator("#explorer-D").press("Enter")
    page.locator("#explorer-N").fill("500M")
    page.locator("#explorer-N").press("Enter")
    assert tile(page, "Loss") == f"{predicted(fits[1], 5e8, 1.0, 2e10).value:.4f}"
    assert page.locator('[data-tile="Plain N of equal loss"]').count() == 0
    page.select_option("#explorer-fit", "2")
    settle(page)
    assert page.locator(".explorer-results h3").inner_text() == "Loss over D"
    assert "no N" in page.locator("#explorer-N-hint").inner_text()
    page.select_option("#explorer-fit", "3")
    settle(page)
    assert "not a law that this page can evaluate" in page.locator('[data-tile="Loss"]').inner_text()
    assert page.locator(".explorer-chart").is_hidden()
    assert tile(page, "Memory") != "—"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_nothing_overlaps_or_leaves_the_page(open_page, file, width, scheme):
    page = open_page(file, viewport={"width": width, "height": 844}, color_scheme=scheme)
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    overlapping = page.evaluate(
        """() => {
            const texts = [...document.querySelectorAll(
                ".explorer label, .explorer legend, .explorer dt, .explorer dd, .explorer-about, .explorer-answer, " +
                ".explorer h3, .explorer .xtick text, .explorer .ytick text, .explorer .legendtext, .explorer .xtitle")]
                .map((e) => [e.textContent, e.getBoundingClientRect()]).filter(([, b]) => b.width);
            const found = [];
            texts.forEach(([t, a], i) => texts.slice(i + 1).forEach(([u, b]) => {
                const over = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                if (over > 1.5 && tall > 1.5) found.push(`${t} / ${u}`);
            }));
            return [texts.length, found];
        }"""
    )
    assert overlapping[0] > 40
    assert overlapping[1] == []
    unlabelled = page.evaluate(
        """() => [...document.querySelectorAll(".explorer input, .explorer select")].filter((e) =>
            !e.labels?.length && !e.getAttribute("aria-label")).map((e) => e.outerHTML)"""
    )
    assert unlabelled == []


def test_a_notebook_shows_the_explorer_in_a_frame(open_page, fits, tmp_path):
    widget = fits[0].explore(height=700)
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><p>{widget._repr_html_()}", encoding="utf-8")
    page = open_page(path)
    frame = page.frame_locator("iframe")
    assert page.locator("iframe").get_attribute("height") == "700"
    before = frame.locator('[data-tile="Loss"] .explorer-value').inner_text()
    frame.get_by_label("Parameters N, slider").press("ArrowRight")
    assert frame.locator('[data-tile="Loss"] .explorer-value').inner_text() != before
    with pytest.raises(UsageError, match="height"):
        fits[0].explore(height=10)


def test_all_groups_of_a_fit_are_in_one_widget():
    found = sl.fit_law("paper", draws=10, starts=5)
    page = found.explore().page
    assert all(f'"title":"{title}"' in page for title in found)
    with pytest.raises(UsageError, match="at least one fit"):
        explorer_data([])
