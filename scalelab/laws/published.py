"""Published constants of laws, by name, to plan with before there are runs of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scalelab.laws.base import Law
from scalelab.laws.library import CHINCHILLA


@dataclass(frozen=True)
class PublishedLaw:
    """A law with published constants. N is counted by `convention`, a name in `scalelab.conventions`."""

    law: Law
    params: tuple[float, ...]
    source: str
    convention: str = "total"


def _hoffmann(E: float, A: float, alpha: float, B: float, beta: float, source: str) -> PublishedLaw:
    """Return E + A/N^α + B/D^β with constants in Hoffmann's form, which are A^α and B^β of the laws here."""
    values: Mapping[str, float] = {"E": E, "A": A ** (1 / alpha), "alpha": alpha, "B": B ** (1 / beta), "beta": beta}
    return PublishedLaw(CHINCHILLA, tuple(values[name] for name in CHINCHILLA.names), source)


PUBLISHED: Mapping[str, PublishedLaw] = {
    "hoffmann": _hoffmann(
        1.69, 406.4, 0.34, 410.7, 0.28, "Hoffmann et al. 2022, arXiv 2203.15556, exponents as printed"
    ),
    "sardana": _hoffmann(
        1.69, 406.4, 0.336, 410.7, 0.283, "Hoffmann's law with the exponents of Sardana et al. 2024, arXiv 2401.00448"
    ),
    "besiroglu": _hoffmann(
        1.8172, 482.01, 0.3478, 2085.43, 0.3658, "Besiroglu et al. 2024, arXiv 2404.10102: Hoffmann's runs fitted again"
    ),
}
