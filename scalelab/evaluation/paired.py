"""Paired differences between scores on the same documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scalelab.evaluation.score import Score
from scalelab.train.evaluate import clustered_mean

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean over documents of the score with P streams minus that with `base` streams, with its interval."""

    task: str
    metric: str
    P: int
    base: int
    base_plain: bool
    value: float
    stderr: float
    low: float
    high: float
    n_docs: int


def paired_differences(scores: Sequence[Score]) -> Iterator[Difference]:
    """Yield the differences of each score from the first one of its task and metric.

    Both have the same documents, so the difference of each document counts, which varies less than the scores do.
    Intervals are Student's t over the texts that the documents are from.
    """
    first: dict[tuple[str, str], Score] = {}
    for score in scores:
        base = first.setdefault((score.task, score.metric), score)
        if base is score or not len(score.values) or len(score.values) != len(base.values):
            continue
        each = score.values - base.values
        mean, stderr = clustered_mean(each, score.clusters)
        texts = len(np.unique(score.clusters))
        half = float(stats.t.ppf(0.5 + LEVEL / 2, max(1, texts - 1))) * stderr
        yield Difference(
            score.task,
            score.metric,
            score.P,
            base.P,
            base.plain,
            mean,
            stderr,
            mean - half,
            mean + half,
            len(each),
        )
