"""Notes on the result of the optimiser: the optimum, its dependence on single runs, intervals, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scalelab.fit.data import FitData
from scalelab.fit.notes import describe_run
from scalelab.fit.objective import Objective
from scalelab.fit.result import LEVEL, Note, Status, tails
from scalelab.fit.solver import Optimum
from scalelab.laws.base import Array

MIN_AGREEMENT = 0.05
PERFECT = 1e-20  # objective of rounding errors alone, whose gradient means nothing
MAX_CORRELATION = 0.95
MAX_SHIFT = 1.5  # standard errors that one run may move a parameter by
UNMOVED = 1e-6
MOST_OF_RANGE = 0.8  # share of the range between a parameter's bounds, in fitting coordinates
NOTHING = 1e-9  # an effect of P that is rounding error


def optimum_notes(objective: Objective, optimum: Optimum, status: Status, condition: float) -> Iterator[Note]:
    """Yield notes on where the optimiser ended."""
    lower, upper = objective.bounds()
    for i, name in enumerate(objective.free_names):
        if not lower[i] + 1e-6 < optimum.z[i] < upper[i] - 1e-6:
            index = objective.law.names.index(name)
            value = float(objective.to_params(optimum.z)[index])
            own = np.array(objective.law.parameters[index].bounds) * objective.scale[index]
            why = (
                "the data do not determine it"
                if np.isclose(value, own, rtol=1e-5).any()
                else "its optimum is beyond it; widen `bounds`"
            )
            yield Note("at_bound", "serious", f"{name} ended at its bound {value:.4g}: {why}", {"value": value})
    if optimum.agreement < MIN_AGREEMENT:
        yield Note(
            "starts_disagree",
            "serious",
            f"only {optimum.agreement:.1%} of the starts found this optimum: another may be better; use more `starts`",
            {"agreement": optimum.agreement},
        )
    if optimum.moved < UNMOVED:
        yield Note(
            "start_is_optimum",
            "warning",
            "the optimum is exactly one of the starting points: the optimiser may not have moved",
            {"moved": optimum.moved},
        )
    if status == "degenerate":
        yield Note(
            "degenerate",
            "serious",
            "a combination of parameters has no effect on these losses, so single values mean nothing; add runs "
            f"(condition number {condition:.1e}, spread of equal starts {optimum.start_spread:.1e} in logarithms)",
            {"condition": condition, "start_spread": optimum.start_spread},
        )
    if status == "failed":
        yield Note(
            "not_converged",
            "serious",
            f"the optimiser did not converge (scaled gradient {optimum.gradient_norm:.1e}); use more `starts`",
            {"gradient": optimum.gradient_norm},
        )


def dependence_notes(
    objective: Objective, data: FitData, local: Array, pull: tuple[int, str, float] | None
) -> Iterator[Note]:
    """Yield notes on correlated parameters and influential runs. `local` [f, f] is the covariance."""
    names = objective.free_names
    if "E" in names and "alpha" in names:
        i, j = names.index("E"), names.index("alpha")
        size = float(np.sqrt(local[i, i] * local[j, j]))
        correlation = float(local[i, j]) / size if size > 0 else 0.0
        if abs(correlation) > MAX_CORRELATION:
            yield Note(
                "E_alpha_tied",
                "info",
                f"E and α are correlated ({correlation:.3f}): another pair fits about as well, so neither means much "
                "alone; a wider range of N separates them",
                {"correlation": correlation},
            )
    if pull is not None and pull[2] > MAX_SHIFT:
        run, name, shift = pull
        yield Note(
            "leverage",
            "warning",
            f"without {describe_run(data, run)}, {name} moves by {shift:.1f} standard errors: repeat that run",
            {"run": run, "shift": shift},
        )


def interval_notes(objective: Objective, draws: Array, smallest_loss: float) -> Iterator[Note]:
    """Yield notes on the intervals of `draws` [b, k]; none without draws."""
    if not len(draws):
        return
    ends = {
        name: [float(v) for v in np.quantile(draws[:, objective.law.names.index(name)], tails(LEVEL))]
        for name in objective.free_names
    }
    effect = next((p for p in objective.law.parameters if p.needs == "P" and not p.positive and p.name in ends), None)
    if effect is not None:
        name, none = effect.name, effect.neutral
        low, high = (none if abs(end - none) < NOTHING else end for end in ends[name])
        figures, text = {"low": low, "high": high}, f"[{low:.3g}, {high:.3g}]"
        worse = low > none if name == "rho" else high < none
        if low <= none <= high:
            message = f"the interval of {name} {text} contains {none:g}: these runs show no clear effect of P"
            yield Note(f"{name}_unresolved", "warning", message, figures)
        elif worse:
            message = (
                f"the interval of {name} {text} is {'above' if low > none else 'below'} {none:g}: in these runs "
                "streams raise the loss at equal N"
            )
            yield Note(f"{name}_against", "info", message, figures)
    if "E" in ends:
        low, high = ends["E"]
        if high - low > 0.5 * smallest_loss:
            yield Note(
                "E_unresolved",
                "warning",
                f"the interval of E [{low:.3g}, {high:.3g}] is wider than half the smallest loss {smallest_loss:.3g}: "
                "these sizes do not determine the loss floor, so predictions far beyond them mean little",
                {"low": low, "high": high},
            )


def verdict_notes(objective: Objective, status: Status, r_squared: float, draws: Array) -> Iterator[Note]:
    """Yield a note if the fit does not describe these losses and must not be used."""
    reasons = []
    if r_squared < 0:
        reasons.append(f"it predicts these losses worse than their mean (R² {r_squared:.2f})")
    if status == "degenerate":
        reasons.append("its parameters are not determined")
    open_ = undetermined(objective, draws)
    if 2 * len(open_) >= len(objective.free_names) > 0 and open_:
        reasons.append(f"the interval of {' and '.join(open_)} covers nearly the whole allowed range")
    if reasons:
        yield Note(
            "explains_nothing",
            "serious",
            f"this fit does not describe these runs: {'; '.join(reasons)}",
            {"r_squared": r_squared},
        )


def undetermined(objective: Objective, draws: Array) -> list[str]:
    """Return the parameters whose interval over `draws` [b, k] covers nearly the whole range between their bounds."""
    if not len(draws):
        return []
    lower, upper = objective.bounds()
    with np.errstate(invalid="ignore"):  # a floor of 0 has a logarithm of -∞
        low, high = np.quantile(objective.from_params(draws), tails(LEVEL), axis=0)
        wide = high - low > MOST_OF_RANGE * (upper - lower)
    return [
        n
        for n, is_wide, end in zip(objective.free_names, wide, upper - lower, strict=True)
        if is_wide and np.isfinite(end)
    ]
