"""Scores of models on tasks: columns of a run's record, and one file per model beside the runs of a sweep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scalelab.errors import DataError
from scalelab.records.files import EVALUATIONS, MODELS, read_parquet
from scalelab.records.numbers import to_floats
from scalelab.records.schema import ACCURACY_COLUMN, EVALUATION_KIND, EVALUATION_SCHEMA
from scalelab.records.store import write_table

ACCURACY, ERROR = "accuracy_", "error_"
_STDERR, _DOCS = "_stderr", "_docs"
_IDENTITY = ("task", "metric", "n_streams", "plain", "fewshot", "documents")


def accuracy_columns(task: str) -> tuple[str, str, str]:
    """Return the columns of a task in a run's record: accuracy, its standard error, and the number of documents.

    ``next-line`` has accuracy_next_line, accuracy_next_line_stderr and accuracy_next_line_docs.
    """
    name = ACCURACY + (re.sub(r"\W+", "_", task).strip("_").lower() or "task")
    return name, name + _STDERR, name + _DOCS


def accuracies(names: Iterable[object]) -> list[str]:
    """Return the columns of accuracies among `names`, without those of standard errors and numbers of documents."""
    return [
        name for name in map(str, names) if (match := ACCURACY_COLUMN.fullmatch(name)) is not None and match[1] is None
    ]


def with_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` with accuracies as numbers and, for each, ``error_…``: 1 − accuracy, which falls with N."""
    unique = [str(name) for name in table.columns[~table.columns.duplicated(keep=False)]]
    names = {name: to_floats(table[name]) for name in unique if ACCURACY_COLUMN.fullmatch(name)}
    errors = {ERROR + name.removeprefix(ACCURACY): 1 - names[name] for name in accuracies(names)}
    return table.assign(**names, **{name: values for name, values in errors.items() if name not in table})


def sweep_of_model(model: Path) -> Path | None:
    """Return the folder of the sweep that saved `model` in its folder of models, or None."""
    parent = model.resolve().parent
    return parent.parent if parent.name == MODELS and (parent.parent / "runs").is_dir() else None


def evaluation_path(folder: Path, name: str) -> Path:
    """Return the file of the evaluations of a model in the sweep folder `folder`."""
    return folder / EVALUATIONS / f"{name}.parquet"


def write_evaluations(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Add the scores of a model to its file; a score on the same documents replaces an older one.

    Args:
        folder: Folder of the sweep.
        name: Name of the model's folder; in a sweep that is the run's key.
        rows: Rows of `EVALUATION_SCHEMA`.

    Raises:
        DataError: The existing file cannot be read.
    """
    path = evaluation_path(folder, name)
    old = read_evaluation(path).to_dict("records") if path.exists() else []
    kept = {tuple(row.get(key) for key in _IDENTITY): row for row in [*old, *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, kept.values(), EVALUATION_SCHEMA)
    return path


def read_evaluation(file: Path) -> pd.DataFrame:
    """Return the scores in one file, with the columns of `EVALUATION_SCHEMA`. Raises `DataError` naming the file."""
    found = read_parquet(file)
    if found.kind != EVALUATION_KIND.decode() or not {*EVALUATION_SCHEMA.names} <= {*found.table}:
        raise DataError(f"{file}: not an evaluation; move it away")
    table = found.table[EVALUATION_SCHEMA.names].astype(object)
    return table.where(table.notna(), None)


def read_evaluations(source: str | Path, faults: list[DataError] | None = None) -> pd.DataFrame:
    """Return the scores of all models of a results folder, a row for each task, metric and P, in a stable order.

    Errors of unreadable files are appended to `faults`, if it is given, and their files are left out.
    """
    folder = Path(source)
    frames = []
    for file in sorted(folder.rglob(f"{EVALUATIONS}/[!.]*.parquet")) if folder.is_dir() else ():
        try:
            frames.append(read_evaluation(file))
        except DataError as error:
            if faults is None:
                raise
            faults.append(error)
    if not frames:
        return pd.DataFrame(columns=EVALUATION_SCHEMA.names)
    return pd.concat(frames, ignore_index=True)
