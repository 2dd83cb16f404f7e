"""The built-in laws, by name.

N is the number of parameters, P of parallel streams, D of training tokens; losses are in nats per token.
"""

from __future__ import annotations

from scalelab.laws.base import Variable
from scalelab.laws.forms import Broken, Experts, Farseer, Repeated, StartedExperts
from scalelab.laws.stream_terms import Diversity, LogGain, PeakGain, PowerGain, ReuseGain, StreamPower
from scalelab.laws.terms import Floor, Power, SumLaw
from scalelab.laws.tuning import TuningLaw

_PARSCALE = "Chen et al. 2025, arXiv 2505.10475"
_CHINCHILLA = "Hoffmann et al. 2022, arXiv 2203.15556, equation 2"
_NP: tuple[Variable, ...] = ("N", "P")
_NDP: tuple[Variable, ...] = ("N", "D", "P")

PARALLEL = SumLaw("parallel", _NP, [Floor(), LogGain()], f"{_PARSCALE}, equation 5")
POWER = SumLaw("power", _NP, [Floor(), PowerGain()], "each doubling of P equals the same factor of N")
DIVERSITY = SumLaw("diversity", _NP, [Floor(), Diversity()], f"{_PARSCALE}, proposition 1")
PEAKED = SumLaw("peaked", _NP, [Floor(), PeakGain()], "a gain of P with an optimum, from this project's sweeps")
# With c = 1/2 it was first found by an agent on SLDBench, arXiv 2507.21184.
ADDITIVE = SumLaw(
    "additive",
    _NP,
    [Floor(), Power(), StreamPower()],
    "gain of P independent of N; with c = 1/2 first found on SLDBench, arXiv 2507.21184",
)
CHINCHILLA = SumLaw("chinchilla", ("N", "D"), [Floor(), Power(), Power("D", ("B", "beta"))], _CHINCHILLA)
JOINT = SumLaw("joint", _NDP, [Floor(), LogGain(), Power("D", ("B", "beta"))], f"{_PARSCALE}, and Hoffmann's term in D")
JOINT_ADDITIVE = SumLaw(
    "joint-additive",
    _NDP,
    [Floor(), Power(), Power("D", ("B", "beta")), StreamPower("S")],
    "gain of P independent of N and D",
)

JOINT_POWER = SumLaw(
    "joint-power",
    _NDP,
    [Floor(), PowerGain(), Power("D", ("B", "beta"))],
    "Hoffmann's term in D, and streams as a power of P, as reuse exponents are measured (arXiv 2604.21106)",
)
COMPUTE = SumLaw("compute", ("C",), [Floor(), Power("C", ("C0", "alpha"))], "Kaplan et al. 2020, arXiv 2001.08361")
PARAMS = SumLaw("params", ("N",), [Floor(), Power()], "Kaplan et al. 2020, arXiv 2001.08361, with a floor")
TOKENS = SumLaw("tokens", ("D",), [Floor(), Power("D", ("B", "beta"))], "Hestness et al. 2017, arXiv 1712.00409")
_BNSL = "Caballero et al. 2023, arXiv 2210.14891, one break"
BROKEN_COMPUTE = SumLaw("broken-compute", ("C",), [Floor(), Broken("C")], _BNSL)
BROKEN_PARAMS = SumLaw("broken-params", ("N",), [Floor(), Broken("N")], _BNSL)
BROKEN_TOKENS = SumLaw("broken-tokens", ("D",), [Floor(), Broken("D")], _BNSL)
FARSEER = SumLaw("farseer", ("N", "D"), [Farseer()], "Li et al. 2025, arXiv 2506.10972")
DATA_CONSTRAINED = SumLaw(
    "data-constrained", ("N", "D", "U"), [Floor(), Repeated()], "Muennighoff et al. 2023, arXiv 2305.16264"
)
EXPERTS = SumLaw("experts", ("N", "X"), [Floor(), Experts()], "Clark et al. 2022, arXiv 2202.01169, with a floor")
EXPERTS_STARTED = SumLaw(
    "experts-started",
    ("N", "X"),
    [Floor(), StartedExperts()],
    "after Clark et al. 2022, arXiv 2202.01169: their saturated number of experts, from its start",
)
LOOPS = SumLaw(
    "loops",
    ("N", "P", "R"),
    [Floor(), ReuseGain()],
    "streams and passes through the same layers, with an exponent each, as measured for passes in arXiv 2604.21106",
)
LR_BATCH = TuningLaw()

LAWS = {
    law.name: law
    for law in (
        *(PARALLEL, POWER, PEAKED, DIVERSITY, ADDITIVE, CHINCHILLA, FARSEER, JOINT, JOINT_POWER, JOINT_ADDITIVE),
        *(COMPUTE, PARAMS, TOKENS, BROKEN_COMPUTE, BROKEN_PARAMS, BROKEN_TOKENS),
        *(DATA_CONSTRAINED, EXPERTS, EXPERTS_STARTED, LOOPS, LR_BATCH),
    )
}
