"""The section on fits: loss over N, the equation, parameters, notes with what to do, and the choice of law."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, get_args

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit import FitResult
from scalelab.laws.base import VARIABLES, Array, Variable
from scalelab.page.contents import Study, rounded
from scalelab.page.document import Section
from scalelab.page.equation import fitted, symbolic
from scalelab.reports.advice import advice_of
from scalelab.reports.averages import alone_note
from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.fits import fit_report
from scalelab.reports.html import with_code
from scalelab.reports.laws import comparison_report
from scalelab.visible import shortened, visible

_GRID = 90  # points of a curve
_MOST_D = 8  # curves for different D
_SEVERITIES = {"serious": "Serious", "warning": "Warning", "info": "Note"}
_VARIABLES: tuple[Variable, ...] = get_args(Variable)


def fit_section(studies: Sequence[Study]) -> Section:
    """Return the section: a part for each group, of which the page shows one."""
    return Section("fit", "Fit", "".join(_part(i, study) for i, study in enumerate(studies)))


def group_part(number: int, inner: str) -> str:
    """Return the part of a section that belongs to one group; all but the first are hidden by the page."""
    return f'<div class="group" data-group="{number}">{inner}</div>'


def _part(number: int, study: Study) -> str:
    title = f"<h3>{escape(visible(study.title))}</h3>"
    if isinstance(study.fit, ScalelabError):
        return group_part(number, f'{title}<p class="notice">Not fitted: {escape(visible(str(study.fit)))}</p>')
    fit = study.fit
    blocks = fit_report(fit, details=True).blocks
    tables = [block for block in blocks if isinstance(block, Table)]
    facts = [block for block in blocks if isinstance(block, Line) and not block.is_aside and not block.equation]
    parameters = Table("Parameters", tables[0].headings, rows=tables[0].rows)
    residuals = Report(tuple(tables[1:])).html() if len(tables) > 1 else ""
    return group_part(
        number,
        f"{title}{_equation(fit)}{_loss_panel(fit)}"
        '<div class="grid"><figure class="panel"><h3>Residuals</h3><div class="chart small-chart" '
        'data-chart="residuals"></div><figcaption>Predicted over measured loss. A good fit shows no pattern.'
        '</figcaption></figure><figure class="panel"><h3>Predicted against measured</h3>'
        '<div class="chart small-chart" data-chart="predicted"></div><figcaption>Points on the line are predicted '
        "exactly.</figcaption></figure></div>"
        f'<div class="grid"><div class="panel">{Report((parameters, *facts)).html()}'
        f"{_details('Residuals as a table', residuals)}</div>"
        f"{_notes(fit)}</div>{_laws(study)}",
    )


def _details(summary: str, inner: str) -> str:
    return f"<details><summary>{summary}</summary>{inner}</details>" if inner else ""


def _equation(fit: FitResult) -> str:
    """Return the law with the names of its parameters and with their values, and the meaning of its variables."""
    law = symbolic(fit.law)
    constants = fitted(fit.law, fit.values) or f"<code>{escape(fit.equation())}</code>"
    explained: list[Variable] = [v for v in _VARIABLES if v in fit.law.variables]
    meaning = "; ".join(f"<i>{v}</i> is {escape(visible(_meaning(fit, v)))}" for v in explained)
    return (
        f'<div class="panel equation"><p class="muted">The <b>{escape(visible(fit.law.name))}</b> law, fitted to '
        f"{len(fit.runs)} runs</p>{law}{constants}"
        f'<p class="muted small">L is the loss in nats per token; {meaning}.</p>{_alone(fit)}</div>'
    )


def _alone(fit: FitResult) -> str:
    text = alone_note(fit)
    return f'<p class="notice">{escape(visible(text))}</p>' if text else ""


def _meaning(fit: FitResult, variable: Variable) -> str:
    text = fit.meaning(variable)
    if text == variable:  # a column that is named like the variable
        return VARIABLES[variable]
    return f"the column {text}" if text == fit.columns.get(variable) else text


def _loss_panel(fit: FitResult) -> str:
    if loss_axis(fit) is None:
        return (
            '<p class="muted">This law depends on more than N, P and D, so its loss has no curve over one of them.</p>'
        )
    band = "Bands: 95 % bootstrap intervals of the law. " if fit.draws else ""
    return (
        f'<figure class="panel"><h3>Loss over {loss_axis(fit)}</h3><div class="controls" data-controls="loss">'
        f'</div><div class="chart" data-chart="loss"></div><figcaption>{band}Curves are dashed outside the runs. '
        "Drag to zoom, double-click to see all.</figcaption></figure>"
    )


def _notes(fit: FitResult) -> str:
    """Return the notes, the gravest first, each with what to do about it."""
    once = {(note.code, note.message): note for note in fit.notes}
    ranked = sorted(once.values(), key=lambda note: [*_SEVERITIES].index(note.severity))
    if not ranked:
        text = "Nothing in these runs limits how to read the numbers."
        return f'<div class="panel"><h3>Notes</h3><p>{text}</p></div>'
    items = "".join(note_item(note.severity, note.message, note.code) for note in ranked)
    return f'<div class="panel"><h3>Notes</h3><ul class="notes">{items}</ul></div>'


def note_item(severity: str, message: str, code: str) -> str:
    """Return a note as an entry of a list, with what to do about it."""
    advice = advice_of(code)
    do = f'<p class="do">What to do: {with_code(advice.do)}.</p>' if advice and advice.do else ""
    return (
        f'<li class="note {escape(severity)}"><p><b>{_SEVERITIES.get(severity, severity)}:</b> '
        f"{with_code(visible(message))} <code>{escape(visible(code))}</code></p>{do}</li>"
    )


def _laws(study: Study) -> str:
    if study.laws is None:
        return ""
    if isinstance(study.laws, ScalelabError):
        return f'<p class="notice">Laws were not compared: {escape(visible(str(study.laws)))}</p>'
    blocks = comparison_report(study.laws).blocks
    table = blocks[0]
    assert isinstance(table, Table)
    titled = Table("Choice of law", table.headings, rows=table.rows)
    return f'<div class="panel">{Report((titled, *blocks[1:])).html()}</div>'


def loss_axis(fit: FitResult) -> Variable | None:
    """Return the variable to draw the loss over: N, or the only one of the law; None if there is no such curve."""
    variables = fit.law.variables
    if "N" in variables and "N" in fit.known and {*variables} <= {"N", "P", "D"}:
        return "N"
    return variables[0] if len(variables) == 1 else None


def fit_data(fit: FitResult) -> dict[str, Any]:
    """Return the points and curves of the charts of one fit."""
    data, over = fit.data, loss_axis(fit)
    known: list[Variable] = [v for v in _VARIABLES if v in data.known]
    measured = [] if over is None else [float(data.values(over).min()), float(data.values(over).max())]
    return {
        "over": over,
        "label": "" if over is None else _label(fit, over),
        "lossLabel": shortened(visible(fit.loss_label, keep=""), 60),
        "sizeLabel": _label(fit, "N") if "N" in known else "",
        "measured": measured,
        "points": {
            **{v: rounded(data.values(v)) for v in known},
            "loss": rounded(data.loss),
            "predicted": rounded(np.exp(np.array(fit.log_residuals)) * data.loss),
            "residual": rounded(100 * np.array(fit.log_residuals), 5),
        },
        "curves": [] if over is None else list(_curves(fit, over)),
    }


def _label(fit: FitResult, variable: Variable) -> str:
    text = f"{variable}, {VARIABLES[variable]}" if fit.meaning(variable) == variable else fit.label(variable)
    return shortened(visible(text, keep=""), 80)


def _curves(fit: FitResult, over: Variable) -> Iterator[dict[str, Any]]:
    values = fit.data.values(over)
    grid = np.geomspace(values.min() / 1.3, values.max() * 1.6, _GRID)
    grid = np.unique(np.concatenate([grid, [values.min(), values.max()]]))
    for P in fit.P_levels if "P" in fit.law.variables else (None,):
        for D in _some(np.unique(fit.data.D)) if "D" in fit.law.variables and over != "D" else (None,):
            at: dict[str, Any] = {over: grid, **({} if P is None else {"P": P}), **({} if D is None else {"D": D})}
            low, high = fit.band(**at)
            yield {
                "P": P,
                "D": None if D is None else float(f"{D:.7g}"),
                "x": rounded(grid),
                "y": rounded(fit.losses(**at)),
                "low": rounded(low),
                "high": rounded(high),
            }


def _some(levels: Array) -> list[float]:
    """Return the levels, at most `_MOST_D` of them, about evenly spread and with both ends."""
    at = np.linspace(0, len(levels) - 1, min(len(levels), _MOST_D)).round().astype(int)
    return levels[np.unique(at)].tolist()
