"""Reports of imported runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.json_values import as_json_value
from scalelab.units import format_count, plural

if TYPE_CHECKING:
    from scalelab.importers import Imported

_MOST_ERRORS = 5
_MOST_ROWS = 20


def imported_report(found: Imported) -> Report:
    """Return the imported runs, the columns that were used, and runs that cannot be used."""
    table = Table(plural(len(found), "imported run"), ["<run", "N", "D", "points", "loss"], drops=True)
    for run, record in list(zip(found.runs, found.table.to_dict("records"), strict=True))[:_MOST_ROWS]:
        tokens = record.get("n_tokens")
        cells = [format_count(record["n_params"]), "" if tokens is None or tokens != tokens else format_count(tokens)]
        table.add(run, *cells, str(len(found.curves[record["key"]])), f"{record['loss']:.4f}")
    more = len(found) - _MOST_ROWS
    lines = [Line(f"and {plural(more, 'more run')}", "dim")] if more > 0 else []
    named = ", ".join(f"{path!r} as {name}" for name, path in found.columns.items())
    lines += [Line(f"using {named}", "info")] if named else []
    lines += [Line(error, "left out") for error in found.errors[:_MOST_ERRORS]]
    if len(found.errors) > _MOST_ERRORS:
        lines.append(Line(f"and {plural(len(found.errors) - _MOST_ERRORS, 'more run')}", "left out"))
    return Report.of([table, *lines])


def imported_json(found: Imported) -> dict[str, Any]:
    """Return a mapping for each run, unrounded, the columns, and errors of other runs."""
    runs = found.table.astype(object).where(found.table.notna(), None).to_dict("records")
    return as_json_value({"runs": runs, "columns": dict(found.columns), "errors": list(found.errors)})
