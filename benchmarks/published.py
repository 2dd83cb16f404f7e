"""Cost models against published measurements; writes docs/published.md, .csv and .png. `make benchmark-published`.

Needs neither a GPU nor torch. Takes three minutes on one core, mostly for fits with each source held out.
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.published_data import MEMORY, PREFILL, ROWS, Row, from_cost, predict, read_rows, served
from benchmarks.published_fit import Scored, fit, left_out, prior, row_costs
from scalelab.cost.formats import weight_format
from scalelab.cost.request import Device, Precision
from scalelab.cost.roofline import price
from scalelab.cost.runtime import CLASSES, KERNEL_FLOPS, ROUTING_EXPONENT, ROW_COSTS
from scalelab.plot.layout import band_handle, new_panels
from scalelab.plot.save import save_figure
from scalelab.plot.style import BLUE, GREY, RED, Size, styled
from scalelab.plot.ticks import log_axis, plain

DOCS = Path(__file__).parent.parent / "docs"
MARK = "<!-- published measurements: written by benchmarks/published.py -->"
PLANS = "<!-- plans: by hand -->"
QUANTITIES = ("decode", "prefill", "memory", "rows")


def promised(row: Row) -> float | None:
    """Return the price at the shares of the paper, no time to start kernels, and nominal bits: 4 are 4."""
    if row.what not in (MEMORY, "prefill_tokens_per_s", "decode_tokens_per_s", "output_tokens_per_s_whole_request"):
        return None
    bits = weight_format(row.weights).matrix
    nominal = row.weights if bits >= 16 or row.weights == "fp8" else f"{8 if bits > 6 else 4}"
    device = Device(row.device, 0.7, 0.9, runtime="graphs", launch_s=0.0)
    return from_cost(row, price(served(row.model), row.workload, device, Precision(nominal, row.kv or None)))


def scored(rows: Iterable[Row], by: Callable[[Row], float | None]) -> list[Scored]:
    """Return the rows that `by` can say something of."""
    return [Scored(row, value) for row in rows if (value := by(row)) is not None]


def median_error(found: Sequence[Scored]) -> float:
    """Return the median of |predicted / measured − 1|."""
    return statistics.median(abs(s.ratio - 1) for s in found)


def mean_ratio(found: Sequence[Scored]) -> float:
    """Return the geometric mean of predicted over measured."""
    return math.exp(statistics.fmean(math.log(s.ratio) for s in found))


def spread(found: Sequence[Scored]) -> float:
    """Return the root of the mean square of ln(predicted / measured)."""
    return math.sqrt(statistics.fmean(math.log(s.ratio) ** 2 for s in found))


def _cell(found: Sequence[Scored]) -> str:
    return f"{median_error(found):.1%} ({mean_ratio(found):.2f}; {len(found)})" if found else ""


def _errors(sides: dict[str, list[Scored]], keep: Callable[[Row], bool] = lambda row: True) -> list[str]:
    return [
        f"| {name} | "
        + " | ".join(_cell([s for s in side if s.row.quantity == q and keep(s.row)]) for q in QUANTITIES)
        + " |"
        for name, side in sides.items()
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def _by_class(ours: list[Scored], out: list[Scored]) -> list[str]:
    """Errors of speeds by class of device, in the sample and out of it."""
    lines = []
    for kind in CLASSES:
        mine, theirs = (
            [s for s in side if s.row.kind == kind and s.row.quantity in ("decode", "prefill")] for side in (ours, out)
        )
        if mine:
            devices = sorted({s.row.device for s in mine})
            cells = [kind, ", ".join(devices), str(len(mine)), f"{median_error(mine):.0%}", f"{mean_ratio(mine):.2f}"]
            lines.append([*cells, f"{median_error(theirs):.0%}", f"{spread(theirs):.2f}", f"{CLASSES[kind].spread:g}"])
    head = ("class", "devices", "rows", "median error", "mean ratio", "left out: median", "its spread", "spread used")
    return _table(head, lines)


def _used(name: tuple[str, ...]) -> float:
    """The constant in use."""
    kind = name[1] if len(name) > 1 else ""
    if name[0] == "gap":
        found = CLASSES[kind]
        return 1e6 * (found.gaps.get(name[2], found.gap_s) if name[2] else found.gap_s)
    if name[0] == "routing":
        return ROUTING_EXPONENT
    if name[0] == "left":
        return KERNEL_FLOPS[kind]
    return float(getattr(CLASSES[kind], name[0]))


def _constants(rows: Sequence[Row]) -> list[str]:
    """Every constant: what was known before, what the rows say, what is used, and how many rows it has a part in."""
    fitted, known, lines = fit(rows), prior(), []
    for name, (before, _) in known.items():
        if name[0] == "rows":
            continue
        kind, runtime = (name[1] if len(name) > 1 else ""), (name[2] if len(name) > 2 else "")
        part = [r for r in rows if r.quantity != "memory" and r.kind == kind and runtime in ("", r.runtime)]
        if name[0] in ("routing", "left"):
            part = [
                r
                for r in rows
                if r.quantity != "memory"
                and (
                    any(layer.num_experts for layer, _ in served(r.model).layers)
                    if name[0] == "routing"
                    else r.precision.format.kernels == kind
                )
            ]
        words = " ".join(name).strip()
        sources = len({r.source for r in part})
        lines.append([words, f"{before:g}", f"{fitted[name]:.3g}", f"{_used(name):.3g}", f"{len(part)} of {sources}"])
    head = ("constant (gaps in µs a kernel)", "before", "fitted", "used", "rows of sources")
    costs = []
    for name, used in ROW_COSTS.items():
        found = dict(row_costs(fitted, name))
        shown = (f"{rows:g}: {cost:.2f} ({found.get(float(rows), 1.0):.2f})" for rows, cost in used)
        costs.append(f"- {name}: {', '.join(shown)}")
    return [*_table(head, lines), "", "Cost of a product of so many rows over one read, used (fitted):", "", *costs]


def _sources(rows: Sequence[Row], ours: list[Scored], out: list[Scored]) -> list[str]:
    lines = []
    for source in dict.fromkeys(r.source for r in rows):
        mine, theirs = ([s for s in side if s.row.source == source] for side in (ours, out))
        cells = [source, str(len(mine)), f"{median_error(mine):.0%}"]
        lines.append([*cells, f"{median_error(theirs):.0%}" if theirs else ""])
    return _table(("source", "rows", "median error", "left out"), lines)


def _serving_section(ours: list[Scored], out: list[Scored]) -> list[str]:
    """The part of docs/serving.md: the errors, and for which devices they are larger."""
    speeds = [s for s in out if s.row.quantity in ("decode", "prefill")]
    kinds = {kind: [s for s in speeds if s.row.kind == kind] for kind in CLASSES}
    order = sorted((k for k, v in kinds.items() if v), key=lambda k: -spread(kinds[k]))
    decode = [s for s in ours if s.row.quantity == "decode"]
    left = [s for s in out if s.row.quantity == "decode"]
    none = ", ".join(kind for kind in CLASSES if not kinds[kind] and kind != "other")
    return [
        MARK,
        "",
        "## Against what others measured",
        "",
        f"{len(decode)} published decode speeds ([published.md](published.md)): the roofline is off by "
        f"{median_error(decode):.0%} (median; mean ratio {mean_ratio(decode):.2f}) with constants fitted to them, and "
        f"by {median_error(left):.0%} ({mean_ratio(left):.2f}) where the source of a row is left out of the fit. "
        "llm-analysis stands in the same table there.",
        "",
        "The error is larger for some kinds of device. Spread of ln(predicted / measured) with the source left out, "
        "largest first: " + ", ".join(f"{k} {spread(kinds[k]):.2f} ({len(kinds[k])} rows)" for k in order) + ". "
        f"Classes without any published row: {none}; their constants are those of the nearest class. Phones at 16 bits "
        "are the worst: their engines compute prompts at a quarter of the speed that the units have.",
        "",
        "![predicted over measured, by class](published.png)",
    ]


def _write_serving(lines: Sequence[str]) -> None:
    file = DOCS / "serving.md"
    before, _, after = file.read_text(encoding="utf-8").partition(MARK)
    _, mark, plans = after.partition(PLANS)
    file.write_text("\n".join([before.rstrip(), "", *lines, "", mark + plans.rstrip()]) + "\n", encoding="utf-8")


def main() -> None:
    rows = read_rows()
    sides = {
        "roofline": scored(rows, predict),
        "llm-analysis": scored(rows, lambda row: predict(row, "llm-analysis")),
        "peaks: 0.9, 0.7, no starts, nominal bits": scored(rows, promised),
    }
    ours = sides["roofline"]
    if "--quick" in sys.argv:
        print("\n".join(_errors(sides)))
        return
    out = left_out(rows)
    everything = {**sides, "roofline, each source left out": out}
    theirs = {s.row.id for s in sides["llm-analysis"]}
    lines = [
        "# Cost models against published measurements",
        "",
        "`make benchmark-published`: no GPU, no torch. What others measured is in benchmarks/data/published.csv with "
        "its sources, shapes of models in published_models.yaml; predictions are made from the device table as it is.",
        "",
        "## Median |predicted / measured − 1|",
        "",
        "In brackets the geometric mean of predicted over measured speed or memory, and the number of rows. `rows`: "
        "one pass of P rows over one of a single row, which is what P streams cost.",
        "",
        *_table(("", *QUANTITIES), []),
        *_errors(everything),
        "",
        "On the rows that llm-analysis can hold (16 bits, one kind of layer), by both:",
        "",
        *_table(("", *QUANTITIES), []),
        *_errors({k: v for k, v in sides.items() if "peaks" not in k}, lambda row: row.id in theirs),
        "",
        "## By class of device",
        "",
        "Decode and prefill. Spreads are of ln(predicted / measured), with the row's source left out of the fit; a "
        "class whose only source is left out has nothing but what was known before. `spread used` (with four rows "
        "of the spread of all classes added) is behind the intervals of `cost` and the probabilities of `plan`.",
        "",
        *_by_class(ours, out),
        "",
        "![predicted over measured, by class](published.png)",
        "",
        "## By source",
        "",
        *_sources(rows, ours, out),
        "",
        "## Constants",
        "",
        "Fitted with a prior at what was known before (standard deviations: 0.1 of shares, 0.5 of gaps, in ln), large "
        "errors counted less, then rounded. A constant with no or few rows stays where it was. Not fitted, for want of "
        "rows: 80 µs to start a kernel by eager PyTorch, as it came with the collection; 10 µs to start a prompt's by "
        "engines with graphs; reserves of memory; the classes apu, npu and other.",
        "",
        *_constants(rows),
    ]
    (DOCS / "published.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (DOCS / "published.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "source", "model", "device", "class", "what", "measured", *everything])
        found = {name: {s.row.id: f"{s.predicted:.5g}" for s in side} for name, side in everything.items()}
        for row in rows:
            said = [found[name].get(row.id, "") for name in everything]
            writer.writerow([row.id, row.source, row.model, row.device, row.kind, row.what, row.measured, *said])
    save_figure(draw(pd.read_csv(DOCS / "published.csv")), DOCS / "published.png")
    _write_serving(_serving_section(ours, out))
    print("\n".join(lines))


@styled
def draw(table: pd.DataFrame, ax: Axes | None = None, size: Size | None = None) -> Figure:
    """Return the figure of published.csv: predicted over measured of each speed, by class of device."""
    quantities = {MEMORY: "", ROWS: "", PREFILL: "prefill"}
    table = table.assign(quantity=[quantities.get(what, "decode") for what in table["what"]])
    kinds = [k for k in CLASSES if k in set(table["class"])]
    panels = new_panels(1, ax, size, panel=(7.4, 4.4))
    axes = panels.axes[0]
    shown = {"decode": (BLUE, "o"), "prefill": (RED, "s")}
    for column, shift, filled in (("roofline", -0.18, True), ("roofline, each source left out", 0.18, False)):
        for quantity, (colour, mark) in shown.items():
            for kind, rows in table[(table["quantity"] == quantity) & table[column].notna()].groupby("class"):
                x = kinds.index(str(kind)) + shift + 0.025 * (np.arange(1, len(rows) + 1) % 7 - 3)
                y = rows[column] / rows["measured"]
                axes.plot(x, y, mark, color=colour, markersize=4, markerfacecolor=colour if filled else "white")
    axes.axhline(1, color=GREY, linewidth=1)
    axes.axhspan(0.8, 1.25, color=GREY, alpha=0.12, linewidth=0)
    log_axis(axes.yaxis, plain)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel("predicted over measured speed")
    sides = ("fitted to all", True), ("source left out", False)
    entries = [
        (colour, mark, filled, f"{quantity}, {name}")
        for quantity, (colour, mark) in shown.items()
        for name, filled in sides
    ]
    handles: list[Any] = [
        Line2D([], [], color=colour, marker=mark, linestyle="", markerfacecolor=colour if filled else "white")
        for colour, mark, filled, _ in entries
    ]
    panels.heading("Published speeds: roofline over measured")
    panels.legend([*handles, band_handle()], [*(label for *_, label in entries), "within 25 %"])
    return panels.root


if __name__ == "__main__":
    main()
