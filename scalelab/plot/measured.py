"""Figures of measured and predicted memory and latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scalelab.bundled import bundled
from scalelab.plot.layout import AxesLike, level_handle, new_panels, only_kind
from scalelab.plot.style import GREY, Size, colours, looks, styled
from scalelab.plot.ticks import log_axis, plain, streams_axis

_UNITS = {"memory_bytes": ("memory, MiB", 2**-20), "latency_s": ("latency, s", 1.0)}
# Label and line style by prefix of the table's columns.
_ENGINES: Mapping[str, tuple[str, Any]] = {
    "roofline": ("roofline", "--"),
    "llm_analysis": ("llm-analysis", ":"),
}


def serving_measurements() -> pd.DataFrame:
    """Return the 48 workloads of docs/serving.md: four models on one CPU thread, and what each engine predicts.

    Columns are those of `scalelab.measure.measured_vs_predicted.MeasuredRow.as_dict`, in seconds and bytes.
    """
    return pd.read_csv(bundled("docs/serving.csv"))


@styled
def plot_efficiency(
    table: pd.DataFrame, heading: str = "", ax: AxesLike | None = None, size: Size | None = None
) -> Figure:
    """Draw peak memory and latency over P, measured (solid) and predicted, with a look for each batch size.

    Args:
        table: Rows of one model, with the columns of `Measurements.to_frame`.
        heading: Title of the figure.
        ax: Axes to draw into, two, or one that is replaced by both panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    panels = new_panels(2, ax, size, panel=(3.7, 3.2), extra=0.7)
    shown = looks(table["batch"].unique())
    engines = {name: of for name, of in _ENGINES.items() if any(f"{name}_{quantity}" in table for quantity in _UNITS)}
    levels = sorted(table["P"].unique())
    for axes, (quantity, (label, unit)) in zip(panels.axes, _UNITS.items(), strict=True):
        for batch, rows in table.sort_values("P").groupby("batch"):
            color = shown[batch].color
            axes.plot(rows["P"], rows[quantity] * unit, "-", **shown[batch].points())
            for engine, (_, line) in engines.items():
                column = f"{engine}_{quantity}"
                if column in rows:
                    axes.plot(rows["P"], rows[column] * unit, linestyle=line, color=color)
        streams_axis(axes, levels)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
    several = len(shown) > 1
    handles = [level_handle(look) for look in shown.values()]
    labels = [f"measured, batch {batch}" if several else "measured" for batch in shown]
    handles += [Line2D([], [], color=GREY, linestyle=line) for _, line in engines.values()]
    panels.legend(handles, [*labels, *(name for name, _ in engines.values())])
    panels.heading(heading)
    return panels.root


@styled
def plot_against(
    table: pd.DataFrame, heading: str = "", ax: AxesLike | None = None, size: Size | None = None
) -> Figure:
    """Draw predicted over measured latency: a plot for each cost model, a colour for each P, a marker per model.

    Args:
        table: Rows of several models, with the columns of `Measurements.to_frame`.
        heading: Title of the figure.
        ax: Axes to draw into, one for each cost model, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    engines = [engine for engine in _ENGINES if f"{engine}_latency_s" in table]
    panels = new_panels(len(engines), ax, size, panel=(3.9, 3.5), extra=0.8)
    shades = colours(table["P"].unique())
    marks = dict(zip(table["model"].unique(), "osD^v<>PX*", strict=False))
    seen = table["latency_s"]
    ends = (0.7 * seen.min(), 1.4 * seen.max())
    for axes, engine in zip(panels.axes, engines, strict=True):
        axes.plot(ends, ends, color=GREY, linewidth=1)
        for (model, P), rows in table.groupby(["model", "P"]):
            look: dict[str, Any] = {"color": shades[P], "marker": marks.get(model, "o")}
            axes.scatter(rows["latency_s"], rows[f"{engine}_latency_s"], s=18, alpha=0.8, linewidths=0, **look)
        for axis in (axes.xaxis, axes.yaxis):
            log_axis(axis, plain)
        error = (table[f"{engine}_latency_s"] / seen - 1).abs().median()
        axes.set_title(f"{_ENGINES[engine][0]}: median error {error:.0%}")
        axes.set_xlabel("measured latency, s")
        axes.set_ylabel("predicted latency, s")
    dots = [(color, "o", f"P = {P}") for P, color in shades.items()]
    dots += [(GREY, mark, model) for model, mark in marks.items()]
    panels.legend(
        [
            Line2D([], [], color=GREY, linewidth=1),
            *(Line2D([], [], color=color, marker=mark, linestyle="") for color, mark, _ in dots),
        ],
        ["predicted = measured", *(label for _, _, label in dots)],
    )
    panels.heading(heading)
    return panels.root


def plot_measurements(
    found: Any, kind: str | None = None, ax: AxesLike | None = None, size: Size | None = None
) -> Figure:
    """Draw memory and latency of `Measurements` over P, with the predictions of the cost models."""
    only_kind(kind, "measurements")
    row = found.rows[0]
    heading = f"{row.model}, {row.workload.tokens_in} tokens in, {row.workload.tokens_out} out"
    return plot_efficiency(found.to_frame(), heading, ax=ax, size=size)
