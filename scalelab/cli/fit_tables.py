"""A fit and a comparison of laws as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from scalelab.cli.console import make_table, print_table, print_text
from scalelab.fit import CONVENTIONS, FitResult
from scalelab.fit.derived import hoffmann_form
from scalelab.fit.select import shown
from scalelab.laws.base import VARIABLES
from scalelab.units import format_count, format_number

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from scalelab.fit.profile import Profile
    from scalelab.fit.select import Comparison

_STYLES = {"serious": "bold red", "warning": "yellow", "info": "dim"}
_MAX_ROWS = 40  # of the residual grid
_FEW_ROWS = 8  # of it, without --details
_MAX_NOTES = 6


def show_fit(console: Console, result: FitResult, profiles: Mapping[str, Profile], view: str = "usual") -> None:
    """Parameters with intervals, the equation, how good it is, residuals, notes.

    `view` is line (a line), short (no grid of residuals), usual, or details (every residual and note).
    """
    if view == "line":
        codes = ", ".join(note.code for note in result.notes if note.severity != "info")
        words = f"{result.equation()}   R² {result.r_squared:.4f}, {len(result.runs)} runs, {result.status}"
        print_text(console, f"{result.group}: {words}{f' ({codes})' if codes else ''}")
        return
    headings = ["<parameter", "value", "<95 % interval", *(["<by profile"] if profiles else []), "<unit"]
    table = make_table(*headings)
    for parameter in result.law.parameters:
        name = parameter.name
        value = format_number(result.values[name])
        cells = [name, f"{value} (fixed)" if name in result.fixed else value, interval_text(result.interval(name))]
        if profiles:
            cells.append(interval_text(profiles[name].interval) if name in profiles else "none")
        table.add_row(*cells, parameter.unit)
    print_table(console, result.group, table)
    print_text(
        console,
        f"{result.equation(digits=7)}   ({variables_text(result)})\n"
        f"R² {result.r_squared:.4f}, objective {result.objective:.6e} ({result.options.objective}), "
        f"{len(result.runs)} runs; {result.status}, "
        f"{round(result.agreement * result.options.starts)} of {result.options.starts} starts agree "
        f"within {result.start_spread:.0e}",
    )
    hoffmann = hoffmann_form(result)
    if hoffmann:
        print_text(console, f"in Hoffmann's form: {hoffmann}")
    _show_residuals(console, result, {"details": _MAX_ROWS, "usual": _FEW_ROWS}.get(view, 0))
    notes = sorted(result.notes, key=lambda note: ("serious", "warning", "info").index(note.severity))
    for note in notes if view == "details" else notes[:_MAX_NOTES]:
        show_note(console, note.severity, note.message, note.code)
    if view != "details" and len(notes) > _MAX_NOTES:
        print_text(console, f"and {len(notes) - _MAX_NOTES} more notes: --details", style="dim")


def variables_text(result: FitResult) -> str:
    """What the variables of the equation are, in the table's own names where it has some."""
    meanings = {v: VARIABLES[v] for v in result.law.variables if v not in ("N", "P", "D")}
    if "N" in result.law.variables:
        meanings = {"N": CONVENTIONS[result.options.convention].meaning, **meanings}
    own = {v: result.columns[v] for v in result.law.variables if v in result.columns}
    words = [f"{v}: {', '.join(filter(None, (own.get(v), meanings.get(v))))}" for v in (meanings | own)]
    return "; ".join(words)


def show_note(console: Console, severity: str, message: str, code: str) -> None:
    label = "note" if severity == "info" else severity
    print_text(console, f"{label}: {message} ({code})", style=_STYLES[severity])


def show_comparison(console: Console, comparison: Comparison) -> None:
    """The table of laws, best first, and the verdict."""
    names = [f"{name} {shown(name, value)}" for name, value in comparison.left_out.items()]
    table = make_table(
        "<law", "free", "RMSE", "AICc", "over best", "BIC", "weight", *(f"without {name}" for name in names)
    )
    for row in comparison.rows:
        errors = [row.held_out[name] for name in comparison.left_out]
        table.add_row(
            row.label,
            str(row.n_free),
            f"{row.rmse:.4f}",
            *(f"{v:.1f}" if np.isfinite(row.aicc) else "–" for v in (row.aicc, row.delta)),
            f"{row.bic:.1f}",
            f"{row.weight:.3f}" if np.isfinite(row.aicc) else "–",
            *("–" if e is None else f"{e:.4f}" for e in errors),
        )
    print_table(console, comparison.group, table)
    if names:
        explained = "Akaike weight; without …: RMSE of predictions for these runs by a fit to all others"
        print_text(console, f"RMSE in nats a token; {explained}")
    print_text(console, comparison.verdict, style="bold")
    print_text(console, f"For predictions: {comparison.chosen}, by what was left out.\n")


def interval_text(interval: tuple[float | None, float | None] | None) -> str:
    """An interval; an end that is open, or infinite, is said to be."""
    if interval is None:
        return "none"
    low, high = (None if end is None or not np.isfinite(end) else end for end in interval)
    if low is None and high is None:
        return "open"
    if low is None or high is None:
        return f"above {format_number(low, 3)}" if low is not None else f"below {format_number(high, 3)}"  # type: ignore[arg-type]
    dash = "–" if low >= 0 else " to "
    return dash.join(format_number(end, 3) for end in (low, high))


def _show_residuals(console: Console, result: FitResult, most: int) -> None:
    """Relative residuals: a row a backbone and D, a column a P, a value a run; the largest, where there are many."""
    data = result.data
    percent = 100 * np.array(result.residuals)
    shown = [v for v in data.known if v in result.law.variables]
    plain = {*shown} <= {"N", "P", "D"} and "N" in data.known and data.run is None
    several = data.varies("D")
    tokens_of = data.D if several else np.zeros(len(data.loss))
    places = sorted(set(zip(data.size.tolist(), tokens_of.tolist(), strict=True))) if plain else []
    if not plain or len(places) > most:
        worst = np.argsort(-np.abs(percent))[:5]
        at = [" ".join(f"{v} {format_count(float(data.values(v)[i]))}" for v in shown) for i in worst]
        said = ", ".join(f"{percent[i]:+.2f} at {where}" for i, where in zip(worst, at, strict=True))
        print_text(console, f"predicted over measured, %: largest {said}")
        return
    heading = "N" if (data.size == data.N).all() else "N of backbone"
    table: Table = make_table(heading, *(["D"] if several else []), *(f"P = {P}" for P in result.P_levels))
    for size, tokens in places:
        cells = [format_count(size), *([format_count(tokens)] if several else [])]
        for P in result.P_levels:
            here = (data.size == size) & (data.P == P) & (not several or tokens == data.D)
            cells.append(" ".join(f"{r:+.2f}" for r in percent[here]))
        table.add_row(*cells)
    print_table(console, "predicted over measured, %", table)
