"""Two recipes compared by one law: the compute that the second saves at equal loss, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalelab.analysis.recipe_costs import Costs
from scalelab.analysis.recipe_law import RECIPE, Factor, RecipeLaw, factor_groups, multiplier
from scalelab.analysis.recipe_notes import comparison_notes, fit_notes
from scalelab.analysis.recipe_result import LossMultiplier, RecipeComparison
from scalelab.analysis.recipe_tests import FACTORS, Fitted, SharedTest, fit_nested, nested_laws, scores, shared_test
from scalelab.errors import ScalelabError, UsageError, choice_error
from scalelab.fit.bootstrap import bootstrap, freedom
from scalelab.fit.core import fit_optimum
from scalelab.fit.data import FitData, fit_data
from scalelab.fit.derived import FLOPS_PER_TOKEN, Estimate
from scalelab.fit.groups import Group
from scalelab.fit.influence import condition_number, covariance
from scalelab.fit.options import FitOptions
from scalelab.laws import Law, Points, get_law
from scalelab.laws.base import Array, Variable
from scalelab.units import plural

LEAST_RUNS = 3  # of each recipe
_OWN_DRAWS = 300  # of the fit with separate exponents
_SHARES: dict[Factor, tuple[float, float]] = {"N": (1.0, 0.0), "D": (0.0, 1.0), "compute": (0.5, 0.5)}
_REACH, _STEPS = 60.0, 60  # of the search for equal loss, in ln compute, and its bisections


@dataclass(frozen=True)
class RecipeOptions:
    """Options of a comparison.

    Attributes:
        convention: How N is counted.
        law: Name of the law; None chooses by what varies.
        factor: What the second recipe multiplies; None chooses N, or else what the law has.
        starts: Starts of the fits.
        draws: Bootstrap draws of the intervals.
        test_draws: Bootstrap data sets of the tests.
        seed: Seed of all of them.
        nested: Fit the nested models and separate exponents; without them there is only the multiplier.
    """

    convention: str = "paper"
    law: str | None = None
    factor: Factor | None = None
    starts: int = 100
    draws: int = 1000
    test_draws: int = 500
    seed: int = 0
    nested: bool = True


def compare_recipes(
    first: Group, second: Group, names: tuple[str, str], options: RecipeOptions, costs: Sequence[Costs] = ()
) -> RecipeComparison:
    """Fit one law to the runs of two recipes, and return the multiplier between them.

    Args:
        first: Runs of the baseline.
        second: Runs of the other recipe.
        names: Names of the two recipes.
        options: Options.
        costs: Costs of the runs, to compare at equal loss.

    Raises:
        UsageError: an option does not suit the runs.
        ScalelabError: the recipes share no variable or no loss, or have too few runs.
    """
    groups = (first, second)
    base = _law(groups, names, options)
    data = _joined(groups, base, options.convention)
    overlap = _overlap(data, names)
    fit_options = FitOptions(options.convention, starts=options.starts, draws=options.draws, seed=options.seed)
    factor = _factor(base, options.factor)
    law = RecipeLaw(base, factor_groups(base, factor))
    _check_runs(data, law, names)
    objective, optimum = fit_optimum(law, data, fit_options)
    local = covariance(objective, data, optimum.z)
    errors = np.sqrt(np.diag(local))
    draws = bootstrap(objective, data, optimum.z, "residual", options.draws, options.seed, errors)
    draws = draws[np.isfinite(draws).all(axis=1)]
    params = objective.to_params(optimum.z)
    value, spread = float(multiplier(law, params, factor)), multiplier(law, draws, factor)
    models = fit_nested(base, data.means(), replace(fit_options, draws=0)) if options.nested else []
    tests = _tests(models, factor, data.means(), options)
    centre = _centre(data, overlap)
    ratios = tuple(cost.ratio(factor, *centre, value, spread, options.seed) for cost in costs)
    ends = _ends(law, params, data, factor, overlap, centre)
    own_options = replace(fit_options, draws=min(options.draws, _OWN_DRAWS))
    by_loss = _by_loss(base, data, factor, ends, centre, own_options) if options.nested else ()
    table = scores(models, data.means())
    notes = (
        *fit_notes(objective, data, optimum, condition_number(objective, data, optimum.z)),
        *comparison_notes(groups, names, data, base, factor, table, tests, by_loss),
    )
    usual = {"N": "n_params", "loss": "loss"}
    columns = {k: v for k, c in usual.items() if (v := first.columns.get(c, c)) != c}
    flops = _flops(data)
    return RecipeComparison(
        *names,
        law,
        tuple(params.tolist()),
        draws,
        factor,
        Estimate.of(value, spread),
        ratios,
        table,
        tests,
        by_loss,
        data,
        flops,
        overlap,
        notes,
        columns,
    )


def _law(groups: tuple[Group, Group], names: tuple[str, str], options: RecipeOptions) -> Law:
    """Return the law that the variables of both recipes allow, or the one that is asked for."""
    if options.law is not None:
        law = get_law(options.law)
        if not factor_groups(law, "compute"):
            raise UsageError("has no scale of N, D or C", argument="law", value=options.law)
        return law
    every: tuple[Variable, ...] = ("N", "P", "D", "C")
    data = [fit_data(group.records, options.convention, group.title, every) for group in groups]
    sizes: tuple[Variable, ...] = ("N", "D", "C")
    shared: list[Variable] = [v for v in sizes if all(v in d.known for d in data)]
    if not shared:
        has = " and ".join(f"{name} has {', '.join(d.known)}" for name, d in zip(names, data, strict=True))
        raise ScalelabError(f"the recipes share none of N, D and compute: {has}; map columns to them with `columns`")
    within: set[Variable] = {v for v in shared for d in data if d.varies(v)}
    streams = any(d.varies("P") for d in data)
    if {"N", "D"} <= within:
        return get_law("joint" if streams else "chinchilla")
    if "N" in within:
        return get_law("parallel" if streams else "params")
    if "D" in within:
        return get_law("tokens")
    if "C" in within:
        return get_law("compute")
    raise ScalelabError(f"N, D and compute have one value each in both recipes; add runs with other {shared[0]}")


def _factor(base: Law, wanted: Factor | None) -> Factor:
    """Return what the second recipe multiplies."""
    has: list[Factor] = [factor for factor in FACTORS if factor_groups(base, factor)]
    if wanted is None:
        return has[0]
    found: Factor | None = next((factor for factor in has if factor == wanted), None)
    if found is not None:
        return found
    if wanted not in FACTORS:
        raise choice_error("factor", wanted, FACTORS)
    reason = f"the law {base.name!r} has no {wanted}; choose {' or '.join(has)}"
    raise UsageError(reason, argument="factor", value=wanted)


def _joined(groups: tuple[Group, Group], base: Law, convention: str) -> FitData:
    """Return the rows of both recipes, with the variable "recipe"."""
    parts = [fit_data(group.records, convention, group.title, base.variables) for group in groups]
    known: tuple[Variable, ...] = tuple(v for v in parts[0].known if v in parts[1].known)
    columns = [
        np.concatenate([getattr(part, name) for part in parts]) for name in ("N", "P", "D", "loss", "weight", "size")
    ]
    others = {v: np.concatenate([part.values(v) for part in parts]) for v in known if v not in ("N", "P", "D")}
    recipe = np.concatenate([np.full(len(part.loss), float(i)) for i, part in enumerate(parts)])
    return FitData(*columns, known=known, others={**others, RECIPE: recipe})


def _overlap(data: FitData, names: tuple[str, str]) -> tuple[float, float]:
    """Return the range of losses that both recipes have."""
    recipe = data.others[RECIPE]
    for i, name in enumerate(names):
        if (count := int((recipe == i).sum())) < LEAST_RUNS:
            raise ScalelabError(
                f"{name}: {plural(count, 'run')}; a comparison needs {LEAST_RUNS} or more of each recipe"
            )
    ends = [(data.loss[recipe == i].min(), data.loss[recipe == i].max()) for i in (0, 1)]
    low, high = max(ends[0][0], ends[1][0]), min(ends[0][1], ends[1][1])
    if low > high:
        text = " and ".join(f"{name} {a:.4f} to {b:.4f}" for name, (a, b) in zip(names, ends, strict=True))
        raise ScalelabError(
            f"the recipes have no loss in common ({text}), so nothing can be compared at equal loss; add runs"
        )
    return float(low), float(high)


def _check_runs(data: FitData, law: RecipeLaw, names: tuple[str, str]) -> None:
    free, have = len(law.parameters), data.n_configs
    if have <= free:
        raise ScalelabError(
            f"{names[0]} and {names[1]} have {plural(have, 'configuration')} together, and the {law.name} law with a "
            f"factor has {free} parameters; add runs, or choose a smaller `law`"
        )


def _tests(models: list[Fitted], factor: Factor, data: FitData, options: RecipeOptions) -> tuple[SharedTest, ...]:
    by_label = {model.label: model for model in models}
    small = by_label.get(_label(models, factor))
    wanted = (("own scales and exponents", "scales and exponents"), ("nothing shared", "all parameters"))
    found = []
    for label, shared in wanted:
        large = by_label.get(label)
        if small is None or large is None or freedom(large.objective, data) < 1 or not options.test_draws:
            continue
        found.append(shared_test(small, large, shared, data, options.test_draws, options.seed))
    return tuple(found)


def _label(models: list[Fitted], factor: Factor) -> str:
    """Return the label of the model with a factor: laws of N alone have one for N and compute."""
    known = {model.label for model in models}
    return f"factor on {factor}" if f"factor on {factor}" in known else "factor on N"


def _centre(data: FitData, overlap: tuple[float, float]) -> tuple[float, float]:
    """Return the geometric means of N and D of the second recipe's rows within the shared losses."""
    second = data.others[RECIPE] == 1
    here = second & (data.loss >= overlap[0]) & (data.loss <= overlap[1])
    rows = here if here.any() else second
    return float(np.exp(np.log(data.N[rows]).mean())), float(np.exp(np.log(data.D[rows]).mean()))


