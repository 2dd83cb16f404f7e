"""Reports of IsoFLOP: minima by budget, exponents by approach, streams at equal compute."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scalelab.reports.blocks import Line, Report, Table, note_lines
from scalelab.reports.json_values import as_json_value
from scalelab.reports.predictions import loss_text
from scalelab.units import format_count, format_interval, format_number

if TYPE_CHECKING:
    from scalelab.analysis.isoflop_result import IsoFlops, Minimum, Scaling
    from scalelab.fit.derived import Estimate

_APPROACHES = {"isoflop": "IsoFLOP (2)", "law": "law (3)", "envelope": "envelope (1)"}
_BASES = {"6NDP": "6·N·D·P", "recorded": "as recorded"}


def isoflop_report(found: IsoFlops) -> Report:
    """Return the minima, the exponents, further budgets, the verdict on streams, and notes."""
    several = found.P_levels != (1,)
    blocks: list[Table | Line] = [_minima(found, several)]
    if found.scaling:
        blocks += [_exponents(found, several)]
    if found.asked:
        blocks += list(_asked(found, several))
    blocks += [Line(text, "strong") for text in stream_sentences(found)]
    return Report.of([*blocks, *note_lines(found.notes)])


def _minima(found: IsoFlops, several: bool) -> Table:
    biased = any(row.bias is not None for row in found.minima)
    keys = ["FLOPs", *(["P"] if several else [])]
    headings = [*keys, "sizes", "best N (95 % interval)", "best D", "loss", *(["over P = 1"] if several else [])]
    headings += ["bias of N"] if biased else []
    table = Table(f"{found.group}: minima at equal training FLOPs ({_BASES[found.basis]})", headings, keys=len(keys))
    for row in found.minima:
        cells = [format_number(row.flops, 3), *([str(row.P)] if several else []), str(row.sizes)]
        cells += [_text(row.N, format_count), _value(row.D, format_count), _text(row.loss, loss_text)]
        cells += [_text(row.gain, _signed)] if several else []
        cells += ["" if row.bias is None else f"{row.bias:+.1%}"] if biased else []
        table.add(*cells)
    return table


def _text(found: Estimate | None, form: Any) -> str:
    if found is None:
        return "none"
    # An end of 0 is as open as an infinite one: some resamples have no minimum.
    low = None if found.low is None else (found.low if found.low != 0 else float("-inf"))
    return type(found)(found.value, low, found.high).text(form, "no interval")


def _value(found: Estimate | None, form: Any) -> str:
    return "none" if found is None else form(found.value)


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _exponents(found: IsoFlops, several: bool) -> Table:
    keys = ["<approach", *(["P"] if several else [])]
    table = Table("N ∝ C^a, D ∝ C^b", [*keys, "a (95 % interval)", "b", "<from"], keys=len(keys))
    for row in found.scaling:
        cells = [_APPROACHES[row.approach], *([str(row.P)] if several else [])]
        table.add(*cells, row.a.text(_exponent, "no interval"), row.b.text(_exponent, "no interval"), row.source)
    return table


def _exponent(value: float) -> str:
    return f"{value:.3f}"


def _asked(found: IsoFlops, several: bool) -> Iterator[Table]:
    keys = ["FLOPs", "<approach", *(["P"] if several else [])]
    table = Table("other budgets", [*keys, "best N (95 % interval)", "best D (95 % interval)"], keys=len(keys))
    for flops in found.asked:
        for row in found.scaling:
            cells = [format_number(flops, 3), _APPROACHES[row.approach], *([str(row.P)] if several else [])]
            table.add(*cells, *(line.at(flops).text(format_count, "no interval") for line in (row.N, row.D)))
    yield table


def stream_sentences(found: IsoFlops) -> list[str]:
    """Return a sentence for each budget with several P: the best of P > 1 against P = 1."""
    sentences = []
    for flops in dict.fromkeys(row.flops for row in found.minima):
        own = [row for row in found.minima if row.flops == flops and row.gain is not None]
        if own:
            sentences.append(_pays(flops, min(own, key=lambda row: row.gain.value if row.gain else 0.0)))
    return sentences


def _pays(flops: float, best: Minimum) -> str:
    assert best.gain is not None
    gain = best.gain
    side = "below" if gain.value < 0 else "above"
    text = f"At {format_number(flops, 3)} FLOPs the best P > 1 is {best.P}, {abs(gain.value):.4f} {side} P = 1"
    if gain.low is None or gain.high is None:
        return text + "."
    ends = f"{gain.low:+.4f} to {gain.high:+.4f}"
    if not math.isfinite(gain.high - gain.low):
        ends = f"interval {format_interval(gain.low, gain.high, _signed)}"
    if gain.high < 0:
        return f"{text} ({ends}): streams pay at equal training compute."
    if gain.low > 0:
        return f"{text} ({ends}): streams do not pay at equal training compute."
    return f"{text} ({ends}): these runs do not tell whether streams pay."


def isoflop_json(found: IsoFlops) -> dict[str, Any]:
    """Return minima, exponents, further budgets and notes, unrounded."""
    minima = [
        {
            **{name: getattr(row, name) for name in ("flops", "P", "sizes", "N", "D", "loss", "gain", "bias")},
            "runs": len(row.x),
        }
        for row in found.minima
    ]
    scaling = [
        {"approach": row.approach, "P": row.P, "a": row.a, "b": row.b, "from": row.source, "at": _at(row, found.asked)}
        for row in found.scaling
    ]
    return as_json_value(
        {"group": found.group, "basis": found.basis, "minima": minima, "exponents": scaling, "notes": found.notes}
    )


def _at(row: Scaling, asked: tuple[float, ...]) -> list[dict[str, Any]]:
    return [{"flops": flops, "N": row.N.at(flops), "D": row.D.at(flops)} for flops in asked]
