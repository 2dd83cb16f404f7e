"""The law explorer: what the page needs to evaluate fits and prices by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scalelab.cost.hardware import Hardware
from scalelab.cost.request import Device, Precision
from scalelab.cost.setting import decoder, preset_of
from scalelab.errors import UsageError
from scalelab.fit.derived import FLOPS_PER_TOKEN
from scalelab.fit.result import FitResult
from scalelab.page.document import PLOTLY, Section, asset, document
from scalelab.page.laws import law_data
from scalelab.page.tables import cost_tables, family_data
from scalelab.plan.shapes import Shapes
from scalelab.reports.averages import alone_note
from scalelab.visible import visible

SCRIPTS = ("law.js", "roofline.js", "contour.js", "explorer.js")  # after chart.js, before page.js
_LEDE = (
    "<p>Choose parameters N, parallel streams P and training tokens D: the loss that a fitted law predicts, and what "
    "it costs to serve the model. Everything is computed in this page.</p>"
)
_DIGITS = 9  # significant digits of draws: rounding is far below the differences between them
# Shapes of sweeps: all have 36 layers from 540M parameters on, smaller ones are shallower.
SHAPES = Shapes(decoder(1024), deepening=True)


def explorer_data(fits: Iterable[FitResult], devices: Mapping[str, Hardware] | None = None) -> dict[str, Any]:
    """Return the data of an explorer, ready for JSON.

    Args:
        fits: Fits to choose from, the first one shown first.
        devices: Devices besides those of the package.

    Raises:
        UsageError: there is no fit.
    """
    given = [fit_data(fit) for fit in fits]
    if not given:
        raise UsageError("give at least one fit", argument="fits")
    serving = preset_of("serving")
    return {
        "fits": given,
        "tables": cost_tables(devices),
        "family": family_data(SHAPES),
        "flops_per_token": FLOPS_PER_TOKEN,
        "start": {
            "device": next(iter(devices or ()), Device.gpu),
            "weights": Precision.weights,
            "tokens_in": serving.tokens_in,
            "tokens_out": serving.tokens_out,
        },
    }


def fit_data(fit: FitResult) -> dict[str, Any]:
    """Return a fit as the explorer uses it. `law` is None if the page cannot evaluate the law."""
    columns = {name: fit.data.values(name) for name in fit.known}
    tokens = sorted({float(value) for value in columns.get("D", ())})
    return {
        "title": visible(fit.group),
        "name": fit.law.name,
        "law": law_data(fit.law),
        "equation": visible(fit.equation()),
        "convention": fit.options.convention,
        "variables": list(fit.law.variables),
        "labels": {name: visible(fit.meaning(name)) for name in fit.law.variables},
        "parameters": list(fit.law.names),
        "params": list(fit.params),
        "draws": [[float(f"{value:.{_DIGITS}g}") for value in draw] for draw in fit.draws],
        "ranges": {name: [float(values.min()), float(values.max())] for name, values in columns.items()},
        "runs": sorted({(n, p) for n, p, *_ in fit.runs if n is not None and p is not None}),
        "tokens": tokens[0] if len(tokens) == 1 else None,
        "notes": [
            *([visible(text)] if (text := alone_note(fit)) else []),
            *(visible(note.message) for note in fit.notes if note.severity == "serious"),
        ],
    }


def explorer_section(title: str = "Explorer") -> Section:
    """Return the section of a page that explorer.js fills."""
    return Section("explorer", title, f'<style>\n{asset("explorer.css")}</style>\n<div class="explorer"></div>')


def explorer_page(
    fits: Iterable[FitResult],
    devices: Mapping[str, Hardware] | None = None,
    *,
    title: str = "Law explorer",
    data: Mapping[str, Any] | None = None,
    scripts: Sequence[str] = (),
    live: bool = False,
) -> str:
    """Return the explorer as one HTML file that opens from disk.

    Args:
        fits: Fits to choose from, the first one shown first.
        devices: Devices besides those of the package.
        title: Title of the page.
        data: Further data for `scripts`.
        scripts: Further scripts, run after all others.
        live: Allow requests to the server that the page came from.
    """
    return document(
        title,
        [explorer_section("Loss, cost and limits")],
        {"explorer": explorer_data(fits, devices), **(data or {})},
        [PLOTLY, "chart.js", *SCRIPTS, "page.js", *scripts],
        lede=_LEDE,
        live=live,
    )
