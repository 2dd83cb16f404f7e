"""The laws that scalelab knows by name.

N is the number of parameters, P of parallel streams, D of training tokens; losses are nats a token.
"""

from __future__ import annotations

from scalelab.laws.base import Variable
from scalelab.laws.terms import Diversity, Floor, LogGain, Power, PowerGain, StreamPower, SumLaw

_PARSCALE = "Chen et al. 2025, arXiv 2505.10475"
_CHINCHILLA = "Hoffmann et al. 2022, arXiv 2203.15556, equation 2"
_NP: tuple[Variable, ...] = ("N", "P")
_NDP: tuple[Variable, ...] = ("N", "D", "P")

PARALLEL = SumLaw("parallel", _NP, [Floor(), LogGain()], f"{_PARSCALE}, equation 5")
POWER = SumLaw("power", _NP, [Floor(), PowerGain()], "each doubling of P worth the same factor of N")
DIVERSITY = SumLaw("diversity", _NP, [Floor(), Diversity()], f"{_PARSCALE}, proposition 1")
ADDITIVE = SumLaw("additive", _NP, [Floor(), Power(), StreamPower()], "gain of P independent of N")
CHINCHILLA = SumLaw("chinchilla", ("N", "D"), [Floor(), Power(), Power("D", ("B", "beta"))], _CHINCHILLA)
JOINT = SumLaw("joint", _NDP, [Floor(), LogGain(), Power("D", ("B", "beta"))], f"{_PARSCALE}, with the D of Hoffmann")
JOINT_ADDITIVE = SumLaw(
    "joint-additive",
    _NDP,
    [Floor(), Power(), Power("D", ("B", "beta")), StreamPower("S")],
    "gain of P independent of N and D",
)

LAWS = {law.name: law for law in (PARALLEL, POWER, DIVERSITY, ADDITIVE, CHINCHILLA, JOINT, JOINT_ADDITIVE)}
