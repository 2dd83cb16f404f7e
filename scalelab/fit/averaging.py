"""Weights of the plausible laws of a fit's runs, and fits of those that matter, for averages over laws.

Weights are Akaike weights of the AICc of `scalelab.fit.select`: for the same rows, and the same losses for all laws. A
law takes part if its fit converged and the runs determine its parameters (a floor may be zero). Weights below `LEAST`
are left out. Each law has bootstrap draws in proportion to its weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit.bootstrap import Report, bootstrap
from scalelab.fit.core import fit_optimum, status_of
from scalelab.fit.descent import STEPS
from scalelab.fit.influence import condition_number, covariance, natural_covariance
from scalelab.fit.mixture import LawWeight
from scalelab.fit.notes import data_notes
from scalelab.fit.optimum_notes import interval_notes, optimum_notes, undetermined, verdict_notes
from scalelab.fit.options import build_objective
from scalelab.fit.result import FitResult
from scalelab.fit.select import CandidateLaw, LawScore, candidates, weigh_laws
from scalelab.fit.solver import inside_bounds
from scalelab.fit.verdict import ENOUGH
from scalelab.laws import LAWS
from scalelab.units import format_percent

LEAST = 0.01  # weight below which a law is left out of an average
LEAST_DRAWS = 200  # of a law in an average, so that its own intervals mean something
_STARTS, _STEPS = 30, 100  # tried first for a law besides the first
_USABLE = ("converged", "at_bound")  # of a law at its bound only a floor may be there

# Codes of the notes on the runs, which are the same for every law.
_ABOUT_RUNS = {
    *("unfinished", "repeats", "copies", "seed_noise", "streams_in_N", "points", "best", "tuning", "mixed_runs"),
    *("unit_loss", "unit_N", "unit_D", "fixed_ratio"),
}

Scored = tuple[CandidateLaw, LawScore]


def with_laws(fit: FitResult, report: Report | None = None) -> FitResult:
    """Return `fit` with the plausible laws of its runs and their weights.

    If laws cannot be compared, `laws` holds the law of the fit alone, and the reason.
    """
    if fit.failure:
        return _not_compared(fit, "this fit must not be used")
    try:
        scored = weigh_laws(fit.data, fit.group, fit.options, () if fit.law.name in LAWS else (fit.law,))
    except ScalelabError as error:
        return _not_compared(fit, str(error))
    mine = next((candidate for candidate, _ in scored if _is_law_of(fit, candidate)), None)
    if mine is not None:
        return replace(fit, laws=_weighed(fit, mine, scored, report))
    if any(_is_law_of(fit, candidate) for candidate in candidates(fit.data)):
        return _not_compared(fit, f"{fit.data.n_configs} runs are fewer than {ENOUGH:g} per parameter")
    return _not_compared(fit, f"the {fit.law.name} law does not depend on everything that these runs vary")


def _not_compared(fit: FitResult, reason: str) -> FitResult:
    return replace(fit, laws=(LawWeight(fit.law.name, fit.law.name, None, 1.0, reason),))


def akaike_weights(deltas: Sequence[float]) -> list[float]:
    """Return weights that add up to 1, proportional to exp(−Δ/2) for differences Δ of AICc."""
    relative = np.exp(-(np.array(deltas) - min(deltas)) / 2)
    return (relative / relative.sum()).tolist()


def scaled(weights: Mapping[str, float], failed: Collection[str]) -> dict[str, float]:
    """Return the weights by label without those that `failed`, scaled to add up to 1."""
    left = {label: weight for label, weight in weights.items() if label not in failed}
    return {label: weight / sum(left.values()) for label, weight in left.items()}


def _weighed(
    fit: FitResult, mine: CandidateLaw, scored: Sequence[Scored], report: Report | None
) -> tuple[LawWeight, ...]:
    """Return the laws with their weights, that of the fit first, the others best first."""
    weights = akaike_weights([score.delta for _, score in scored])
    plausible = {c.label: w for (c, _), w in zip(scored, weights, strict=True) if w >= LEAST}
    fits: dict[str, FitResult] = {}
    problem = problem_of(fit, fit)
    reasons = {mine.label: problem} if problem else {}
    while True:  # a law that fails its checks leaves its weight to the other plausible ones
        shares = scaled(plausible, reasons)
        for candidate, _ in scored:
            label = candidate.label
            if label not in shares or candidate is mine:
                continue
            draws = min(fit.options.draws, max(LEAST_DRAWS, round(shares[label] * fit.options.draws)))
            if label not in fits or fits[label].options.draws < draws:
                found = _fit(fit, candidate, draws, report)
                if isinstance(found, str):
                    reasons[label] = found
                    break
                fits[label] = found
        else:
            break
    if not shares:
        shares = {mine.label: 1.0}
    small = f"its weight is below {format_percent(LEAST)}"
    ordered = sorted(scored, key=lambda pair: pair[0] is not mine)
    return tuple(
        LawWeight(
            c.label,
            c.law.name,
            score.delta,
            shares.get(c.label, 0.0),
            reasons.get(c.label) or ("" if c.label in shares else small),
            fits[c.label] if c.label in shares and c is not mine else None,
        )
        for c, score in ordered
    )


def _fit(fit: FitResult, candidate: CandidateLaw, draws: int, report: Report | None) -> FitResult | str:
    """Return the fit of a candidate to the rows of `fit` with its options, or the check that it fails."""
    law, data = candidate.law, fit.data
    options = replace(
        fit.options, fix=dict(candidate.fix), bounds={}, tie={}, draws=draws, starts=min(_STARTS, fit.options.starts)
    )
    for steps in (_STEPS, STEPS):
        try:
            objective, optimum = fit_optimum(law, data, options, steps)
        except ScalelabError as error:
            return str(error)
        condition = condition_number(objective, data, optimum.z)
        local = covariance(objective, data, optimum.z)
        errors = np.sqrt(np.diag(local))
        status = status_of(objective, optimum, condition, errors)
        if status in _USABLE:
            break
    else:
        return _unconverged(status)
    sample = bootstrap(objective, data, optimum.z, options.bootstrap, draws, options.seed, errors, report)
    sample = sample[np.isfinite(sample).all(axis=1)]
    params = objective.to_params(optimum.z)
    with np.errstate(all="ignore"):  # a parameter fixed at 0 has a logarithm of -∞
        fitted = law.loss(params, data.points)
    mean = np.average(data.loss, weights=data.weight)
    squares = (data.weight @ (data.loss - fitted) ** 2, data.weight @ (data.loss - mean) ** 2)
    r_squared = float(1 - squares[0] / squares[1])
    own = (
        *data_notes(objective, data),
        *optimum_notes(objective, optimum, status, condition),
        *interval_notes(objective, sample, float(data.loss.min())),
        *verdict_notes(objective, status, r_squared, sample),
    )
    found = replace(
        fit,
        law=law,
        options=options,
        status=status,
        params=tuple(params.tolist()),
        fixed=tuple(objective.fixed),
        objective=optimum.value,
        r_squared=r_squared,
        agreement=optimum.agreement,
        start_spread=optimum.start_spread,
        log_residuals=tuple(np.log(fitted / data.loss).tolist()),
        covariance=tuple(map(tuple, natural_covariance(objective, optimum.z, local).tolist())),
        draws=tuple(map(tuple, sample.tolist())),
        notes=(*(note for note in fit.notes if note.code in _ABOUT_RUNS), *own),
        laws=(),
    )
    return problem_of(found, fit) or found


def problem_of(found: FitResult, fit: FitResult) -> str:
    """Return why a fit of the rows of `fit` must not be averaged, or an empty string.

    A loss floor at its bound, zero, is a law without a floor. Any other parameter at a bound is not determined, and
    neither is one whose interval covers nearly the whole range between its bounds.
    """
    if found.status not in _USABLE:
        return _unconverged(found.status)
    if found.failure:
        return found.failure
    if fit.options.draws and not found.draws:
        return "it has no intervals"
    objective = build_objective(found.law, found.data, found.options)
    ends = inside_bounds(objective, objective.from_params(np.array(found.params)))
    open_ = undetermined(objective, np.array(found.draws).reshape(-1, len(found.params)))
    open_ += [name for name, inside in zip(objective.free_names, ends, strict=True) if not inside and name not in open_]
    floors = {p.name for p in found.law.parameters if p.positive and p.relative_to == "loss"}
    named = [name for name in open_ if name not in floors]
    return f"these runs do not determine its {' and '.join(named)}" if named else ""


def _unconverged(status: str) -> str:
    return {
        "degenerate": "these runs do not determine its parameters",
    }.get(status, "its fit does not converge")


def _is_law_of(fit: FitResult, candidate: CandidateLaw) -> bool:
    """Return true if `candidate` is the law of the fit, with the same parameters held."""
    return candidate.law.name == fit.law.name and {*candidate.fix} == {*fit.fixed}
