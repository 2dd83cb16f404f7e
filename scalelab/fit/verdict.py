"""The verdict of a comparison of laws, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scalelab.laws.base import Variable
from scalelab.units import format_count, format_number

if TYPE_CHECKING:
    from scalelab.fit.select import LawScore

CLEAR = 4.0  # difference of AICc that decides: a likelihood ratio of about 7 (Burnham & Anderson 2002, section 2.6)
ENOUGH = 3.0  # runs per fitted parameter that a supported law needs


def verdict(rows: Sequence[LawScore], left_out: Mapping[Variable, float], few: bool) -> str:
    """Return the laws that AICc supports, and whether the hold-outs agree; `few` if other laws lack runs."""
    best = rows[0]
    if len(rows) == 1:
        return f"Only {best.label} {'has enough runs' if few else 'can be fitted to these runs'}."
    if not np.isfinite(best.aicc):
        return "There are too few runs to compare laws."
    close = [row for row in rows if row.delta < CLEAR]
    others = [row for row in rows if row.delta >= CLEAR]
    names = _listed([row.label for row in close])
    if len(close) == 1:
        text = f"{names} is best supported"
    elif len({row.law for row in close}) == 1:
        text = f"{best.law} is best supported; these runs do not distinguish its forms ({names})"
    else:
        text = f"{names} are not distinguishable: their AICc differ by less than {CLEAR:g}"
    if others:
        text += f"; the best other law, {others[0].label}, has an AICc {others[0].delta:.1f} higher"
    else:
        text += "; these runs rule out no law"
    return " ".join([f"{text}.", *_held_out_sentences(rows, {row.label for row in close}, left_out)])


def support(few: Mapping[str, int], supported: bool, runs: int) -> list[str]:
    """Return a sentence on laws that were not compared for lack of runs, or that no law has enough; else none."""
    if not supported:
        return [
            f"{runs} runs are fewer than {ENOUGH:g} per parameter of every law, so this comparison is not conclusive."
        ]
    if not few:
        return []
    names = _listed([f"{label} ({count} parameters)" for label, count in few.items()])
    are = "is" if len(few) == 1 else "are"
    return [f"{names} {are} not compared: {runs} runs are fewer than {ENOUGH:g} per parameter."]


def _held_out_sentences(rows: Sequence[LawScore], close: set[str], left_out: Mapping[Variable, float]) -> list[str]:
    """Return a sentence on each hold-out: which law predicts it best, and whether that agrees with AICc."""
    sentences = []
    for name, value in left_out.items():
        known = [(error, row.label) for row in rows if (error := row.held_out[name]) is not None]
        if len(known) < 2:
            continue
        error, winner = min(known)
        agrees = winner in close
        against = [pair for pair in known if (pair[1] in close) != agrees]
        text = f"The held-out runs with the largest {name} ({shown(name, value)}) are predicted best by {winner} "
        text += f"(RMSE {error:.2g}"
        text += f", against {min(against)[0]:.2g} by {min(against)[1]})" if against else ")"
        sentences.append(text + ("." if agrees else ", which disagrees."))
    return sentences


def shown(variable: Variable, value: float) -> str:
    """Return a value of a variable as text: compute in scientific notation, others as counts."""
    return format_number(value, 3) if variable == "C" else format_count(value)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