def _ends(
    law: RecipeLaw,
    params: Array,
    data: FitData,
    factor: Factor,
    overlap: tuple[float, float],
    centre: tuple[float, float],
) -> tuple[float, float]:
    """Return the highest and the lowest loss of the second recipe, along the factor through the centre."""
    second = data.others[RECIPE] == 1
    steps = [
        (np.log(values[second]) - np.log(middle)) / share
        for values, middle, share in zip((data.N, data.D), centre, _SHARES[factor], strict=True)
        if share
    ]
    reach = [max(step.min() for step in steps), min(step.max() for step in steps)]
    N, D = (np.exp(np.log(c) + s * np.array(reach)) for c, s in zip(centre, _SHARES[factor], strict=True))
    P = np.full(2, _P(data, 1))
    at = Points(N, P, D, others={"C": FLOPS_PER_TOKEN * N * D})
    high, low = np.clip(law.base.loss(law.of_recipe(params, 1), at), *overlap).tolist()
    return high, low


def _flops(data: FitData) -> Array:
    if "C" in data.others:
        return data.others["C"]
    return FLOPS_PER_TOKEN * data.size * data.D * data.P


def _by_loss(
    base: Law,
    data: FitData,
    factor: Factor,
    ends: tuple[float, float],
    centre: tuple[float, float],
    options: FitOptions,
) -> tuple[LossMultiplier, ...]:
    """Return the multiplier at a high and a low loss if each recipe has its own scales and exponents."""
    law = nested_laws(base)["own scales and exponents"]
    try:
        objective, optimum = fit_optimum(law, data, options)
    except ScalelabError:
        return ()
    if freedom(objective, data) < 1:
        return ()
    errors = np.sqrt(np.diag(covariance(objective, data, optimum.z)))
    draws = bootstrap(objective, data, optimum.z, "residual", options.draws, options.seed, errors)
    params = np.concatenate([objective.to_params(optimum.z)[None], draws])
    params = params[np.isfinite(params).all(axis=1)]
    found = []
    for loss in ends:
        reach = [_scale_of(law, params, i, loss, factor, centre, _P(data, i)) for i in (0, 1)]
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = np.exp(reach[0] - reach[1])
        if not np.isfinite(ratio[0]):
            return ()
        found.append(LossMultiplier(loss, Estimate.of(float(ratio[0]), ratio[1:])))
    return tuple(found)


def _P(data: FitData, recipe: int) -> float:
    return float(data.P[data.others[RECIPE] == recipe][0])


def _scale_of(
    law: RecipeLaw,
    params: Array,
    recipe: int,
    loss: float,
    factor: Factor,
    centre: tuple[float, float],
    P: float,
) -> Array:
    """Return how far from the centre in ln N, ln D or ln compute a recipe has a loss, [s]; infinite if it never has."""
    own = law.of_recipe(params, recipe)
    share = _SHARES[factor]

    def at(step: Array) -> Array:
        N, D = (np.exp(np.log(c) + s * step)[:, None] for c, s in zip(centre, share, strict=True))
        with np.errstate(all="ignore"):
            C = FLOPS_PER_TOKEN * N * D
            return law.base.loss(own, Points(N, np.full_like(N, P), D, others={"C": C}))[:, 0]

    low, high = np.full(len(params), -_REACH), np.full(len(params), _REACH)
    beyond = ~(at(high) <= loss)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = at(middle) > loss
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(beyond, np.inf, (low + high) / 2)
