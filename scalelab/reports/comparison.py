"""Reports of cost comparisons at equal loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isinf
from typing import TYPE_CHECKING, Any

from scalelab.cost.compare import Average, Comparison, Ratio
from scalelab.cost.equal_loss import widened
from scalelab.cost.request import GIB, interval_of
from scalelab.fit.data import CONVENTIONS
from scalelab.reports.blocks import Line, Report, Table, note_lines
from scalelab.reports.json_values import as_json_value
from scalelab.units import format_count, format_interval, format_number, plural

if TYPE_CHECKING:
    from scalelab.plan.comparison import Answer, CostComparison, Question


def comparison_report(comparison: CostComparison) -> Report:
    """Return a table, verdicts and notes for each P, and the assumptions."""
    blocks: list[Table | Line] = [Line(text, "info") for text in comparison.notes]
    question = comparison.question
    for title in dict.fromkeys(answer.title for answer in comparison):
        answers = [answer for answer in comparison if answer.title == title]
        for answer in answers:
            blocks += [*_one(answer), *note_lines(answer.notes)]
        blocks += [Line(line, "dim") for line in _assumptions(question, answers[0])]
        if not all(row.fits for answer in answers for row in answer.rows):
            text = "rows with * include requests that need more memory than the device has"
            blocks.append(Line(text, "warning"))
        blocks.append(Line(""))
    return Report.of([*blocks, *(Line(f"not compared: {error}", "left out") for error in comparison.failures)])


def _one(answer: Answer) -> Iterator[Table | Line]:
    memory, latency = _unit(answer, "memory_bytes"), _unit(answer, "latency_s")
    title = (
        f"{answer.title}: hidden {answer.streams.hidden_size:g} with P = {answer.streams.P}, "
        f"N {format_count(answer.n_params, 4)}, loss {answer.loss:.4f};\n{_plain_model(answer)}\n({answer.source})"
    )
    sure = [all(getattr(row, f"{name}_ratio").low is None for row in answer.rows) for name in ("memory", "latency")]
    table = Table(title, ["batch", *_headings(memory[0], sure[0]), *_headings(latency[0], sure[1])])
    for row in answer.rows:
        table.add(
            f"{row.batch}{'' if row.fits else ' *'}",
            *_increases(row, lambda a: a.memory_bytes / memory[1]),
            _ratio(row.memory_ratio),
            *_increases(row, lambda a: a.latency_s / latency[1]),
            _ratio(row.latency_ratio),
        )
    yield table
    yield from (Line(line) for line in verdicts(answer))
    yield from (Line(line, "dim") for line in _price_errors(answer))


def _price_errors(answer: Answer) -> Iterator[str]:
    """Yield the errors of the cost model against published measurements, and which of them the ratios include."""
    streams = answer.rows[0].streams
    common, memory = interval_of(1.0, streams.spread), interval_of(1.0, streams.memory_spread)
    if common is None or memory is None:
        return
    yield (
        f"errors against published measurements on this class of device, 95 %: latency ×{_span(common)}, memory "
        f"×{_span(memory)}; they affect all models alike and cancel in the ratios"
    )
    if rows := interval_of(1.0, streams.streams_spread):
        yield f"  extra latency of P = {answer.streams.P} streams: ×{_span(rows)}; the intervals of ratios include this"


def _span(ends: tuple[float, float]) -> str:
    return "–".join(f"{end:.2f}" for end in ends)


def _plain_model(answer: Answer) -> str:
    size = answer.size
    if isinf(size.value):
        return "no plain model reaches this loss"
    words = format_count(size.value, 4)
    if size.low is not None and size.high is not None:
        words += f" ({format_interval(size.low, size.high, lambda n: format_count(n, 4))})"
    return f"plain model of equal loss: N {words}, hidden {answer.plain_hidden:.2f}"


def _unit(answer: Answer, of: str) -> tuple[str, float]:
    """Return the largest unit that shows the smallest increase, and its size in bytes or seconds."""
    units = {"GiB": GIB, "MiB": 2**20, "KiB": 2**10} if of == "memory_bytes" else {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    least = min(abs(getattr(row.streams, of) - getattr(row.base, of)) for row in answer.rows)
    return next(((name, size) for name, size in units.items() if least >= 0.01 * size), list(units.items())[-1])


def _headings(unit: str, sure: bool) -> list[str]:
    return [f"P = 1 {unit}", "streams add", "larger N adds", "ratio" if sure else "ratio (95 % interval)"]


def verdicts(answer: Answer) -> list[str]:
    """Return sentences on the batch sizes where streams cost less or more than a larger N, or where that is open."""
    P, size = answer.streams.P, answer.size.value
    backbone = answer.streams.with_streams(1).count_params(answer.convention)
    if isinf(size):
        return [f"By this law, no plain model of any size reaches the loss of P = {P}, so there is no ratio."]
    lines = []
    if size <= backbone and answer.size.high is not None and answer.size.high > backbone:
        lines.append(
            f"It is open whether P = {P} streams gain anything here: the plain model of equal loss is about as large "
            "as their backbone, and may be smaller or larger within the interval."
        )
    elif size <= backbone:
        return [
            f"P = {P} streams gain nothing here: the plain model of equal loss is not larger than their backbone, so "
            "they only add cost."
        ]
    for name in ("memory", "latency"):
        kinds: dict[str, list[str]] = {"wins": [], "loses": [], "open": []}
        for row in answer.rows:
            ratio: Ratio = getattr(row, f"{name}_ratio")
            low, high = (ratio.value if end is None else end for end in (ratio.low, ratio.high))
            kind = "wins" if low > 1 else "loses" if high < 1 else "open"
            kinds[kind].append(f"{_times(ratio.value)} at batch {row.batch}")
        if kinds["wins"]:
            lines.append(f"A larger N adds more {name} than P = {P} streams: {', '.join(kinds['wins'])}.")
        if kinds["loses"]:
            lines.append(f"P = {P} streams add more {name} than a larger N: {', '.join(kinds['loses'])}.")
        if kinds["open"]:
            lines.append(f"It is open which adds less {name}: {', '.join(kinds['open'])}.")
    return lines


def _increases(row: Comparison, of: Callable[[Average], float]) -> list[str]:
    base = of(row.base)
    return [f"{base:.3f}", *("none" if a is None else f"{of(a) - base:+.3f}" for a in (row.streams, row.plain))]


def _ratio(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return _times(ratio.value)
    ends = format_interval(ratio.low, ratio.high, lambda end: _times(end).removesuffix("×"))
    return f"{_times(ratio.value)} ({ends})"


def _times(value: float) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return "no limit" if isinf(value) else f"{value:.1f}×" if abs(value) >= 9.95 else f"{round(value, 2) + 0.0:.2f}×"


def _assumptions(question: Question, answer: Answer) -> list[str]:
    family = answer.streams
    plain = widened(family, family.hidden_size)
    ratio = format_number(plain.intermediate_size / plain.hidden_size, 3)
    layers, heads = plural(family.num_layers, "layer"), plural(family.num_heads, "head")
    kv = plural(family.num_kv_heads, "KV head")
    spans = ", ".join(map(str, question.lengths))
    return [
        f"prices: {question.priced_by}; mean over tokens in = tokens out = {spans}",
        f"  increases are over P = 1 at hidden {family.hidden_size:g}; ratio: increase of larger N to that of streams",
        f"  plain model of equal loss: {layers}, {heads}, {kv}, MLP {ratio}·hidden, vocabulary {family.vocab_size:,}, "
        "hidden size not rounded",
        f"  N: {CONVENTIONS[answer.convention].meaning}",
    ]


def comparison_json(comparison: CostComparison) -> list[dict[str, Any]]:
    """Return a mapping for each P and batch size, unrounded; infinities are "inf"."""
    return [as_json_value(row) for answer in comparison for row in _rows(comparison.question, answer)]


def _rows(question: Question, answer: Answer) -> list[dict[str, Any]]:
    about: dict[str, Any] = {
        "group": answer.title,
        "hidden": answer.streams.hidden_size,
        "P": answer.streams.P,
        "n_params": answer.n_params,
        "loss": answer.loss,
        "base_loss": answer.base_loss,
        "plain_n_params": answer.size.value,
        "plain_n_params_low": answer.size.low,
        "plain_n_params_high": answer.size.high,
        "plain_hidden": answer.plain_hidden,
        "count": answer.convention,
        "source": answer.source,
        "priced_by": question.priced_by,
        "lengths": list(question.lengths),
        "notes": [f"{n.severity}: {n.message}" for n in answer.notes],
    }
    rows = []
    for row in answer.rows:
        costs: dict[str, Any] = {}
        for name, average in (("base", row.base), ("streams", row.streams), ("plain", row.plain)):
            costs[f"{name}_memory_bytes"] = None if average is None else average.memory_bytes
            costs[f"{name}_latency_s"] = None if average is None else average.latency_s
            costs[f"{name}_memory_interval_bytes"] = None if average is None else average.memory_interval_bytes
            costs[f"{name}_latency_interval_s"] = None if average is None else average.latency_interval_s
        for name, ratio in (("memory_ratio", row.memory_ratio), ("latency_ratio", row.latency_ratio)):
            costs |= {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
        rows.append({**about, "batch": row.batch, **costs, "fits": row.fits})
    return rows
