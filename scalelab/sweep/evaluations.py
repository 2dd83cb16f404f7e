"""Evaluation of the final models of a sweep: the tasks of a spec, and their columns in the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from scalelab.evaluation.record import accuracy_values
from scalelab.evaluation.score import score_model
from scalelab.evaluation.tasks import TaskSet, need_lm_eval, task_set
from scalelab.records.evaluations import accuracy_columns
from scalelab.records.files import MODELS, read_record
from scalelab.records.store import record_path, update_record
from scalelab.train.corpus import Corpus
from scalelab.train.recipe import RunConfig
from scalelab.train.run import run_tokenizer
from scalelab.train.stage import open_model
from scalelab.train.tokens import TokenData

_BATCH = 32


@dataclass(frozen=True)
class RunTasks:
    """Tasks of the models of a sweep, the same documents for all. `names` are those of single tasks, without groups."""

    tasks: TaskSet
    names: tuple[str, ...]

    def lacking(self, record: Mapping[str, Any]) -> bool:
        """Return true if `record` lacks an accuracy."""
        return any(pd.isna(record.get(accuracy_columns(name)[0])) for name in self.names)

    def columns(self, model: Any, tokenizer: PreTrainedTokenizerBase, bf16: bool) -> dict[str, Any]:
        """Return accuracies, standard errors and numbers of documents of a model as columns of its record."""
        settings = [(model.P, False)]
        loaded = self.tasks.load(tokenizer)
        return accuracy_values(score_model(model, tokenizer, loaded, settings, batch_size=_BATCH, bf16=bf16))


def run_tasks(names: tuple[str, ...], corpus: Corpus) -> RunTasks | None:
    """Return the tasks `names` on the held-out part of `corpus`; None if there are none.

    Raises:
        UsageError: There is no such task.
        DataError: The held-out text is too short, or the data of a task are not on this machine.
        MissingPackageError: lm_eval is not installed.
    """
    if not names:
        return None
    need_lm_eval()
    tasks = task_set(names, lambda: (corpus.name, corpus.validation))
    return RunTasks(tasks, tuple(tasks.load()) if tasks.others else tuple(tasks.items))


def needs_evaluation(out: Path, key: str, evaluation: RunTasks) -> bool:
    """Return true if the record of the finished run `key` lacks an accuracy."""
    return evaluation.lacking(read_record(record_path(out, key)))


def evaluate_saved(config: RunConfig, data: TokenData, out: Path, evaluation: RunTasks, device: str) -> dict[str, Any]:
    """Evaluate the saved model of a run, add the accuracies to its record, and return the record."""
    model = open_model(out / MODELS / config.key, None, device)
    columns = evaluation.columns(model, run_tokenizer(data), config.recipe.dtype == "bf16")
    update_record(out, config.key, columns)
    return read_record(record_path(out, config.key))
