"""Reports of designs: the runs, what they cost, and what they are expected to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from scalelab.reports.blocks import Line, Report, Table, note_lines
from scalelab.reports.json_values import as_json_value
from scalelab.reports.predictions import loss_text
from scalelab.units import format_count, format_interval, format_number, format_percent, plural

if TYPE_CHECKING:
    from scalelab.designs.result import Design, Outlook

_SHOWN = 30  # runs


def design_report(found: Design) -> Report:
    """Return the targets now and after the runs, the plausible laws, the runs with their prices, and notes."""
    blocks: list[Table | Line] = []
    if found.outlooks:
        blocks.append(_targets(found))
    if found.laws:
        blocks.append(Line(f"laws: {law_words(found.laws)}", "dim"))
    if found.prices:
        blocks.append(_runs(found))
    blocks += [Line(text, "strong") for text in _sentences(found)]
    return Report.of([*blocks, *note_lines(found.notes)])


def law_words(laws: Mapping[str, float]) -> str:
    """Return the weights of laws as text, those below 1 % together."""
    shown = [f"{label} {format_percent(weight)}" for label, weight in laws.items() if weight >= 0.01]
    return ", ".join(shown)


def _targets(found: Design) -> Table:
    runs = "no runs" if found.pilot else plural(found.n_known, "run")
    title = f"{found.group}: targets by {runs}"
    if found.replayed:
        table = Table(title, ["<target", "value (95 % interval)"])
        for one in found.outlooks:
            table.add(one.target.title, _now(one))
        return table
    earlier = ["expected before"] if found.earlier else []
    table = Table(title, ["<target", "now (95 % interval)", *earlier, "expected after", "narrower by"])
    for one in found.outlooks:
        form = _form(one)
        before = found.earlier.get(one.target.title)
        after = one.after
        cells = [_now(one)]
        cells += ([format_interval(*before, form)] if before else [""]) if earlier else []
        cells += [format_interval(after.low, after.high, form) if after is not None and found.prices else ""]
        cells += [format_percent(one.reduction) if found.prices else ""]
        table.add(one.target.title, *cells)
    return table


def _form(one: Outlook) -> Callable[[float], str]:
    if one.target.kind == "laws":
        return format_percent
    return loss_text if one.target.unit == "nats/token" else lambda value: format_number(value, 3)


def _now(one: Outlook) -> str:
    return one.now.text(_form(one), "" if one.target.kind == "laws" else "no interval")


def _runs(found: Design) -> Table:
    names = found.variables
    left = ["variance left"] if found.left else []
    losses = ["loss"] if found.losses else []
    seeds = f", {plural(found.seeds, 'seed')} each" if found.seeds > 1 else ""
    spent, whole = found.budget.text(found.price), found.budget.text()
    title = f"{plural(len(found.prices), 'run')} for {spent} of {whole}{seeds}"
    table = Table(title, [*names, "price", *losses, *left], keys=len(names))
    for i, price in enumerate(found.prices[:_SHOWN]):
        cells = [format_count(float(found.points.value(v)[i])) for v in names]
        cells += [found.budget.text(price)]
        cells += [loss_text(found.losses[i])] if losses else []
        cells += [format_percent(found.left[i])] if left else []
        table.add(*cells)
    return table


def _sentences(found: Design) -> Iterator[str]:
    if len(found.prices) > _SHOWN:
        yield f"and {plural(len(found.prices) - _SHOWN, 'more run')}, which the spec lists too"
    if found.pilot or found.replayed or not found.prices:
        return
    for one in found.outlooks:
        if one.after is None or one.target.kind in ("table", "laws"):
            continue
        form = _form(one)
        widths = [form(width) for width in one.widths]
        yield (
            f"{one.target.title}: the 95 % interval is {widths[0]} wide now, and {widths[1]} is expected after these "
            "runs if one of these laws holds."
        )


def design_json(found: Design) -> dict[str, Any]:
    """Return targets, laws, runs and notes, unrounded."""
    targets = [
        {
            "target": one.target.title,
            "kind": one.target.kind,
            "unit": one.target.unit,
            "now": one.now,
            "after": one.after,
            "widths": one.widths,
            "expected_before": found.earlier.get(one.target.title),
        }
        for one in found.outlooks
    ]
    return as_json_value(
        {
            "group": found.group,
            "runs_known": found.n_known,
            "targets": targets,
            "laws": dict(found.laws),
            "runs": found.to_frame().to_dict("records"),
            "seeds": found.seeds,
            "price": found.price,
            "budget": found.budget.amount,
            "unit": found.budget.unit,
            "notes": found.notes,
        }
    )
