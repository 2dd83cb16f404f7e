"""Evaluation of models on downstream tasks, with each number of streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scalelab.api.loading import (
    DeviceName,
    Dtype,
    check_corpus,
    check_device,
    check_dtype,
    check_model,
    check_writable,
    choose_device,
    console_of,
    load_tokenizer,
    need_torch,
    quiet_libraries,
)
from scalelab.errors import UsageError
from scalelab.shown import Shown
from scalelab.units import plural, whole_numbers

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from scalelab.evaluation.paired import Difference
    from scalelab.evaluation.score import Score

__all__ = ["ModelScores", "evaluate"]


@dataclass(frozen=True)
class ModelScores(Shown):
    """Scores of a model on tasks with each number of streams, and their paired differences.

    Attributes:
        name: Name of the model's folder.
        scores: Scores in the order of tasks, metrics and P.
        differences: Scores with several streams, minus those of the first P on the same documents.
        corpus: Corpus whose held-out text the tasks of the package are from; empty if there is none.
        file: The record, if it was written.
    """

    name: str
    scores: tuple[Score, ...]
    differences: tuple[Difference, ...]
    corpus: str = ""
    file: Path | None = None

    _report: ClassVar[str] = "scalelab.reports.evaluations:scores_report"
    _figure: ClassVar[str] = "scalelab.plot.accuracy:plot_scores"
    _json: ClassVar[str] = "scalelab.reports.evaluations:scores_json"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each task, metric and P."""
        import pandas as pd

        return pd.DataFrame(self.to_dict()["scores"])

    def __repr__(self) -> str:
        tasks = dict.fromkeys(score.task for score in self.scores)
        return f"<ModelScores {self.name}: {', '.join(tasks)}; {plural(len(self.scores), 'score')}>"


def evaluate(
    model: str | Path,
    tasks: str | Sequence[str] = ("next-line", "cloze", "brackets"),
    P: int | Sequence[int] | None = None,
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 8,
    corpus: str = "stdlib",
    text_column: str = "text",
    seed: int = 0,
    dtype: Dtype = "auto",
    device: DeviceName = "auto",
    download: bool = False,
    run_code: bool = False,
    records: str | Path | None = None,
    progress: bool | Console = False,
) -> ModelScores:
    """Evaluate a model on tasks through lm-eval, with each number of streams on the same documents.

    The tasks "next-line", "cloze" and "brackets" are made from the held-out part of a corpus and need no download. A
    YAML file of lm-eval may name Python functions beside it, which are run: use only files that you trust.

    Args:
        model: Folder of a model and its tokenizer.
        tasks: Names of tasks: "next-line", "cloze", "brackets", any task of lm-eval, or paths of its YAML files.
        P: Numbers of streams; 1 is the plain backbone. By default the P that the model was saved with, after the plain
            backbone if that is another.
        limit: Use only the first documents of each task.
        num_fewshot: Solved examples before each question; by default the task's own number.
        batch_size: Sequences of a batch.
        corpus: Text whose held-out part the tasks of the package are made from: "stdlib", "hf:NAME" or a path.
        text_column: Column with the text, in JSONL and Parquet.
        seed: Seed of the places in the text and of solved examples.
        dtype: Precision: "fp32", "bf16" or "auto" (bf16 on CUDA, else fp32).
        device: Device: "auto", "cpu" or "cuda".
        download: Let lm-eval download the data of tasks. Otherwise only data on this machine are used.
        run_code: Allow tasks in HumanEval's form, which run programs that the model writes in a sandbox: a .jsonl file
            with prompt, test and entry_point.
        records: Results folder for the record. By default the sweep's folder, for a model that a sweep saved; for
            another model no record is written.
        progress: Show progress on standard error, or on a rich console.

    Returns:
        Accuracies with standard errors, and differences between P with 95 % intervals.

    Raises:
        UsageError: An argument is wrong, or there is no such task.
        DataError: The model, its tokenizer or the data of a task cannot be used.
        MissingPackageError: torch, transformers or lm_eval is not installed.
        ScalelabError: The model's logits are NaN, or lm-eval failed.
    """
    source = Path(model)
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    counts = None if P is None else whole_numbers([P] if isinstance(P, int) else list(P), "P")
    for argument, value, least in (("limit", limit, 2), ("num_fewshot", num_fewshot, 0), ("batch_size", batch_size, 1)):
        if value is not None and value < least:
            raise UsageError(f"give at least {least}", argument=argument, value=value)
    check_dtype(dtype)
    check_device(device)
    check_model(source)
    check_corpus(corpus)
    need_torch("eval")
    from scalelab.evaluation.tasks import need_lm_eval, task_set

    need_lm_eval()
    from scalelab.evaluation.paired import paired_differences
    from scalelab.evaluation.record import evaluation_rows
    from scalelab.evaluation.score import score_model
    from scalelab.records.evaluations import sweep_of_model, write_evaluations
    from scalelab.train.corpus import load_corpus
    from scalelab.train.devices import resolve_dtype
    from scalelab.train.stage import open_model

    quiet_libraries()
    folder = Path(records) if records is not None else sweep_of_model(source)
    if folder is not None:
        check_writable(folder)
    console = console_of(progress)
    read: list[str] = []

    def held_out() -> tuple[str, list[str]]:
        found = load_corpus(corpus, text_column)
        read.append(found.name)
        return found.name, found.validation

    chosen = choose_device(device)
    opened = open_model(source, None, chosen)
    settings = _settings(opened, source, counts)
    tokenizer = load_tokenizer(source)
    console.print(f"loading {plural(len(names), 'task')} …")
    wanted = task_set(names, held_out, seed=seed, download=download, fewshot=num_fewshot, run_code=run_code)
    loaded = wanted.load(tokenizer)
    bf16 = resolve_dtype(dtype, chosen) == "bf16"
    shown = ", ".join("plain" if plain else f"P = {P}" for P, plain in settings)
    console.print(f"scoring {', '.join(loaded)} with {shown} …")
    found = score_model(opened, tokenizer, loaded, settings, batch_size=batch_size, limit=limit, bf16=bf16, seed=seed)
    order = list(dict.fromkeys((score.task, score.metric) for score in found))
    scores = sorted(found, key=lambda score: order.index((score.task, score.metric)))
    name, text = source.resolve().name, read[0] if read else ""
    file = None
    if folder is not None:
        rows = evaluation_rows(name, scores, loaded, text, "bf16" if bf16 else "fp32")
        file = write_evaluations(folder, name, rows)
    return ModelScores(name, tuple(scores), tuple(paired_differences(scores)), text, file)


def _settings(model: Any, source: Path, counts: Sequence[int] | None) -> list[tuple[int, bool]]:
    """Return P and whether only the backbone is meant, for each number of streams."""
    known = sorted({1, *model.banks})
    wanted = sorted({1, model.P}) if counts is None else list(dict.fromkeys(counts))
    for P in wanted:
        if P not in known:
            raise UsageError(f"{source} has only P = {', '.join(map(str, known))}; convert adds one", argument="P")
    made = [(P, False) for P in wanted]
    return [(1, True), *made] if 1 in wanted and 1 in model.banks else made
