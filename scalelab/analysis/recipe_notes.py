"""Notes on comparisons of recipes: what their runs cannot support."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from scalelab.analysis.recipe_law import RECIPE, Factor
from scalelab.analysis.recipe_result import LossMultiplier
from scalelab.analysis.recipe_tests import ModelScore, SharedTest
from scalelab.fit.data import FitData
from scalelab.fit.groups import Group
from scalelab.fit.influence import MAX_CONDITION
from scalelab.fit.notes import MANY
from scalelab.fit.objective import Objective
from scalelab.fit.optimum_notes import MIN_AGREEMENT
from scalelab.fit.result import Note
from scalelab.fit.solver import Optimum
from scalelab.laws import Law
from scalelab.units import format_count, plural

UNLIKELY = 0.05
BETTER = 2.0  # of AICc, from which another model is preferred


def fit_notes(objective: Objective, data: FitData, optimum: Optimum, condition: float) -> Iterator[Note]:
    """Yield notes on the fit of the shared law."""
    if condition > MAX_CONDITION or optimum.agreement < MIN_AGREEMENT:
        yield Note(
            "versus_uncertain",
            "warning",
            "the shared law is not determined by these runs: its parameters mean little alone; the multiplier may "
            "still be, see its interval",
            {"condition": condition, "agreement": optimum.agreement},
        )
    free = int(objective.free.sum())
    if data.n_configs < MANY * free:
        yield Note(
            "versus_few_runs",
            "warning",
            f"{data.n_configs} configurations for {free} parameters: intervals are rough; use {MANY * free} or more",
            {"configurations": data.n_configs, "parameters": free},
        )


def comparison_notes(
    groups: tuple[Group, Group],
    names: tuple[str, str],
    data: FitData,
    base: Law,
    factor: Factor,
    models: Sequence[ModelScore],
    tests: Sequence[SharedTest],
    by_loss: Sequence[LossMultiplier],
) -> Iterator[Note]:
    """Yield notes on what the recipes share, and on other differences between their runs."""
    refused = [test for test in tests if test.p < UNLIKELY]
    if refused:
        test = refused[0]
        change = ""
        if by_loss:
            high, low = by_loss
            change = f": it is {high.multiplier.value:.3g} at loss {high.loss:.4g} and {low.multiplier.value:.3g} at "
            change += f"{low.loss:.4g}"
        yield Note(
            "versus_not_shared",
            "warning",
            f"shared {test.shared} are not supported (p = {test.p:.2g}): one multiplier does not describe both recipes"
            f"{change}",
            {"F": test.F, "p": test.p},
        )
    factors = [m for m in models if m.label.startswith("factor on ")]
    mine = next((m for m in factors if m.label == f"factor on {factor}"), None)
    best = min(factors, key=lambda m: m.aicc, default=None)
    if mine is not None and best is not None and mine.aicc - best.aicc > BETTER:
        other = best.label.removeprefix("factor on ")
        yield Note(
            "versus_other_factor",
            "warning",
            f"a factor on {other} is better supported than one on {factor}, by {mine.aicc - best.aicc:.1f} of AICc: "
            f"use `factor='{other}'`",
            {"delta": mine.aicc - best.aicc},
        )
    same = next((m for m in models if m.label == "no difference"), None)
    if same is not None and mine is not None and same.aicc < mine.aicc:
        yield Note(
            "versus_no_difference",
            "info",
            f"a model without a difference has an AICc {mine.aicc - same.aicc:.1f} lower: at equal N and D these runs "
            "do not tell the recipes apart",
            {"delta": mine.aicc - same.aicc},
        )
    yield from _other_differences(groups, names, data, base)


def _other_differences(groups: tuple[Group, Group], names: tuple[str, str], data: FitData, base: Law) -> Iterator[Note]:
    recipe = data.others[RECIPE]
    for column, what, why in (
        ("tokenizer_digest", "tokenizers", "a loss per token is not the same quantity: compare bits per byte"),
        ("corpus_digest", "texts", "their validation losses may be of different text"),
    ):
        seen = [set(group.records[column].dropna()) if column in group.records else set() for group in groups]
        if all(seen) and seen[0] != seen[1]:
            yield Note("versus_other_text", "warning", f"the recipes have different {what}: {why}", {})
    if "D" not in base.variables and "D" in data.known:
        D = [np.unique(data.D[recipe == i]) for i in (0, 1)]
        if not np.array_equal(D[0], D[1]):
            text = " and ".join(f"{name} has {_range(values)}" for name, values in zip(names, D, strict=True))
            yield Note(
                "versus_other_D",
                "warning",
                f"D differs between the recipes ({text}), and the {base.name} law ignores it: the multiplier includes "
                "the effect of D",
                {},
            )
    if "P" not in base.variables and any(len(np.unique(data.P[recipe == i])) > 1 for i in (0, 1)):
        yield Note("versus_P_ignored", "warning", f"P varies within a recipe, and the {base.name} law ignores it", {})
    devices = [_devices(group.records) for group in groups]
    if all(devices) and devices[0] != devices[1]:
        yield Note(
            "versus_other_device",
            "warning",
            f"the recipes were trained on different devices ({' and '.join(', '.join(sorted(d)) for d in devices)}): "
            "seconds do not compare",
            {},
        )


def _devices(records: pd.DataFrame) -> set[str]:
    return set(records["device"].dropna()) if "device" in records else set()


def _range(values: np.ndarray) -> str:
    ends = dict.fromkeys(format_count(float(v)) for v in (values.min(), values.max()))
    return "–".join(ends) if len(values) else plural(0, "value")
