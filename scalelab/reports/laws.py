"""Reports of comparisons of laws."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from scalelab.fit.verdict import shown
from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.json_values import as_json_value

if TYPE_CHECKING:
    from scalelab.fit.many import Comparisons
    from scalelab.fit.select import LawComparison


def comparison_report(comparison: LawComparison) -> Report:
    """Return the table of laws, best first, and the verdict."""
    names = [f"{name} {shown(name, value)}" for name, value in comparison.left_out.items()]
    headings = ["<law", "free", "RMSE", "AICc", "ΔAICc", "BIC", "weight", *(f"held-out {name}" for name in names)]
    table = Table(comparison.group, headings)
    for row in comparison.rows:
        errors = [row.held_out[name] for name in comparison.left_out]
        table.add(
            row.label,
            str(row.n_free),
            f"{row.rmse:.4f}",
            *(f"{v:.1f}" if isfinite(v) else "–" for v in (row.aicc, row.delta)),
            f"{row.bic:.1f}",
            f"{row.weight:.3f}" if isfinite(row.aicc) else "–",
            *("–" if e is None else f"{e:.4f}" for e in errors),
        )
    explained = "weight: Akaike weight; held-out: RMSE of predictions for these runs by a fit to all others"
    legend = [Line(f"RMSE in nats per token; {explained}")] if names else []
    because = ", which predicts held-out runs best" if len(comparison.rows) > 1 else ""
    chosen = [Line(f"Use for predictions: {comparison.chosen}{because}.")] if comparison.chosen else []
    return Report.of([table, *legend, Line(comparison.verdict, "strong"), *chosen])


def comparisons_report(comparisons: Comparisons) -> Report:
    """Return the comparison of each group."""
    blocks = [block for c in comparisons.values() for block in (*comparison_report(c).blocks, Line(""))]
    return Report.of([*blocks, *(Line(f"not compared: {e}", "left out") for e in comparisons.failures.values())])


def comparison_json(comparison: LawComparison) -> dict[str, Any]:
    """Return everything, unrounded."""
    return as_json_value(comparison)


def comparisons_json(comparisons: Comparisons) -> list[dict[str, Any]]:
    """Return a mapping for each group."""
    return [as_json_value(comparison) for comparison in comparisons.values()]
