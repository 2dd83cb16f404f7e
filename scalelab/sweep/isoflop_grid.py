"""Grids of equal training FLOPs: for each budget and P, sizes around the expected optimum and the D that they get."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from scalelab.architecture import Architecture, architecture_for
from scalelab.errors import UsageError
from scalelab.sweep.spec import SweepSpec
from scalelab.train.recipe import whole_steps
from scalelab.units import format_count, format_number, plural

FLOPS_PER_TOKEN = 6.0  # per parameter of the backbone and stream, forward and backward (arXiv 2203.15556)
STEP = math.sqrt(2.0)  # between sizes, so that seven cover ±0.45 decades
LEAST_SIZES = 3  # for a quadratic
LEAST_STEPS = 20  # a budget is met within half a step


@dataclass(frozen=True)
class IsoPoint:
    """One size of a budget: its shape with P streams, and D in tokens."""

    budget: float
    shape: Architecture
    n_tokens: int


def isoflop_points(spec: SweepSpec, vocab_size: int) -> Iterator[IsoPoint]:
    """Yield the sizes of each budget, prefix length and P of a spec, for its first aggregation.

    C = 6·N·D·P with the parameters of the backbone that a token uses. Sizes are those of the spec, or √2 apart around
    the N with `isoflop_ratio` tokens for each parameter.

    Raises:
        UsageError: a budget is impossible; the message names it with its P.
    """
    for budget in spec.isoflop:
        for prefix_tokens in spec.prefix_tokens:
            for P in spec.P:
                yield from _sizes(spec, budget, prefix_tokens, P, vocab_size)


def _sizes(spec: SweepSpec, budget: float, prefix_tokens: int, P: int, vocab_size: int) -> Iterator[IsoPoint]:
    name = f"isoflop: {format_number(budget)} FLOPs" + (f" with P = {P}" if P > 1 else "")
    middle = math.sqrt(budget / (FLOPS_PER_TOKEN * P * spec.isoflop_ratio))
    count = spec.isoflop_sizes
    wanted = spec.N or tuple(middle * STEP ** (i - (count - 1) / 2) for i in range(count))
    shapes: dict[Architecture, None] = {}
    for N in wanted:
        try:
            shapes[architecture_for(N, vocab_size, prefix_tokens, **spec.family, ladder=spec.ladder)] = None
        except UsageError as error:
            ends = f"{format_count(min(wanted))} to {format_count(max(wanted))}"
            raise UsageError(f"{name} needs N from {ends}: {error}; give other budgets, or `N`") from None
    if len(shapes) < LEAST_SIZES:
        raise UsageError(
            f"{name} has {plural(len(shapes), 'size')} of the ladder; a quadratic needs {LEAST_SIZES}: give more `N`"
        )
    for shape in shapes:
        D = budget / (FLOPS_PER_TOKEN * shape.active_backbone_params * P)
        step = spec.recipe.seq_len * spec.recipe.batch_size
        if D / step < LEAST_STEPS:
            raise UsageError(
                f"{name} leaves N {format_count(shape.active_backbone_params)} with D {format_count(D)}, fewer than "
                f"{LEAST_STEPS} steps of {format_count(step)} tokens: give a larger budget, smaller `N` or smaller "
                "`batch_size`"
            )
        yield IsoPoint(
            budget, replace(shape, P=P, single_prefix=spec.single_prefix and P == 1), whole_steps(D, spec.recipe)
        )
