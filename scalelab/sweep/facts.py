"""Settings by which runs are compared, and their curves: of configs, of records and of running tasks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from scalelab.analysis.final_loss import RunFacts, TrainedRun
from scalelab.errors import ScalelabError
from scalelab.train.cost import train_flops
from scalelab.train.phases import phases
from scalelab.train.recipe import RunConfig

Points = tuple[tuple[int, float], ...]  # step, and the mean training loss since the point before

_RECENT = 0.125  # share of the run that is passed on: the longest window of a forecast, and some more
_SPACING = 0.005  # share of the run between two points that are passed on


@lru_cache(maxsize=4096)
def facts_of_config(config: RunConfig) -> RunFacts:
    """Return the settings of a run."""
    shape, text, recipe = config.architecture, config.text, config.recipe
    return RunFacts(
        N=float(shape.n_params),
        P=float(shape.P),
        D=float(config.n_tokens),
        seed=float(config.seed),
        lr=config.peak_lr,
        batch=float(config.step_tokens),
        flops=float(train_flops(config)),
        setup=config.setup,
        text=f"{text.corpus_digest} {text.tokenizer_digest} {recipe.seq_len} {recipe.val_tokens}",
        schedule=recipe.schedule,
        ends=tuple(phase.steps / config.steps for phase in phases(config)),
        backbone=float(shape.backbone_params),
    )


def facts_of_record(record: Mapping[str, Any]) -> RunFacts | None:
    """Return the settings of a recorded run, or None if N or D is missing.

    Records of other tools have no config of ours: they count as one phase.
    """
    try:
        return facts_of_config(RunConfig.from_json(record["config"]))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, ScalelabError):
        pass
    numbers = {name: _number(record.get(name)) for name in ("n_params", "n_streams", "n_tokens", "seed", "peak_lr")}
    N, D = numbers["n_params"], numbers["n_tokens"]
    if not N or not D:
        return None
    words = {name: _text(record.get(name)) for name in ("setup", "corpus", "corpus_digest", "tokenizer", "schedule")}
    return RunFacts(
        N=N,
        P=numbers["n_streams"] or 1.0,
        D=D,
        seed=numbers["seed"] or 0.0,
        lr=numbers["peak_lr"] or 0.0,
        batch=_number(record.get("batch_size")) or 0.0,
        flops=_number(record.get("train_flops")) or 0.0,
        setup=words["setup"],
        text=" ".join((words["corpus_digest"] or words["corpus"], words["tokenizer"])),
        schedule=words["schedule"],
        backbone=_number(record.get("n_params_backbone")) or 0.0,
    )


def finished_run(facts: RunFacts, curve: pd.DataFrame, loss: float) -> TrainedRun:
    """Return a finished run with its recorded curve and its held-out loss."""
    return TrainedRun(facts, curve["n_tokens"].to_numpy(float) / facts.D, curve["loss"].to_numpy(float), loss)


def running_run(facts: RunFacts, curve: Points, steps: int) -> TrainedRun:
    """Return a run of `steps` steps with the points of its curve so far."""
    points = np.array(curve, dtype=float).reshape(-1, 2)
    return TrainedRun(facts, points[:, 0] / steps, points[:, 1])


def recent_points(curve: Sequence[tuple[int, int, float]], steps: int) -> Points:
    """Return the last part of a curve, an eighth of a run of `steps` steps, at points 0.5 % of the run or more apart.

    Each point has the mean loss since the point before; the first, that of its row of the `curve`.
    """
    if not curve:
        return ()
    before = bisect_right(curve, curve[-1][0] - _RECENT * steps, key=lambda row: row[0])
    rows = curve[max(0, before - 1) :]
    at, losses = np.array([row[0] for row in rows]), np.array([row[2] for row in rows], dtype=float)
    area = np.concatenate([[0.0], np.cumsum(losses[1:] * np.diff(at))])
    kept = [len(rows) - 1]
    for i in range(len(rows) - 2, -1, -1):
        if i == 0 or at[kept[-1]] - at[i] >= _SPACING * steps:
            kept.append(i)
    kept.reverse()
    means = [losses[0], *np.diff(area[kept]) / np.diff(at[kept])]
    return tuple((int(at[i]), round(float(mean), 5)) for i, mean in zip(kept, means, strict=True))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and np.isfinite(float(value)) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
