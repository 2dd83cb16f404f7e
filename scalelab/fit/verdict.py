"""A comparison of laws in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scalelab.laws.base import Variable
from scalelab.units import format_count, format_number

if TYPE_CHECKING:
    from scalelab.fit.select import Row

CLEAR = 4.0  # AICc that a law must lead by: a likelihood ratio of about 7 (Burnham & Anderson 2002, section 2.6)
ENOUGH = 3.0  # runs for each fitted parameter of a law that may be chosen


def verdict(rows: Sequence[Row], left_out: Mapping[Variable, float], few: bool) -> str:
    """Say which laws the criteria support, and whether what was left out agrees. `few`: others lack runs."""
    best = rows[0]
    if len(rows) == 1:
        return f"Only {best.label} {'has enough runs' if few else 'can be fitted to these runs'}."
    if not np.isfinite(best.aicc):
        return "Too few runs to compare laws: not distinguishable."
    close = [row for row in rows if row.delta < CLEAR]
    others = [row for row in rows if row.delta >= CLEAR]
    names = _listed([row.label for row in close])
    if len(close) == 1:
        said = f"{names} is best supported"
    elif len({row.law for row in close}) == 1:
        said = f"{best.law} is best supported; between its forms ({names}) these runs do not decide"
    else:
        said = f"{names} are not distinguishable: their AICc lie within {CLEAR:g} of one another"
    if others:
        said += f"; the best of the other laws, {others[0].label}, has an AICc {others[0].delta:.1f} higher"
    else:
        said += "; these runs rule no law out"
    return " ".join([f"{said}.", *_held_out_sentences(rows, {row.label for row in close}, left_out)])


def support(few: Mapping[str, int], supported: bool, runs: int) -> list[str]:
    """Say which laws were not compared for want of runs, or that no law has enough."""
    if not supported:
        return [f"{runs} runs are fewer than {ENOUGH:g} for each parameter of any law: take none of this as settled."]
    if not few:
        return []
    names = _listed([f"{label} ({count} parameters)" for label, count in few.items()])
    are = "is" if len(few) == 1 else "are"
    return [f"{names} {are} not supported by so few runs: {runs}, fewer than {ENOUGH:g} for each parameter."]


def _held_out_sentences(rows: Sequence[Row], close: set[str], left_out: Mapping[Variable, float]) -> list[str]:
    """Say whether the runs that were left out agree with the criteria."""
    sentences = []
    for name, value in left_out.items():
        known = [(error, row.label) for row in rows if (error := row.held_out[name]) is not None]
        if len(known) < 2:
            continue
        error, winner = min(known)
        agrees = winner in close
        against = [pair for pair in known if (pair[1] in close) != agrees]
        text = f"The runs of the largest {name} ({shown(name, value)}), left out, are predicted best by {winner} "
        text += f"(RMSE {error:.2g}"
        text += f", against {min(against)[0]:.2g} by {min(against)[1]})" if against else ")"
        sentences.append(text + ("." if agrees else ", which does not agree."))
    return sentences


def shown(variable: Variable, value: float) -> str:
    """A value of a variable: compute as a power of ten, others as counts."""
    return format_number(value, 3) if variable == "C" else format_count(value)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
