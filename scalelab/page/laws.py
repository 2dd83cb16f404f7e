"""Laws as data for law.js: terms by kind, each with the indices of its parameters."""

from __future__ import annotations

from typing import Any

from scalelab.laws import Law
from scalelab.laws.forms import Broken, Experts, Farseer, Repeated, StartedExperts
from scalelab.laws.stream_terms import Diversity, LogGain, PeakGain, PowerGain, ReuseGain, StreamPower
from scalelab.laws.terms import Floor, Power, SumLaw
from scalelab.laws.tied import TiedLaw
from scalelab.laws.tuning import TuningLaw

# Terms that law.js evaluates. A subclass may compute something else, so types are compared exactly.
_TERMS = (
    *(Floor, Power, LogGain, PowerGain, PeakGain, ReuseGain, Diversity, StreamPower),
    *(Broken, Farseer, Repeated, Experts, StartedExperts),
)


def law_data(law: Law) -> dict[str, Any] | None:
    """Return name, variables and terms of a law; None for a law that law.js cannot evaluate: your own.

    Each term has its `kind`, the `values` (indices of its parameters among those of the law), and for powers the
    `variable`.
    """
    terms = _terms(law)
    return None if terms is None else {"name": law.name, "variables": list(law.variables), "terms": terms}


def _terms(law: Law) -> list[dict[str, Any]] | None:
    if type(law) is TiedLaw:
        inner = _terms(law.law)
        if inner is None:
            return None
        own = [law.names.index(law.ties.get(name, name)) for name in law.law.names]
        return [{**term, "values": [own[i] for i in term["values"]]} for term in inner]
    if type(law) is TuningLaw:
        return [{"kind": "TuningLaw", "values": list(range(len(law.parameters)))}]
    if type(law) is not SumLaw or any(type(term) not in _TERMS for term in law.terms):
        return None
    found, first = [], 0
    for term in law.terms:
        values = list(range(first, first + len(term.parameters)))
        first += len(values)
        named: dict[str, Any] = {"kind": type(term).__name__, "values": values}
        if isinstance(term, Power | Broken):
            named["variable"] = term.variable
        found.append(named)
    return found
