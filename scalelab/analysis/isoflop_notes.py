"""Notes on IsoFLOP grids: what their minima and exponents cannot support."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from scalelab.analysis.isoflop_result import Minimum, Scaling
from scalelab.fit.result import Note
from scalelab.laws.base import Array
from scalelab.units import format_count, format_number, plural

OFF_CENTRE = 0.25  # of the range of ln N, from its middle
WIDE = 0.75  # decades of N on each side of the middle
FEW_SIZES, FEW_BUDGETS = 5, 4
UNEVEN = 0.05  # in ln FLOPs, within a budget
_BIASED = 0.03  # of N


def budget_notes(
    left: int, total: int, few: int, off: Sequence[Array], keys: Sequence[tuple[float, int]]
) -> Iterator[Note]:
    """Yield notes on runs that are in no budget, and on budgets whose runs differ in FLOPs."""
    if left:
        why = f", {plural(few, 'budget has', 'budgets have')} fewer than three sizes" if few else ""
        yield Note(
            "isoflop_left_out",
            "info",
            f"{left} of {plural(total, 'configuration')} {'is' if left == 1 else 'are'} in no budget{why}",
            {"configurations": left},
        )
    widest = max(range(len(off)), key=lambda i: float(np.ptp(off[i])))
    spread = float(np.expm1(np.ptp(off[widest])))
    if spread > UNEVEN:
        yield Note(
            "isoflop_uneven",
            "warning",
            f"runs of the budget {format_number(keys[widest][0], 3)} differ by {spread:.0%} in FLOPs: their losses are "
            "moved to the budget along the slope of the lowest losses, which is rough",
            {"spread": spread},
        )


def grid_notes(minima: Sequence[Minimum]) -> Iterator[Note]:
    """Yield notes on minima that are missing, off centre or open, and on grids that are too wide or too small."""
    outside = [m for m in minima if m.N is None or not m.range[0] <= np.log(m.N.value) <= m.range[1]]
    for m in outside:
        # Without a minimum the loss falls to the side that the slope at the centre points to.
        up = m.coefficients[1] < 0 if m.N is None else np.log(m.N.value) > m.range[1]
        end = format_count(float(np.exp(m.range[1 if up else 0])))
        yield Note(
            "isoflop_outside",
            "serious",
            f"the minimum at {_at(m)} is not between the sizes that were trained: add N {'above' if up else 'below'} "
            f"{end}; this budget is left out of the exponents",
            {"flops": m.flops, "P": m.P},
        )
    inside = [m for m in minima if not any(m is other for other in outside)]
    shifted = [m for m in inside if abs(_shift(m)) > OFF_CENTRE]
    if shifted:
        worst = max(shifted, key=lambda m: abs(_shift(m)))
        side = "upper" if _shift(worst) > 0 else "lower"
        yield Note(
            "isoflop_off_centre",
            "warning",
            f"{_of(len(shifted), len(inside))} lie in the outer quarter of their sizes, such as that at {_at(worst)} "
            f"in the {side} one: a quadratic is then biased; add sizes on that side",
            {"minima": len(shifted)},
        )
    wide = [m for m in inside if _decades(m) > WIDE]
    if wide:
        worst = max(wide, key=_decades)
        known = [abs(m.bias) for m in wide if m.bias is not None]
        cost = f", by up to {max(known):.1%} on the fitted law" if known else ""
        yield Note(
            "isoflop_wide",
            "warning",
            f"{_of(len(wide), len(inside))} are of sizes over ±{_decades(worst):.2f} decades: the loss is no quadratic "
            f"that far out, and N is biased{cost}; use `window=4`",
            {"minima": len(wide), "decades": _decades(worst)},
        )
    biased = [m for m in inside if m not in wide and m.bias is not None and abs(m.bias) > _BIASED]
    if biased:
        worst = max(biased, key=lambda m: abs(m.bias or 0.0))
        yield Note(
            "isoflop_biased",
            "warning",
            f"on the fitted law the quadratics of these sizes miss N by {worst.bias:+.1%} at {_at(worst)}: centre the "
            "sizes on the minimum, or use a smaller `window`",
            {"bias": float(worst.bias or 0.0)},
        )
    small = [m for m in minima if m.sizes < FEW_SIZES]
    if small:
        yield Note(
            "isoflop_few_sizes",
            "warning",
            f"{_of(len(small), len(minima))} have fewer than {FEW_SIZES} sizes: a quadratic has three coefficients, so "
            "little is left to measure its error; train more N at each budget",
            {"minima": len(small)},
        )
    opened = [m for m in inside if m.N is not None and not _closed(m)]
    if opened:
        yield Note(
            "isoflop_flat",
            "warning",
            f"{_of(len(opened), len(inside))} have an open interval of N, such as that at {_at(opened[0])}: the loss "
            "is flat for its noise; use more seeds or sizes further out",
            {"minima": len(opened)},
        )


def exponent_notes(scaling: Sequence[Scaling], why: str) -> Iterator[Note]:
    """Yield notes on exponents: too few budgets, none at all, no law, and approaches that disagree."""
    own = [s for s in scaling if s.approach == "isoflop"]
    budgets = [int(s.source.split()[0]) for s in own]
    if not own:
        yield Note(
            "isoflop_no_exponents",
            "warning",
            "fewer than two budgets have a minimum between their sizes, so there are no exponents",
            {},
        )
    elif min(budgets) < FEW_BUDGETS:
        yield Note(
            "isoflop_few_budgets",
            "warning",
            f"exponents from {plural(min(budgets), 'budget')}: use {FEW_BUDGETS} or more to see whether ln N is "
            "straight over ln C",
            {"budgets": min(budgets)},
        )
    if why:
        yield Note("isoflop_no_law", "info", f"no law to compare with: {why}", {})
    for s in own:
        other = next((o for o in scaling if o.approach == "law" and o.P == s.P), None)
        ends = (s.a.low, s.a.high, other.a.low if other else None, other.a.high if other else None)
        if other is None or any(end is None for end in ends):
            continue
        low, high, law_low, law_high = (float(end or 0.0) for end in ends)
        if law_low > high or law_high < low:
            yield Note(
                "isoflop_disagrees",
                "warning",
                f"at P = {s.P} the intervals of a by IsoFLOP ({s.a.value:.3f}) and by the {other.source} "
                f"({other.a.value:.3f}) do not overlap: the quadratics are biased, or the law is wrong",
                {"isoflop": s.a.value, "law": other.a.value},
            )
    if any(s.approach == "envelope" for s in scaling):
        yield Note(
            "isoflop_envelope",
            "info",
            "points on the way of a curve are from before the learning rate has decayed, so the envelope may prefer "
            "other sizes than finished runs do",
            {},
        )


def scatter_note(P: int, wider: float) -> Note:
    """Return the note on minima that scatter more than their intervals allow."""
    return Note(
        "isoflop_scatter",
        "warning",
        f"at P = {P} the minima scatter around their line more than their errors allow: the exponents' intervals are "
        f"made {wider:.2g} times wider",
        {"P": P, "factor": wider},
    )


def law_note(name: str) -> Note:
    """Return the note on a law without an optimum."""
    return Note("isoflop_no_law", "info", f"the fitted {name} law has no best N and D for a budget", {})


def _at(m: Minimum) -> str:
    return f"{format_number(m.flops, 3)} FLOPs" + (f" and P = {m.P}" if m.P != 1 else "")


def _of(some: int, every: int) -> str:
    return f"{some} of {plural(every, 'minimum', 'minima')}"


def _shift(m: Minimum) -> float:
    assert m.N is not None
    return float((np.log(m.N.value) - m.centre) / max(m.range[1] - m.range[0], 1e-12))


def _decades(m: Minimum) -> float:
    return float((m.range[1] - m.range[0]) / 2 / np.log(10))


def _closed(m: Minimum) -> bool:
    if m.N is None or m.N.low is None or m.N.high is None:
        return True
    return bool(m.N.low > 0 and np.isfinite(m.N.high))
