"""Reports of fits: one in full, or a row for each of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from scalelab.fit.derived import hoffmann_form
from scalelab.laws.base import Variable
from scalelab.reports.averages import support_json, support_lines
from scalelab.reports.blocks import Line, Report, Table, note_lines
from scalelab.reports.json_values import as_json_value
from scalelab.units import format_count, format_interval, format_number, plural
from scalelab.visible import shortened

if TYPE_CHECKING:
    from scalelab.fit.answers import Profiles
    from scalelab.fit.many import FitResults
    from scalelab.fit.profile import Profile
    from scalelab.fit.result import FitResult

_MAX_ROWS = 40  # of the residual grid
_FEW_ROWS = 8  # the same, without details
_FEW_NOTES = 6
_SEVERITIES = ("serious", "warning", "info")


def fit_report(fit: FitResult, profiles: Mapping[str, Profile] | None = None, details: bool = False) -> Report:
    """Return parameters, the equation, goodness of fit, residuals and notes; `details` has all residuals and notes."""
    notes = note_lines(sorted(fit.notes, key=lambda note: _SEVERITIES.index(note.severity)))
    if not details and len(notes) > _FEW_NOTES:
        left = plural(len(notes) - _FEW_NOTES, "more note")
        notes = [*notes[:_FEW_NOTES], Line(f"{left}: use `details`", "info")]
    rows = _residuals(fit, _MAX_ROWS if details else _FEW_ROWS)
    return Report.of([parameter_table(fit, profiles or {}), *_facts(fit), *support_lines(fit), *rows, *notes])


def parameter_table(fit: FitResult, profiles: Mapping[str, Profile]) -> Table:
    """Return a row for each parameter."""
    headings = ["<parameter", "value", "<95 % interval", *(["<profile interval"] if profiles else []), "<unit"]
    table = Table(fit.group, headings)
    for parameter in fit.law.parameters:
        name = parameter.name
        value = format_number(fit.values[name])
        cells = [name, f"{value} (fixed)" if name in fit.fixed else value, _interval(fit.interval(name))]
        if profiles:
            cells.append(_interval(profiles[name].interval) if name in profiles else "none")
        table.add(*cells, parameter.unit)
    return table


def _interval(ends: tuple[float | None, float | None] | None) -> str:
    return "none" if ends is None else format_interval(*ends, lambda value: format_number(value, 3))


def equation_line(fit: FitResult) -> Line:
    """Return the law with its constants, and the meaning of its variables in the names of the table."""
    words = meanings(fit)
    return Line(fit.equation(digits=7) + (f"   ({'; '.join(words)})" if words else ""), equation=True)


def meanings(fit: FitResult) -> list[str]:
    """Return the meaning of the variables of the law, in the names of the table."""
    explained = [v for v in fit.law.variables if v not in ("P", "D") or v in fit.columns]
    return [f"{v}: {fit.meaning(cast(Variable, v))}" for v in explained]


def _facts(fit: FitResult) -> Iterator[Line]:
    starts = fit.options.starts
    yield equation_line(fit)
    yield Line(
        f"R² {fit.r_squared:.4f}, objective {fit.objective:.6e} ({fit.options.objective}), "
        f"{plural(len(fit.runs), 'run')}; {fit.status}, {round(fit.agreement * starts)} of {plural(starts, 'start')} "
        f"agree within {fit.start_spread:.0e}"
    )
    hoffmann = hoffmann_form(fit)
    if hoffmann:
        yield Line(f"in Hoffmann's form: {hoffmann}")


def _residuals(fit: FitResult, most: int) -> Iterator[Table | Line]:
    """Yield residuals as a table over backbone, D and P, or the largest ones if it would exceed `most` rows."""
    data, several = fit.data, fit.data.varies("D")
    known: list[Variable] = [v for v in data.known if v in fit.law.variables]
    is_grid = {*known} <= {"N", "P", "D"} and "N" in data.known and data.run is None
    tokens_of = data.D if several else np.zeros(len(data.loss))
    places = sorted(set(zip(data.size.tolist(), tokens_of.tolist(), strict=True))) if is_grid else []
    percent = 100 * np.array(fit.log_residuals)
    if not is_grid or len(places) > most:
        worst = np.argsort(-np.abs(percent))[:5]
        at = [" ".join(f"{v} {format_count(float(data.values(v)[i]))}" for v in known) for i in worst]
        largest = ", ".join(f"{percent[i]:+.2f} at {where}" for i, where in zip(worst, at, strict=True))
        yield Line(f"residuals (predicted over measured), %: largest {largest}")
        return
    size = "N" if (data.size == data.N).all() else "N of backbone"
    table = Table(
        "residuals (predicted over measured), %",
        [size, *(["D"] if several else []), *(f"P = {P}" for P in fit.P_levels)],
        keys=2 if several else 1,
    )
    for backbone, tokens in places:
        cells = [format_count(backbone), *([format_count(tokens)] if several else [])]
        for P in fit.P_levels:
            here = (data.size == backbone) & (data.P == P) & (not several or tokens == data.D)
            cells.append(" ".join(f"{r:+.2f}" for r in percent[here]))
        table.add(*cells)
    yield table


def profiles_report(found: Profiles) -> Report:
    """Return bootstrap and profile intervals of each parameter."""
    return Report.of([parameter_table(found.fit, found.profiles)])


_SEVERAL = 3  # groups that were not fitted for one reason, which are one line


def fits_report(
    fits: FitResults, details: bool = False, profiles: Mapping[str, Mapping[str, Profile]] | None = None
) -> Report:
    """Return a row for each group; with one group or `details`, each fit in full."""
    blocks: list[Table | Line] = []
    if len(fits) and (len(fits) > 1 or fits.failures):
        blocks += [compact_table(fits), Line("")]
    if details or (len(fits) == 1 and not fits.failures):
        for group, fit in fits.items():
            blocks += [*fit_report(fit, (profiles or {}).get(group), details).blocks, Line("")]
    else:
        blocks += [
            Line(f"{shortened(group)}: {line.text}") for group, fit in fits.items() for line in support_lines(fit)
        ]
        serious = [(group, note) for group, fit in fits.items() for note in fit.notes if note.severity == "serious"]
        blocks += [Line(f"{note.message} [{shortened(group)}]", "serious", note.code) for group, note in serious]
    if not details and len(fits) > 1 and any(note.severity != "info" for fit in fits.values() for note in fit.notes):
        blocks.append(Line("for warnings and residuals of each group, use `details`", "info"))
    blocks += [Line(text, "left out") for text in _failures(fits)]
    return Report.of(blocks)


def _failures(fits: FitResults) -> Iterator[str]:
    """Yield a sentence for each group that was not fitted, or one for several of the same reason."""
    groups: dict[str, list[str]] = {}
    for group, error in fits.failures.items():
        groups.setdefault(str(error).removeprefix(f"{group}: "), []).append(group)
    for reason, names in groups.items():
        if len(names) < _SEVERAL:
            yield from (f"not fitted: {name}: {reason}" for name in names)
        else:
            yield f"not fitted: {len(names)} groups, the first of them {names[0]}: {reason}"


def compact_table(fits: FitResults) -> Table:
    """Return a row for each group: ranges of N, P and D, R², number of warnings, and parameters with intervals."""
    every = list(fits.values())
    names = list(dict.fromkeys(name for fit in every for name in fit.law.names))
    tokens = any("D" in fit.law.variables for fit in every)  # otherwise D is in the name of the group
    title = f"{plural(len(every), 'group')} of comparable runs, {every[0].law.name} law"
    headings = ["<group", "runs", "N", "P", *(["D"] if tokens else []), "R²", "warnings", *names]
    table = Table(title, headings)
    for fit in every:
        data = fit.data
        spans = [
            _span(data.N) if "N" in fit.known else "",
            _span(data.P),
            *([_span(data.D) if "D" in fit.known else ""] if tokens else []),
        ]
        values = [_value(fit, name) for name in names]
        grave = sum(note.severity != "info" for note in fit.notes)
        table.add(shortened(fit.group), str(len(fit.runs)), *spans, f"{fit.r_squared:.4f}", str(grave), *values)
    return table


def _span(values: np.ndarray) -> str:
    ends = dict.fromkeys(format_count(float(end)) for end in (values.min(), values.max()))
    return "–".join(ends)


def _value(fit: FitResult, name: str) -> str:
    if name not in fit.law.names:
        return ""
    ends = fit.interval(name)
    value = format_number(fit.values[name])
    return f"{value} (fixed)" if name in fit.fixed else value if ends is None else f"{value} ({_interval(ends)})"


def fit_json(fit: FitResult) -> dict[str, Any]:
    """Return everything except runs and draws, unrounded."""
    parameters = {
        p.name: {
            "value": fit.values[p.name],
            "interval": fit.interval(p.name),
            "unit": p.unit,
            "fixed": p.name in fit.fixed,
        }
        for p in fit.law.parameters
    }
    return as_json_value(
        {
            "group": fit.group,
            "law": fit.law.name,
            "equation": fit.equation(digits=17),
            "status": fit.status,
            "parameters": parameters,
            "r_squared": fit.r_squared,
            "objective": fit.objective,
            "runs": len(fit.runs),
            "count": fit.options.convention,
            "laws": support_json(fit),
            "notes": list(fit.notes),
            "data_hash": fit.data_hash,
        }
    )


def fits_json(fits: FitResults) -> list[dict[str, Any]]:
    """Return a mapping for each fitted group."""
    return [fit_json(fit) for fit in fits.values()]
