"""Equations on narrow terminals: every law, at several widths."""

import pytest

from scalelab.laws import LAWS
from scalelab.reports.blocks import Line, Report
from scalelab.reports.terminal import broken_equation

WORDS = "   (N: non-embedding parameters with streams; D: tokens seen in training, repeated ones too; lr: peak rate)"


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_an_equation_is_broken_before_operators(law, width):
    equation = law.equation({name: 0.1234567 * (i + 1) for i, name in enumerate(law.names)}, 7)
    for text in (equation, equation + WORDS):
        lines = list(broken_equation(text, width))
        assert all(len(line) <= width for line in lines)
        assert "".join(" ".join(lines).split()) == "".join(text.split())  # nothing is lost
    continued = [line.strip() for line in broken_equation(equation, width)][1:]
    assert all(line[0] in "+-·" for line in continued if law.name != "data-constrained")  # which has commas, too


def test_a_short_equation_stays_on_its_line():
    assert list(broken_equation("L = 1 + (2 / N)^0.3   (N: parameters)", 80)) == [
        "L = 1 + (2 / N)^0.3   (N: parameters)"
    ]


def test_sums_are_broken_before_products_and_what_brackets_hold():
    text = "L = 0.69 + (1130707000 / N)^0.1893577·(1 + (N / 61728350000)^(1 / 0.74))^0.4 + 0.7407402·P^-0.8641969"
    assert list(broken_equation(text, 80)) == [
        "L = 0.69 + (1130707000 / N)^0.1893577·(1 + (N / 61728350000)^(1 / 0.74))^0.4",
        "    + 0.7407402·P^-0.8641969",
    ]
    report = Report.of([Line(text, equation=True)])
    assert report.text(80).splitlines() == list(broken_equation(text, 80))
    assert report.text(200).splitlines() == [text]
