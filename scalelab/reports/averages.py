"""Sentences on the laws that the data of a fit support, and on averages over laws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scalelab.fit.mixture import MixtureLaw
from scalelab.fit.verdict import CLEAR
from scalelab.reports.blocks import Line
from scalelab.units import format_percent

if TYPE_CHECKING:
    from scalelab.fit.mixture import LawWeight
    from scalelab.fit.result import FitResult


def support_lines(fit: FitResult) -> Iterator[Line]:
    """Yield which laws the runs support and by how much, and what predictions average over; nothing for a law alone."""
    if not fit.laws:
        return
    own, *others = fit.laws
    if own.delta is None:
        yield Line(f"No other law was weighed: {own.reason}. Predictions and plans are by the {own.label} law alone.")
        return
    rivals = [entry for entry in others if entry.delta is not None]
    if not rivals:
        yield Line("No other law suits these runs, so predictions and plans are by this law alone.")
        return
    yield Line(f"{_verdict(own, rivals)} {_answered(fit.laws)}")


def _verdict(own: LawWeight, rivals: list[LawWeight]) -> str:
    """Return which laws AICc supports, and how far the law of the fit or the next law is behind."""
    close = sorted(
        (entry for entry in (own, *rivals) if entry.delta is not None and entry.delta < CLEAR),
        key=lambda entry: entry.delta or 0.0,
    )
    names = _listed([entry.label for entry in close])
    if own.delta is not None and own.delta >= CLEAR:
        return f"These data support {names}: the AICc of the {own.label} law is {own.delta:.1f} higher."
    if len(close) > 1:
        return f"These data do not separate {names}: their AICc differ by less than {CLEAR:g}."
    following = min(rivals, key=lambda entry: entry.delta or 0.0)
    return (
        f"These data support the {own.label} law: the AICc of the next, {following.label}, is {following.delta:.1f} "
        "higher."
    )


def _answered(laws: tuple[LawWeight, ...], who: str = "Predictions and plans") -> str:
    """Return the laws that predictions and plans average over, and those that failed a check."""
    used = sorted((entry for entry in laws if entry.weight > 0), key=lambda entry: -entry.weight)
    words = " + ".join(f"{format_percent(entry.weight)} {entry.label}" for entry in used)
    average = f"average over {words}" if len(used) > 1 else f"are by {used[0].label} alone"
    failed = [
        f"{entry.label} is left out: {entry.reason}"
        for entry in laws
        if not entry.weight and entry.delta is not None and entry.delta < CLEAR
    ]
    without = f" ({'; '.join(failed)})" if failed else ""
    return f"{who} {average}{without}."


def alone_note(fit: FitResult) -> str:
    """Return a sentence for a page that shows one law, if predictions would be by others too; else nothing."""
    used = [entry for entry in fit.laws if entry.weight > 0]
    if not used or used == [fit.laws[0]]:
        return ""
    return f"This page shows the {fit.law.name} law alone. {_answered(fit.laws, 'The commands predict and plan')}"


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{' and '.join(names)}" if len(names) == 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def equation_lines(fit: FitResult, one: Line) -> Iterator[Line]:
    """Yield the equation of each law of an average with its weight; `one` for a fit of one law."""
    if not isinstance(fit.law, MixtureLaw):
        yield one
        return
    mixed = fit.law
    for label, weight, equation in zip(mixed.labels, mixed.weights, mixed.equations(7), strict=True):
        yield Line(f"{format_percent(weight)} {label}: {equation}", equation=True)


def laws_json(fit: FitResult) -> list[dict[str, Any]] | None:
    """Return the laws of an average with their weights; None for a fit of one law."""
    if not isinstance(fit.law, MixtureLaw):
        return None
    return [{"law": label, "weight": weight} for label, weight in zip(fit.law.labels, fit.law.weights, strict=True)]


def support_json(fit: FitResult) -> list[dict[str, Any]]:
    """Return every law that was weighed, with its AICc above the best, its weight and the reason if it is left out."""
    names = ("label", "law", "delta", "weight", "reason")
    return [{name: getattr(entry, name) for name in names} for entry in fit.laws]
