"""The section on runs: a table to sort and filter, loss curves, and the health of streams."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from scalelab.page.contents import rounded
from scalelab.page.document import Section
from scalelab.reports.advice import advice_of
from scalelab.reports.blocks import Line, Report
from scalelab.reports.html import with_code
from scalelab.reports.runs import ShownColumn, runs_report, shown_columns
from scalelab.status import RunStatus
from scalelab.units import format_count, plural
from scalelab.visible import shortened, visible

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.api.runs import Runs

_MOST_ROWS = 2000  # of the table; the CSV has all
_CURVE_POINTS = 25_000  # of all curves of a source
_FEWEST_POINTS = 60  # of one curve


def runs_section(sources: Sequence[Runs]) -> Section:
    """Return the section: a part for each source of runs."""
    parts = [_part(i, runs, len(sources) > 1) for i, runs in enumerate(sources)]
    return Section("runs", "Runs", "".join(parts))


def runs_data(runs: Runs) -> dict[str, Any]:
    """Return what the scripts need of one source: its CSV, curves, and diagnostics of streams."""
    return {
        "name": visible(runs.title),
        "csv": runs.to_csv(),
        "rows": len(runs),
        "curves": curves_data(runs),
        "health": health_data(runs.frame),
    }


def _part(number: int, runs: Runs, several: bool) -> str:
    columns = shown_columns(runs.frame)
    frame = runs.frame.head(_MOST_ROWS)
    lines = Report(tuple(block for block in runs_report(runs).blocks if isinstance(block, Line))).html()
    more = len(runs) - len(frame)
    cut = f'<p class="muted">Only the first {len(frame)} runs are shown; the CSV has all.</p>' if more > 0 else ""
    name = f"<h3>{escape(visible(runs.title))}</h3>" if several else ""
    return (
        f'<div class="source" data-source="{number}">{name}'
        f'<div class="panel"><div class="controls filters no-print"></div>'
        f'<div class="scroll tall" tabindex="0" role="region" aria-label="Table of runs">{_table(columns, len(frame))}'
        f"</div>{cut}{lines}</div>"
        f"{_curves_panel(runs)}{''.join(_health_panels(runs.frame))}</div>"
    )


def _table(columns: Sequence[ShownColumn], rows: int) -> str:
    look = ["left" if column.heading.startswith("<") else "" for column in columns]
    head = "".join(
        f'<th scope="col" class="{side}" data-column="{escape(column.name)}">'
        f"{escape(column.heading.removeprefix('<'))}</th>"
        for column, side in zip(columns, look, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(_cell(column, i, side) for column, side in zip(columns, look, strict=True))}</tr>"
        for i in range(rows)
    )
    return f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(column: ShownColumn, row: int, side: str) -> str:
    """Return a cell with the exact value to sort by, in the order that the column's values have."""
    value, text = column.values[row], visible(column.texts[row], keep="")
    exact = "" if value is None else escape(visible(str(value), keep=""))
    if column.name == "status":
        text = text or RunStatus.OK.words
        inner = f'<span class="status {"ok" if value in (None, RunStatus.OK) else "lost"}">{escape(text)}</span>'
    else:
        inner = escape(shortened(text)) if side else escape(text)
    title = f' title="{escape(text)}"' if side and len(text) > 40 else ""
    return f'<td class="{side}" data-value="{exact}"{title}>{inner}</td>'


def _curves_panel(runs: Runs) -> str:
    if not runs.curves:
        return '<p class="muted">These records hold no loss curves.</p>'
    without = len(runs) - len(runs.curves)
    missing = f" {plural(without, 'run has', 'runs have')} no curve." if without else ""
    return (
        '<figure class="panel"><h3>Loss curves</h3><div class="controls" data-controls="curves"></div>'
        '<div class="chart" data-chart="curves"></div><figcaption>Training loss over training tokens. '
        f"Drag to zoom, double-click to see all.{missing}</figcaption></figure>"
    )


