"""Targets of a design: a loss, a difference of losses, a parameter, or which law holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalelab.designs.posterior import Posterior
from scalelab.errors import UsageError
from scalelab.laws.base import VARIABLES, Array, Points
from scalelab.units import format_count, parse_count

Kind = Literal["loss", "difference", "parameter", "laws", "table"]
_VERSUS = re.compile(r"\s+(?:vs\.?|versus)\s+")
_POINT = re.compile(r"^\s*[A-Za-z]+\s*=")


@dataclass(frozen=True, eq=False)
class Target:
    """One target.

    Attributes:
        title: The target in words.
        kind: What it is.
        points: Points of a loss or table; the two points of a difference.
        parameter: Name of a parameter of laws.
    """

    title: str
    kind: Kind
    points: Points | None = None
    parameter: str = ""

    @property
    def unit(self) -> str:
        """Unit of the values."""
        return "nats/token" if self.kind in ("loss", "difference", "table") else "1"

    def values(self, known: Posterior) -> Array:
        """Return the value of each draw, [s, m]; NaN for draws of laws that do not have it."""
        if self.points is not None:
            losses = known.losses(self.points)
            return losses[:, :1] - losses[:, 1:] if self.kind == "difference" else losses
        if self.kind == "laws":
            number = known.number
            return np.stack([(number == i).astype(float) for i in range(len(known.laws))], axis=1)
        columns = []
        for one in known.laws:
            names = one.candidate.law.names
            has = self.parameter in names and self.parameter not in one.candidate.fix
            column = one.params[:, names.index(self.parameter)] if has else np.full(len(one.params), np.nan)
            columns.append(column)
        return np.concatenate(columns)[:, None]


def parse_target(text: str, parameters: Sequence[str]) -> Target:
    """Return the target of text such as ``N=7B,P=8``, ``N=7B,P=8 vs N=9B``, ``k`` or ``laws``; P is 1 if left out.

    Args:
        text: The text.
        parameters: Names of the parameters of the laws.

    Raises:
        UsageError: The text is no target.
    """
    word = text.strip()
    if word == "laws":
        return Target("which law holds", "laws")
    if word in parameters:
        return Target(word, "parameter", parameter=word)
    if not _POINT.match(word):
        raise UsageError(
            f"{text!r} is not a target: give a point such as N=7B,P=8, two as 'N=7B,P=8 vs N=9B', a parameter "
            f"({', '.join(parameters)}), or laws",
            argument="target",
        )
    parts = [_point(part) for part in _VERSUS.split(word)]
    if len(parts) > 2:
        raise UsageError(f"{text!r}: compare two points", argument="target")
    title = " against ".join(_words(part) for part in parts)
    names = {name for part in parts for name in part}
    if len(parts) == 2 and ({*parts[0]} ^ {*parts[1]}) - {"P"}:
        raise UsageError(f"{text!r}: both points need the same variables", argument="target")
    columns = {
        n: np.array([part.get(n, 1.0 if n == "P" else np.nan) for part in parts]) for n in (*names, "N", "P", "D")
    }
    return Target(
        title if len(parts) == 2 else f"loss at {title}",
        "difference" if len(parts) == 2 else "loss",
        Points(columns.pop("N"), columns.pop("P"), columns.pop("D"), others=columns),
    )


def table_target(points: Points) -> Target:
    """Return the target of all losses of a table."""
    return Target(f"{len(points.N)} losses", "table", points)


def check_known(target: Target, variables: Sequence[str]) -> None:
    """Raise `UsageError` if a point of the target lacks one of the variables that the runs vary."""
    if target.points is None:
        return
    for name in variables:
        value = {"N": target.points.N, "P": target.points.P, "D": target.points.D, **target.points.others}.get(name)
        if value is None or np.isnan(value).any():
            raise UsageError(f"{target.title}: give {name} too, which varies among the runs", argument="target")


def _point(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in text.split(","):
        name, sign, value = (part.strip() for part in word.partition("="))
        if not sign or name not in VARIABLES:
            raise UsageError(f"{text!r}: give {', '.join(VARIABLES)} as NAME=VALUE", argument="target")
        if name in found:
            raise UsageError(f"{text!r}: {name} is given twice", argument="target")
        try:
            found[name] = parse_count(value)
        except UsageError as error:
            raise UsageError(f"{text!r}: {error.reason}", argument="target") from None
    return found


def _words(part: dict[str, float]) -> str:
    return ", ".join(f"{name} = {format_count(value)}" for name, value in part.items())
