"""Costs that the records of two recipes hold: training FLOPs, seconds, and the time to serve their shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scalelab.analysis.recipe_costs import Costs
from scalelab.analysis.runs import used_params
from scalelab.conventions import CONVENTIONS
from scalelab.fit.derived import FLOPS_PER_TOKEN
from scalelab.laws.base import Array


def costs_of(tables: Sequence[pd.DataFrame], count: str, gpu: str | None = None) -> list[Costs]:
    """Return the costs that the records of both recipes hold: training FLOPs and seconds, and serving time."""
    column = CONVENTIONS[count].column
    if any(table[column].isna().any() for table in tables):
        return []
    recipe = np.repeat([0.0, 1.0], [len(table) for table in tables])
    N = np.concatenate([table[column].to_numpy(dtype=float) for table in tables])
    D = np.concatenate([table["n_tokens"].to_numpy(dtype=float) for table in tables])
    P = np.concatenate([table["n_streams"].fillna(1).to_numpy(dtype=float) for table in tables])
    used = np.concatenate([used_params(table, table[column].to_numpy(dtype=float)) for table in tables])
    found: list[Costs] = []

    def add(name: str, unit: str, values: Array) -> None:
        if np.isfinite(values).all() and (values > 0).all():
            found.append(Costs(name, unit, N, D, values, recipe))

    recorded = [table["train_flops"].to_numpy(dtype=float) for table in tables]
    if all(np.isfinite(values).all() for values in recorded):
        add("training FLOPs", "FLOPs, as recorded", np.concatenate(recorded))
    else:
        known = bool(np.isfinite(D).all())
        tokens = D if known else np.ones_like(D)  # at equal D it cancels
        add("training FLOPs", "FLOPs, 6·N·D·P" if known else "6·N·D·P at equal D", FLOPS_PER_TOKEN * used * tokens * P)
    add(
        "training time",
        "seconds, as recorded",
        np.concatenate([t["train_seconds"].to_numpy(dtype=float) for t in tables]),
    )
    if gpu is not None:
        found.append(_serving(tables, count, gpu))
    return found


def _serving(tables: Sequence[pd.DataFrame], count: str, gpu: str) -> Costs:
    """Return the time to serve one request on a device, for each shape of the records."""
    from scalelab.cost.equal_loss import measured_runs
    from scalelab.cost.request import PAPER_VOCAB, Workload
    from scalelab.cost.roofline import price
    from scalelab.cost.setting import PRESETS, choose_device

    device, preset = choose_device(gpu), PRESETS["serving"]
    request = Workload(1, preset.tokens_in, preset.tokens_out)
    rows = [
        (float(run.architecture.count_params(count)), price(run.architecture, request, device).latency_s, float(i))
        for i, table in enumerate(tables)
        for run in measured_runs(table, PAPER_VOCAB)
    ]
    N, latency, recipe = np.array(rows).T
    return Costs("serving time", f"seconds a request, {gpu}", N, np.full(len(N), np.nan), latency, recipe)