def curves_data(runs: Runs) -> list[dict[str, Any]]:
    """Return the loss curve of each run that has one; long ones are averaged over neighbouring points."""
    if not runs.curves:
        return []
    most = max(_FEWEST_POINTS, _CURVE_POINTS // len(runs.curves))
    by_key = {str(row["key"]): row for row in runs.frame.to_dict("records")}
    found = []
    for key, curve in runs.curves.items():
        row = by_key[key]
        tokens, loss = _averaged(curve["n_tokens"].to_numpy(float), curve["loss"].to_numpy(float), most)
        sizes = {name: _known(row[column]) for name, column in _SIZES.items()}
        found.append({**sizes, "x": rounded(tokens), "y": rounded(loss, 5)})
    return sorted(found, key=lambda run: [run[name] or 0.0 for name in _SIZES])


_SIZES = {"size": "n_params_backbone", "N": "n_params", "P": "n_streams", "D": "n_tokens", "seed": "seed"}


def _averaged(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of x and y over as many neighbouring points as give at most `most`."""
    width = math.ceil(len(x) / most)
    if width == 1:
        return x, y
    starts = np.arange(0, len(x), width)
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _known(value: Any) -> float | None:
    return None if value is None or value != value or value.__class__.__name__ == "NAType" else float(value)


def health_data(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the diagnostics of each run with streams: similarity, weights and warnings."""
    found = []
    for row in frame.to_dict("records"):
        weights, warnings = _items(row["mixture_weights"]), _items(row["stream_warnings"])
        if not weights and _known(row["stream_correlation"]) is None:
            continue
        found.append(
            {name: _known(row[column]) for name, column in _SIZES.items()}
            | {
                "cosine": _known(row["stream_cosine"]),
                "correlation": _known(row["stream_correlation"]),
                "weights": rounded(weights, 4),
                "effective": _effective(weights) if weights else None,
                "warnings": [str(warning) for warning in warnings],
            }
        )
    return found


def _items(value: Any) -> list[Any]:
    """Return a list in a table of pandas; empty where it is missing."""
    return list(value) if np.ndim(value) == 1 else []


def _effective(weights: Sequence[float]) -> float:
    """Return the effective number of streams: exp of the entropy of their mean weights."""
    w = np.asarray(weights, dtype=float)
    return float(np.exp(-np.sum(w * np.log(np.maximum(w, 1e-300)))))


def _health_panels(frame: pd.DataFrame) -> Iterator[str]:
    health = health_data(frame)
    if not health:
        if (frame["n_streams"].fillna(1) > 1).any():
            yield '<p class="muted">These records hold no diagnostics of streams.</p>'
        return
    yield (
        '<div class="grid"><figure class="panel"><h3>Are the streams copies?</h3>'
        '<div class="chart small-chart" data-chart="correlation"></div><figcaption>Correlation ρ of the losses of '
        "single streams over tokens. Above 0.99 the streams are nearly copies of each other.</figcaption></figure>"
        '<figure class="panel"><h3>Are all streams used?</h3>'
        '<div class="chart small-chart" data-chart="effective"></div><figcaption>Effective number of streams: exp of '
        "the entropy of their mean weights. It is P if all weigh the same.</figcaption></figure></div>"
    )
    yield _warnings(health)


def _warnings(health: Sequence[Mapping[str, Any]]) -> str:
    named: dict[str, list[str]] = {}
    for run in health:
        for code in run["warnings"]:
            seed = "" if run["seed"] is None else f", seed {run['seed']:.0f}"
            size = "" if run["N"] is None else f"N {format_count(run['N'])}, "
            named.setdefault(code, []).append(f"{size}P {run['P'] or 1:.0f}{seed}")
    if not named:
        text = f"No warnings about the streams of {plural(len(health), 'run')} with P &gt; 1."
        return f'<div class="panel"><p>{text}</p></div>'
    items = []
    for code, where in named.items():
        advice = advice_of(code)
        more = f"; and {len(where) - 6} more" if len(where) > 6 else ""
        text = f"{advice.means if advice else code}: {'; '.join(where[:6])}{more}"
        do = f'<p class="do">What to do: {with_code(advice.do)}.</p>' if advice else ""
        items.append(
            f'<li class="note warning"><p><b>Warning:</b> {escape(visible(text))} <code>{escape(visible(code))}</code>'
            f"</p>{do}</li>"
        )
    return f'<ul class="notes panel">{"".join(items)}</ul>'
