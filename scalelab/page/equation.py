"""Equations of laws as MathML, which browsers draw without a script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from scalelab.laws.base import Law
from scalelab.units import format_number

_TOKEN = re.compile(r"\\[A-Za-z]+|[A-Za-z](?:_(?:[A-Za-z0-9]|\{[^{}]*\}))?")
_GREEK = {"alpha", "beta", "gamma", "delta", "rho", "kappa", "lambda", "eta", "theta", "mu", "sigma"}
# Elements and attributes that only draw: a law of a user's own may hold any LaTeX, such as \href.
_ELEMENTS = {
    *("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "mstyle", "mpadded"),
    *("msub", "msup", "msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mfenced"),
}
_ATTRIBUTES = {"display", "stretchy", "fence", "form", "minsize", "maxsize", "linethickness", "mathvariant", "width"}
_FUNCTIONS = ("ln", "log", "exp", "min", "max")


def symbolic(law: Law) -> str:
    """Return the law with the names of its parameters as MathML; empty if it has no LaTeX that can be drawn."""
    return mathml(law.latex) if law.latex else ""


def fitted(law: Law, values: Mapping[str, float], digits: int = 4) -> str:
    """Return the law with its constants as MathML; empty if its LaTeX does not show each parameter."""
    wanted = {_symbol(name): name for name in law.names}
    head, equals, body = law.latex.partition(" = ")
    found: set[str] = set()
    previous = -1  # end of the last number: two side by side would read as one

    def constant(match: re.Match[str]) -> str:
        nonlocal previous
        name = wanted.get(match[0])
        if name is None:
            return match[0]
        found.add(name)
        dot = r"\cdot " if previous == match.start() else ""
        previous = match.end()
        return f"{dot}{{{_number(values[name], digits)}}}"

    text = _TOKEN.sub(constant, body)
    return mathml(head + equals + text) if found == {*law.names} else ""


def mathml(latex: str) -> str:
    """Return MathML of a LaTeX formula; empty if it cannot be converted."""
    from latex2mathml.converter import convert

    try:
        root = ElementTree.fromstring(convert(latex, display="block"))  # nosec B314  # XML that was just made here
    except Exception:  # the formula may be a user's own, and the converter may raise anything
        return ""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if element.tag not in _ELEMENTS:
            return ""
        for name in [name for name in element.attrib if name not in _ATTRIBUTES]:
            del element.attrib[name]
        if element.tag == "mi" and element.text in _FUNCTIONS:  # an operator has space around it
            element.tag, element.attrib = "mo", {"lspace": "0.17em", "rspace": "0.17em"}
    for row in [*root.iter("mrow")]:
        if next(row.iter("mfrac"), None) is not None:
            _grow_brackets(row)
    return ElementTree.tostring(root, encoding="unicode")


def _grow_brackets(row: ElementTree.Element) -> None:
    """Write the brackets around a fraction larger: they would grow by themselves only in a font for mathematics."""
    for i, child in enumerate(row):
        if child.tag == "mo" and child.get("fence") == "true":
            child.attrib = {"stretchy": "false", "mathsize": "185%", "lspace": "0", "rspace": "0"}
            padded = ElementTree.Element("mpadded", {"voffset": "-0.3em"})
            padded.append(child)
            row[i] = padded


def _symbol(name: str) -> str:
    if name in _GREEK:
        return f"\\{name}"
    match = re.fullmatch(r"([A-Za-z])_?([A-Za-z0-9])", name)
    return f"{match[1]}_{match[2]}" if match else name


def _number(value: float, digits: int) -> str:
    mantissa, _, exponent = format_number(value, digits).partition("e")
    text = rf"{mantissa}\times 10^{{{exponent}}}" if exponent else mantissa
    return rf"\left({{{text}}}\right)" if value < 0 else text
