"""Report of accuracies predicted for larger models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from scalelab.analysis.accuracy import METHODS
from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.json_values import as_json_value
from scalelab.units import format_count, format_percent

if TYPE_CHECKING:
    from scalelab.analysis.accuracy import Point
    from scalelab.analysis.downstream import Check, Downstream
    from scalelab.fit.derived import Estimate

_WORDS = {"two-step": "in two steps", "direct": "directly", "both": "by the mean of both"}


def downstream_report(found: Downstream) -> Report:
    """Return the accuracies, the check on left-out runs, and what streams add at equal loss."""
    blocks: list[Table | Line] = []
    for point in dict.fromkeys(row.point for row in found.rows):
        title = f"accuracy at {point_words(point)}, {found.law} law"
        table = Table(title, ["<task", "accuracy (95 % interval)", "in two steps", "directly"])
        for row in found.rows:
            if row.point == point:
                direct = "none" if row.direct is None else _share(row.direct.value)
                table.add(row.task, _interval(row.both), _share(row.two_step.value), direct)
        blocks.append(table)
    blocks += _checks(found.checks)
    blocks += [Line(text) for text in _gains(found)]
    for name, model in found.models.items():
        if model.runs.missing:
            blocks.append(Line(f"{name}: {model.runs.missing} runs have no accuracy and are left out", "info"))
    blocks += [Line(f"{name}: {why}", "left out") for name, why in found.failures.items()]
    return Report.of(blocks)


def point_words(point: Point) -> str:
    """Return a model's variables as text."""
    parts = [] if point.N is None else [f"N = {format_count(point.N)}"]
    parts += [] if point.P == 1 else [f"P = {point.P}"]
    parts += [] if point.D is None else [f"D = {format_count(point.D)}"]
    return ", ".join(parts) or "P = 1"


def _checks(checks: tuple[Check, ...]) -> Iterator[Table | Line]:
    if not checks:
        yield Line("The methods are not checked: too few runs are smaller than the largest N.", "warning", "unchecked")
        return
    headings = ["<task", "runs", *(f"error {_WORDS[method]}" for method in METHODS), "intervals held"]
    table = Table("left-out larger runs, predicted from the smaller ones", headings)
    for task in dict.fromkeys(check.task for check in checks):
        mine = {check.method: check for check in checks if check.task == task}
        errors = [_error(mine[method].error) if method in mine else "–" for method in METHODS]
        table.add(task, str(mine["both"].runs), *errors, format_percent(mine["both"].held))
    means = {m: np.mean([c.error for c in checks if c.method == m]) for m in METHODS if _has(checks, m)}
    held = np.average([c.held for c in checks if c.method == "both"], weights=_runs(checks))
    total = [_error(float(means[method])) if method in means else "–" for method in METHODS]
    table.add("all", str(sum(_runs(checks))), *total, format_percent(float(held)))
    yield table
    best = min(means, key=lambda method: means[method])
    others = ", ".join(f"{_error(float(means[m]))} {_WORDS[m]}" for m in means if m != best)
    yield Line(
        f"Left-out accuracies are predicted best {_WORDS[best]}: {_error(float(means[best]))} off on average"
        f"{f', against {others}' if others else ''}.",
        "strong",
    )


def _has(checks: tuple[Check, ...], method: str) -> bool:
    return any(check.method == method for check in checks)


def _runs(checks: tuple[Check, ...]) -> list[int]:
    return [check.runs for check in checks if check.method == "both"]


def _gains(found: Downstream) -> Iterator[str]:
    for name, gain in found.gains.items():
        size = gain.per_doubling
        points = size.text(lambda value: f"{100 * value:+.2f}")
        verdict = (
            f"more than its loss says: streams {'help' if size.value > 0 else 'hurt'} this task beyond the loss"
            if gain.is_clear
            else "which these runs do not separate from none"
        )
        yield f"{name}: at equal loss, a doubling of P adds {points} points, {verdict} ({gain.runs} runs)."


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _error(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(found: Estimate) -> str:
    return found.text(lambda value: f"{100 * value:.1f}") + " %"


def downstream_json(found: Downstream) -> dict[str, Any]:
    """Return predictions, checks and gains, unrounded."""
    models = {
        name: {
            "runs": len(model.runs.accuracy),
            "loss_law": model.loss.equation(digits=17),
            "sigmoid": model.sigmoid.params.tolist(),
            "sigmoid_weights": model.sigmoid.weights.tolist(),
            "direct_law": None if model.direct is None else model.direct.equation(digits=17),
        }
        for name, model in found.models.items()
    }
    return as_json_value(
        {
            "law": found.law,
            "tasks": models,
            "predictions": list(found.rows),
            "checks": list(found.checks),
            "gains": found.gains,
            "failures": found.failures,
        }
    )
