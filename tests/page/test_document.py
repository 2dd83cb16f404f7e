"""One HTML file: everything inline, nothing fetched, and no text that becomes markup."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from scalelab.page import Section, document
from scalelab.page.document import asset, is_ours
from scalelab.page.equation import fitted, mathml, symbolic
from scalelab.page.report import SCRIPTS
from scalelab.plot.style import colours
from tests.page.reading import data_of, parsed


def test_text_of_the_title_and_of_the_data_stays_text(tmp_path):
    hostile = "</script><script>alert(1)</script><!-- \u2028"
    path = tmp_path / "page.html"
    path.write_text(document(hostile, [Section("a", "A & B", "<p>x</p>")], {"name": hostile}, ["chart.js"]))
    page = parsed(path)
    assert [tag for tag, _ in page.tags].count("script") == 2  # the data and chart.js
    assert "</script><script>alert(1)</script>" in page.text
    assert data_of(path) == {"name": hostile}


def test_only_the_scripts_of_the_package_may_run_and_nothing_may_be_fetched(tmp_path):
    text = document("t", [], {}, ["chart.js", "page.js"])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert rules["default-src"] == rules["connect-src"] == "'none'"
    assert "'self'" in document("t", [], {}, [], live=True)


def test_data_must_be_json():
    with pytest.raises(ValueError, match="JSON"):
        document("t", [], {"x": float("nan")}, [])


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_stand_inside_an_element(name):
    assert "use strict" in asset(name) or name.startswith("vendor/")
    assert "innerHTML" not in asset(name) or name.startswith("vendor/")


def test_pages_of_ours_are_known_by_their_head(tmp_path):
    ours, other = tmp_path / "a.html", tmp_path / "b.html"
    ours.write_text(document("t", [], {}, []))
    other.write_text("<html><body>mine</body></html>")
    assert is_ours(ours)
    assert not is_ours(other)


def test_colours_are_those_of_the_figures():
    """In the light theme; the dark one is lighter."""
    style = asset("page.css").split('[data-theme="dark"]')[0]
    found = re.findall(r"--series-\d: (#[0-9a-f]{6})", style)
    assert found == [colour.lower() for colour in colours(range(7)).values()]


def test_every_law_is_typeset():
    from scalelab.laws import LAWS

    for law in LAWS.values():
        assert symbolic(law).startswith('<math display="block">'), law.name
    values = {"E": 0.69, "A": 1.13e7, "k": -0.39, "alpha": 0.19}
    shown = fitted(LAWS["parallel"], values)
    for number in ("0.69", "1.13", "0.39", "0.19"):
        assert f"<mn>{number}</mn>" in shown
    assert "<mi>E</mi>" not in shown
    assert fitted(LAWS["farseer"], dict.fromkeys(LAWS["farseer"].names, 1.0)) == ""  # its LaTeX hides the parameters


@pytest.mark.parametrize(
    "latex", [r"\href{javascript:alert(1)}{x}", r"\text{<script>}", r"\frac{", r"\class{a}{b}", "x" * 5000]
)
def test_latex_of_a_law_of_ones_own_draws_or_is_left_out(latex):
    made = mathml(latex)
    assert "script" not in made.replace("&lt;script&gt;", "")
    assert "href" not in made
    assert not made or made.startswith("<math")
