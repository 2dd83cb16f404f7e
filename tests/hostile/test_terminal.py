"""Names from files never act on a terminal or a page."""

import math
import re

import pytest

from scalelab import read
from scalelab.api.fitting import fit_law
from scalelab.reports.blocks import Line, Table
from scalelab.visible import visible

EVIL = "evil\x1b[31m\x1b]0;title\x07\u202eabc\x9b2J\u2028end"
SAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def table(tmp_path):
    rows = [
        f'{n:.0f},{p},{0.7 + (1.1e7 / (n * (0.4 * math.log(p) + 1))) ** 0.2 + 1e-4 * math.sin(7 * n + p):.6f},"{EVIL}"'
        for n in (1e8, 2e8, 4e8, 8e8, 1.6e9)
        for p in (1, 2, 4, 8)
    ]
    file = tmp_path / "table.csv"
    file.write_text("\n".join(["n_params,n_streams,loss,corpus", *rows]), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "TABLE", "--map", "corpus=corpus", "--draws", 100, "--no-figure"],
        ["fit", "TABLE", "--map", "corpus=corpus", "--law", "all"],
        ["results", "TABLE", "--columns", "corpus", "N"],
        ["fit", f"{EVIL}.csv"],
        ["fit", "TABLE", "--map", f"corpus={EVIL}"],
        ["results", "TABLE", "--columns", EVIL],
        ["predict", f"{EVIL}.json", "--N", "1B"],
        ["cost", "--gpu", EVIL],
        ["sweep", f"{EVIL}.yaml"],
    ],
    ids=lambda words: " ".join(map(str, words[:3])).encode("ascii", "replace").decode()[:40],
)
def test_the_terminal_gets_no_escapes(scalelab, table, words):
    code, text, error = scalelab(*(table if word == "TABLE" else word for word in words))
    assert code in (0, 1, 2)
    assert not SAFE.search(text + error)
    assert "\N{REPLACEMENT CHARACTER}" in text + error or "evil" not in text + error


def test_a_page_gets_none_either(table):
    html = fit_law(read(table, columns={"corpus": "corpus"}), bootstrap=0)._repr_html_()
    assert not SAFE.search(html)


def test_lines_and_cells_are_made_safe_and_plain_text_stays():
    made = Table(f"title {EVIL}", ["<name", "N"])
    made.add(EVIL, "two\nlines")
    assert not SAFE.search(made.title + "".join(made.rows[0]))
    assert "\n" not in made.rows[0][1]
    assert not SAFE.search(Line(EVIL).text)
    plain = "L = E + (A/N)^α, 4.75B (4.50B–4.90B)\n日本語\tمرحبا"
    assert visible(plain) == plain
