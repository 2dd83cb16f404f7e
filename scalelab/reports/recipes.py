"""Reports of comparisons of recipes: multipliers at equal loss, nested models, tests and a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalelab.reports.blocks import Line, Report, Table, note_lines
from scalelab.reports.json_values import as_json_value
from scalelab.units import plural

if TYPE_CHECKING:
    from scalelab.analysis.recipe_result import RecipeComparison
    from scalelab.fit.derived import Estimate

_OF = {"N": "N at equal D", "D": "D at equal N", "compute": "6·N·D, N and D alike"}
_UNLIKELY = 0.05


def recipes_report(found: RecipeComparison) -> Report:
    """Return the multipliers, the law, the nested models, the tests, a verdict, and notes."""
    blocks: list[Table | Line] = [_multipliers(found), Line(_equation(found), equation=True)]
    blocks += [_models(found), *(Line(text) for text in sharing_sentences(found)), Line(verdict(found), "strong")]
    return Report.of([*blocks, *note_lines(found.notes)])


def _multipliers(found: RecipeComparison) -> Table:
    first, second = found.runs
    title = f"{found.second} ({plural(second, 'run')}) over {found.first} ({plural(first, 'run')}) at equal loss"
    table = Table(title, ["<of", "multiplier (95 % interval)", "at equal N and D", "<unit"])
    table.add(_OF[found.factor], _text(found.multiplier), "1", "above 1: the second needs less")
    for cost in found.costs:
        table.add(cost.name, _text(cost.multiplier), f"costs × {_number(cost.at_equal_size)}", cost.unit)
    return table


def _text(found: Estimate) -> str:
    return found.text(_number, "no interval")


def _number(value: float) -> str:
    return f"{value:.3g}"


def _equation(found: RecipeComparison) -> str:
    params = dict(zip(found.law.names, found.params, strict=True))
    exponent = {"N": "N → m·N", "D": "D → m·D", "compute": "N → √m·N, D → √m·D"}
    if found.law.base.variables == ("C",):
        exponent["compute"] = "C → m·C"
    return f"{found.first}: {found.law.equation(params, 5)}   ({found.second}: {exponent[found.factor]})"


def _models(found: RecipeComparison) -> Table:
    low, high = found.overlap
    title = f"nested models of the two recipes, {found.law.base.name} law; shared losses {low:.4g} to {high:.4g}"
    table = Table(title, ["<differ in", "free", "RMSE", "AICc", "ΔAICc"])
    for row in found.models:
        table.add(row.label, str(row.n_free), f"{row.rmse:.4f}", f"{row.aicc:.1f}", f"{row.delta:.1f}")
    return table


def sharing_sentences(found: RecipeComparison) -> list[str]:
    """Return a sentence for each test of what is shared, and for the multiplier over the loss."""
    words = []
    for test in found.tests:
        answer = "are not supported" if test.p < _UNLIKELY else "are not refused"
        of = "scales and exponents" if test.shared.startswith("scales") else "all parameters, the floor too,"
        words.append(
            f"shared {of} {answer}: F = {test.F:.2f}, p = {test.p:.2g} in {test.draws} data sets made without the "
            "difference"
        )
    if found.by_loss:
        parts = [f"{_text(row.multiplier)} at loss {row.loss:.4g}" for row in found.by_loss]
        words.append(f"with separate exponents the multiplier is {' and '.join(parts)}")
    return words


def verdict(found: RecipeComparison) -> str:
    """Return the answer in one sentence: which recipe needs less compute."""
    cost = next((c for c in found.costs if c.name == "training FLOPs"), None)
    estimate, what = (found.multiplier, _OF[found.factor]) if cost is None else (cost.multiplier, "training FLOPs")
    if estimate.low is None or estimate.high is None:
        return f"{found.second} needs {_share(estimate.value)} of the {what} of {found.first}; there is no interval."
    if estimate.low <= 1 <= estimate.high:
        return f"These runs do not tell which recipe needs fewer {what} at equal loss ({_text(estimate)})."
    better, worse = (found.second, found.first) if estimate.value > 1 else (found.first, found.second)
    value = estimate.value if estimate.value > 1 else 1 / estimate.value
    ends = sorted((estimate.low, estimate.high) if estimate.value > 1 else (1 / estimate.low, 1 / estimate.high))
    text = f"{_number(value)} times ({_number(ends[0])}–{_number(ends[1])})"
    return f"At equal loss {worse} needs {text} the {what} of {better}."


def _share(multiplier: float) -> str:
    return f"{1 / multiplier:.0%}"


def recipes_json(found: RecipeComparison) -> dict[str, Any]:
    """Return multipliers, costs, models, tests and notes, unrounded."""
    return as_json_value(
        {
            "first": found.first,
            "second": found.second,
            "runs": list(found.runs),
            "law": found.law.base.name,
            "factor": found.factor,
            "multiplier": found.multiplier,
            "costs": found.costs,
            "params": found.estimates,
            "models": found.models,
            "tests": found.tests,
            "by_loss": found.by_loss,
            "overlap": list(found.overlap),
            "notes": found.notes,
        }
    )
