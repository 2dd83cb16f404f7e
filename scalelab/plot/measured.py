"""Figures of measured and predicted memory and latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scalelab.bundled import bundled
from scalelab.plot.style import colours, grid_of_axes, title

_GREY = "#777777"
_UNITS = {"memory_bytes": ("memory, MiB", 2**-20), "latency_s": ("latency, s", 1.0)}
# Label and line style by prefix of the table's columns.
_ENGINES: Mapping[str, tuple[str, str]] = {
    "roofline": ("roofline", "--"),
    "llm_analysis": ("llm-analysis", ":"),
}


def serving_measurements() -> pd.DataFrame:
    """Return the 48 workloads of docs/serving.md: four models on one CPU thread, and what each engine predicts.

    Columns are those of `scalelab.measure.measured_vs_predicted.MeasuredRow.as_dict`, in seconds and bytes.
    """
    return pd.read_csv(bundled("docs/serving.csv"))


def plot_efficiency(table: pd.DataFrame, heading: str = "") -> Figure:
    """Draw peak memory and latency over P, measured (solid) and predicted, with a colour for each batch size.

    `table` has rows of one model and the columns of `Measurements.to_frame`.
    """
    figure, both = grid_of_axes(2)
    figure.set_size_inches(7.4, 3.9)
    shades = colours(table["batch"].unique())
    for axes, (quantity, (label, unit)) in zip(both, _UNITS.items(), strict=True):
        for batch, rows in table.sort_values("P").groupby("batch"):
            text = f"measured, batch {batch}" if len(shades) > 1 else "measured"
            axes.plot(rows["P"], rows[quantity] * unit, "-o", color=shades[batch], markersize=5, label=text)
            for engine, (name, line) in _ENGINES.items():
                column = f"{engine}_{quantity}"
                if column in rows:
                    axes.plot(rows["P"], rows[column] * unit, line, color=shades[batch], linewidth=1.3, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(table["P"].unique()), [str(P) for P in sorted(table["P"].unique())])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=0)
        axes.set_xlabel("streams P")
        axes.set_ylabel(label)
    handles, labels = both[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(heading, fontsize=10, parse_math=False)
    return figure


def plot_against(table: pd.DataFrame, heading: str = "") -> Figure:
    """Draw predicted over measured latency: a plot for each cost model, a colour for each P, a marker per model."""
    engines = [engine for engine in _ENGINES if f"{engine}_latency_s" in table]
    figure, all_axes = grid_of_axes(len(engines))
    figure.set_size_inches(3.9 * len(engines), 4.3)
    shades = colours(table["P"].unique())
    marks = dict(zip(table["model"].unique(), "osD^v<>PX*", strict=False))
    for axes, engine in zip(all_axes, engines, strict=True):
        seen = table["latency_s"]
        ends = (0.7 * seen.min(), 1.4 * seen.max())
        axes.plot(ends, ends, color=_GREY, linewidth=1)
        for (model, P), rows in table.groupby(["model", "P"]):
            look: dict[str, Any] = {"color": shades[P], "marker": marks.get(model, "o")}
            axes.scatter(rows["latency_s"], rows[f"{engine}_latency_s"], s=22, alpha=0.8, **look)
        for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            scale("log")
            axis.set_major_locator(LogLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        error = (table[f"{engine}_latency_s"] / seen - 1).abs().median()
        title(axes, f"{_ENGINES[engine][0]}: median error {error:.0%}")
        axes.set_xlabel("measured latency, s")
        axes.set_ylabel("predicted latency, s")
    dots = [(color, "o", f"P = {P}") for P, color in shades.items()]
    dots += [(_GREY, mark, model) for model, mark in marks.items()]
    figure.legend(
        [Line2D([], [], color=color, marker=mark, linestyle="") for color, mark, _ in dots],
        [label for _, _, label in dots],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(heading, fontsize=10, parse_math=False)
    return figure


def plot_measurements(found: Any, kind: str | None = None) -> Figure:
    """Draw memory and latency of `Measurements` over P, with the predictions of the cost models."""
    row = found.rows[0]
    heading = f"{row.model}, {row.workload.tokens_in} tokens in, {row.workload.tokens_out} out"
    return plot_efficiency(found.to_frame(), heading)
