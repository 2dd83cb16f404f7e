"""Reports of registered forecasts, their scores, and rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.json_values import as_json_value
from scalelab.reports.predictions import loss_text
from scalelab.units import format_count, format_interval, format_number, format_percent, plural

if TYPE_CHECKING:
    from scalelab.analysis.forecasts import Forecast
    from scalelab.analysis.rollout import Rollout
    from scalelab.analysis.scoring import Calibration, Scored

_LEVEL = 0.95
_MOST_ROWS = 40
_FEW_FITS = 5


def calibration_report(found: Calibration) -> Report:
    """Return each scored forecast, the calibration by distance from the runs, and a verdict."""
    blocks: list[Table | Line] = [_scores(found.rows, found.title)]
    if len(found.rows) > _MOST_ROWS:
        more = plural(len(found.rows) - _MOST_ROWS, "more forecast")
        blocks.append(Line(f"{more}: use `out` or `json` for all", "dim"))
    blocks += [bands_table(found), Line(verdict(found), "strong")]
    if found.open:
        blocks.append(Line(f"{plural(len(found.open), 'forecast')} without a run yet: {_points(found.open)}", "info"))
    return Report.of(blocks)


def _scores(rows: Sequence[Scored], title: str) -> Table:
    names = _variables([row.forecast for row in rows])
    table = Table(title, [*names, "forecast (95 % interval)", "measured", "error", "factor", "held"], keys=len(names))
    for row in rows[:_MOST_ROWS]:
        made = row.forecast
        table.add(
            *(_cell(made, name) for name in names),
            f"{loss_text(made.loss)} ({format_interval(made.low, made.high, loss_text)})",
            loss_text(row.measured),
            f"{row.error * 100:+.2f} %",
            format_number(made.factor, 3),
            "yes" if row.held else "no",
        )
    return table


def bands_table(found: Calibration) -> Table:
    """Return the share of intervals that held and the errors, by distance from the runs of the fit."""
    table = Table("outside the runs of the fit", ["<factor", "forecasts", "intervals held", "mean error", "bias"])
    for band in found.bands:
        table.add(
            band.label,
            str(band.count),
            format_percent(band.held),
            f"{band.error * 100:.2f} %",
            f"{band.bias * 100:+.2f} %",
        )
    return table


def verdict(found: Calibration) -> str:
    """Return whether the intervals held as often as they should, as far as these forecasts can tell.

    Forecasts of one fit err together, so each fit counts as one piece of evidence: its share of intervals that held.
    """
    from scipy.stats import binomtest

    held = sum(row.held for row in found.rows)
    total = len(found.rows)
    text = f"{held} of {total} intervals of 95 % held"
    fits: dict[str, list[bool]] = {}
    for row in found.rows:
        fits.setdefault(row.forecast.data_hash, []).append(row.held)
    if len(fits) < _FEW_FITS:
        return (
            f"{text}. They are of {plural(len(fits), 'fit')}, whose forecasts err together: too few to judge intervals."
        )
    share = sum(sum(each) / len(each) for each in fits.values()) / len(fits)
    if binomtest(round(share * len(fits)), len(fits), _LEVEL).pvalue < 0.05:
        wrong = "too narrow: forecasts were surer than they should be" if share < _LEVEL else "too wide"
        return f"{text}: they are {wrong}."
    return f"{text}, as expected of {len(fits)} fits."


def rollout_report(found: Rollout) -> Report:
    """Return a row for each budget, the calibration of all forecasts, and a verdict."""
    headings = [f"fitted up to ({found.unit})", "runs", "scored", "intervals held", "mean error", "bias", "<law"]
    table = Table(f"{found.group}: rollout of the {found.law} law", headings)
    for step in found.steps:
        if step.fit is None:
            table.add(format_number(step.budget, 3), str(step.runs), "0", "–", "–", "–", "none")
            continue
        band = found.of(step).bands[-1]
        table.add(
            format_number(step.budget, 3),
            str(step.runs),
            str(band.count),
            format_percent(band.held),
            f"{band.error * 100:.2f} %",
            f"{band.bias * 100:+.2f} %",
            step.law_words,
        )
    problems = [
        Line(f"runs up to {format_number(step.budget, 3)} {found.unit} cannot be fitted: {step.problem}", "warning")
        for step in found.steps
        if step.fit is None
    ]
    every = found.calibration
    return Report.of([table, bands_table(every), Line(verdict(every), "strong"), *problems])


def _variables(forecasts: Sequence[Forecast]) -> list[str]:
    named = [name for name in ("N", "P", "D") if any(getattr(made, name) is not None for made in forecasts)]
    return [*named, *dict.fromkeys(name for made in forecasts for name in made.others)]


def _cell(made: Forecast, name: str) -> str:
    value = made.others.get(name) if name not in ("N", "P", "D") else getattr(made, name)
    return "–" if value is None else str(value) if name == "P" else format_count(value, 4)


def _points(forecasts: Sequence[Forecast]) -> str:
    shown = [_point(made) for made in forecasts[:3]]
    more = f" and {len(forecasts) - 3} more" if len(forecasts) > 3 else ""
    return "; ".join(shown) + more


def _point(made: Forecast) -> str:
    return ", ".join(f"{name} = {_cell(made, name)}" for name in _variables([made]))


def _rows(rows: Sequence[Scored]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {**as_json_value(row.forecast), "measured": row.measured, "error": row.error, "held": row.held}


def calibration_json(found: Calibration) -> dict[str, Any]:
    """Return scored and open forecasts and the calibration, unrounded."""
    return as_json_value({"forecasts": list(_rows(found.rows)), "open": list(found.open), "bands": list(found.bands)})


def rollout_json(found: Rollout) -> dict[str, Any]:
    """Return each budget with its forecasts, and the calibration of all, unrounded."""
    steps = [
        {"budget": step.budget, "runs": step.runs, "problem": step.problem, "forecasts": list(_rows(step.rows))}
        for step in found.steps
    ]
    about = {"group": found.group, "law": found.law, "unit": found.unit}
    return as_json_value({**about, "steps": steps, "bands": list(found.calibration.bands)})
