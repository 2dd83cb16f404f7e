"""Scores as rows of an evaluation's record, and as columns of a run's record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from scalelab import __version__
from scalelab.errors import ScalelabError
from scalelab.evaluation.score import Score, main_metric
from scalelab.records.evaluations import accuracy_columns


def evaluation_rows(
    model: str, scores: Sequence[Score], tasks: Mapping[str, Any], corpus: str, dtype: str
) -> list[dict[str, Any]]:
    """Return rows of `EVALUATION_SCHEMA`.

    Args:
        model: Name of the model's folder.
        scores: Its scores.
        tasks: Task objects of lm-eval by name.
        corpus: Corpus whose held-out text the tasks of the package are from.
        dtype: Precision.
    """
    versions = {name: version(name) for name in ("torch", "transformers", "lm_eval")}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        {
            "model": model,
            "task": score.task,
            "metric": score.metric,
            "n_streams": score.P,
            "plain": score.plain,
            "value": score.value,
            "stderr": score.stderr,
            "n_docs": score.n_docs,
            "higher_is_better": score.higher_is_better,
            "fewshot": tasks[score.task].get_config("num_fewshot"),
            "corpus": corpus,
            "documents": score.documents,
            "values": score.values.tolist(),
            "clusters": score.clusters.tolist(),
            "dtype": dtype,
            "versions": json.dumps({"scalelab": __version__, **versions}),
            "created_utc": now,
        }
        for score in scores
    ]


def accuracy_values(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the columns of a run's record for its scores on one or more tasks.

    Raises:
        ScalelabError: A task has no metric that is a mean over documents.
    """
    columns: dict[str, Any] = {}
    for task in dict.fromkeys(score.task for score in scores):
        main = main_metric([score for score in scores if score.task == task])
        if main is None:
            raise ScalelabError(f"task {task}: has no accuracy; leave it out of `eval` and run it on saved models")
        columns |= dict(zip(accuracy_columns(task), (main.value, main.stderr, main.n_docs), strict=True))
    return columns
