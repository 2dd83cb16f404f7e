"""Reports of predictions and compute-optimal allocations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scalelab.fit.mixture import MixtureLaw, share_text
from scalelab.reports.averages import equation_lines, laws_json
from scalelab.reports.blocks import Line, Report, Table, note_lines
from scalelab.reports.fits import equation_line, meanings
from scalelab.reports.json_values import as_json_value
from scalelab.units import format_count, format_number

if TYPE_CHECKING:
    from scalelab.fit.answers import Allocations, Prediction, Predictions
    from scalelab.fit.result import FitResult


def loss_text(value: float) -> str:
    """Return a loss with four decimals."""
    return f"{value:.4f}"


def predictions_report(found: Predictions) -> Report:
    """Return a row for each point with 95 % intervals, the equation, and notes."""
    fit = found.fit
    has_P, has_D = "P" in fit.law.variables, "D" in fit.law.variables
    has_N = "N" in fit.law.variables
    others = [v for v in fit.law.variables if v not in ("N", "P", "D")]
    keys = [*(["N"] if has_N else []), *(["P"] if has_P else []), *(["D"] if has_D else []), *others]
    headings = [*keys, "loss (95 % interval)"]
    headings += ["plain N of equal loss", "gain of 2P"] if has_P else []
    mixed = isinstance(fit.law, MixtureLaw)
    headings += ["law's share"] if mixed else []
    table = Table(fit.title, headings, keys=len(keys))
    for row in found:
        cells = [format_count(row.N or 0.0, 4)] if has_N else []
        cells += [str(row.P)] if has_P else []
        cells += [format_count(row.D or 0.0, 4)] if has_D else []
        cells += [format_count(row.others[name], 4) for name in others]
        cells.append(row.loss.text(loss_text, "none"))
        cells += _about_streams(row) if has_P else []
        table.add(*cells, *([share_text(row.law_share)] if mixed else []))
    return Report.of(
        [
            table,
            *_laws(fit, "law's share: of the variance of the loss, the part between the laws"),
            *note_lines(found.notes),
        ]
    )


def _laws(fit: FitResult, legend: str = "") -> Iterator[Line]:
    """Yield the equation of the law, or those of the laws of an average with their weights."""
    yield from equation_lines(fit, equation_line(fit))
    if isinstance(fit.law, MixtureLaw):
        words = [*meanings(fit), *([legend] if legend else []), "`law` answers by one law alone"]
        yield Line("; ".join(words), "dim")


def _about_streams(row: Prediction) -> list[str]:
    worth = row.n_equivalent
    plain_n = "none" if worth is None else worth.text(format_count, "none")
    plain_n = format_count(row.N) if row.P == 1 and row.N is not None else plain_n
    return [plain_n, "none" if row.doubling_gain is None else row.doubling_gain.text(loss_text, "none")]


def allocations_report(found: Allocations) -> Report:
    """Return a row for each budget and P with 95 % intervals, the equation, and notes."""
    fit = found.fit
    table = Table(fit.title, ["FLOPs", "P", "best N (95 % interval)", "best D", "loss"], keys=2)
    for row in found:
        sizes = ["–" if size is None else size.text(format_count, "none") for size in (row.N, row.D)]
        table.add(format_number(row.flops, 3), f"{row.P:g}", *sizes, row.loss.text(loss_text, "none"))
    return Report.of([table, *_laws(fit), *note_lines(found.notes)])


def _about(found: Predictions | Allocations) -> dict[str, Any]:
    fit = found.fit
    serious = [note for note in fit.notes if note.severity == "serious"]
    about = {"group": fit.group, "law": fit.law.name, "status": fit.status, "fit_notes": serious}
    return about | ({} if (laws := laws_json(fit)) is None else {"laws": laws})


def predictions_json(found: Predictions) -> list[dict[str, Any]]:
    """Return a mapping for each point, unrounded."""
    rows = []
    for row in found:
        cells: dict[str, Any] = {"N": row.N, "P": row.P, "D": row.D, **row.others, "loss": row.loss}
        if "P" in found.fit.law.variables:
            cells |= {"n_equivalent": row.n_equivalent, "doubling_gain": row.doubling_gain}
        cells |= {"law_share": row.law_share} if isinstance(found.fit.law, MixtureLaw) else {}
        rows.append(as_json_value(_about(found) | cells | {"notes": row.notes}))
    return rows


def allocations_json(found: Allocations) -> list[dict[str, Any]]:
    """Return a mapping for each budget and P, unrounded."""
    return [
        as_json_value(
            _about(found)
            | {"flops": row.flops, "P": row.P, "best_N": row.N, "best_D": row.D, "loss": row.loss}
            | {"notes": found.notes_of(row)}
        )
        for row in found
    ]
