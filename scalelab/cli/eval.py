"""The command `scalelab eval`: a model's scores on downstream tasks, with each number of streams."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import check_figure, check_out, show, stderr
from scalelab.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    AsJson,
    Corpus,
    DeviceChoice,
    DtypeName,
    Figure,
    FigureSize,
    Out,
    Quiet,
    TextColumn,
    Words,
    option,
)
from scalelab.errors import UsageError
from scalelab.units import whole_numbers

_TASKS = "Tasks"
_OWN = ("next-line", "cloze", "brackets")


def eval_(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model and its tokenizer.")],
    tasks: Annotated[
        Words,
        typer.Option(
            "--tasks",
            help="Tasks: next-line, cloze, brackets, names of lm-eval's tasks, or its YAML files.",
            metavar="NAME…",
            show_default="next-line cloze brackets",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    P: Annotated[
        Words,
        typer.Option(
            "--P",
            help="Numbers of streams; 1 is the plain backbone.",
            metavar="P…",
            show_default="1 and as saved",
            rich_help_panel=MODEL,
        ),
    ] = None,
    limit: Annotated[
        int | None, option(min=2, help="Use only the first documents of each task.", panel=_TASKS, show_default="all")
    ] = None,
    num_fewshot: Annotated[
        int | None, option(min=0, help="Solved examples before each question.", panel=_TASKS, show_default="by task")
    ] = None,
    download: Annotated[
        bool, option("--download", help="Let lm-eval download the data of tasks.", panel=_TASKS)
    ] = False,
    run_code: Annotated[
        bool,
        option("--run-code", help="Run programs that the model writes, in a sandbox: tasks in .jsonl.", panel=_TASKS),
    ] = False,
    corpus: Corpus = "stdlib",
    text_column: TextColumn = "text",
    seed: Annotated[int, option(min=0, help="Seed of the places in the text and of examples.", panel=DATA)] = 0,
    batch_size: Annotated[int, option(min=1, help="Sequences of a batch.", panel=MODEL)] = 8,
    dtype: DtypeName = "auto",
    device: DeviceChoice = "auto",
    records: Annotated[
        Path | None,
        option(
            help="Results folder for the record.",
            panel=OUTPUT,
            metavar="FOLDER",
            show_default="the sweep's, if a sweep saved the model",
        ),
    ] = None,
    out: Out = None,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on downstream tasks through lm-eval, with each number of streams on the same documents.

    next-line, cloze and brackets are made from the held-out part of a corpus and need no download. Data of other tasks
    must be on this machine, unless --download is given.
    """
    from scalelab.api.evaluation import evaluate
    from scalelab.api.loading import check_model

    check_model(source)
    check_out(out)
    check_figure(figure, figure_size)
    names = list(_OWN) if tasks is None else [part for word in tasks for part in word.split(",") if part]
    counts = None if P is None else [part for word in P for part in word.split(",") if part]
    if not names:
        raise UsageError("--tasks: give at least one task")
    found = evaluate(
        source,
        names,
        None if counts is None else whole_numbers(counts, "P"),
        limit=limit,
        num_fewshot=num_fewshot,
        batch_size=batch_size,
        corpus=corpus,
        text_column=text_column,
        seed=seed,
        dtype=dtype,  # type: ignore[arg-type]  # as typed
        device=device,  # type: ignore[arg-type]
        download=download,
        run_code=run_code,
        records=records,
        progress=stderr(quiet or as_json),
    )
    show(found, as_json=as_json, out=out, figure=figure, drawn=dict(size=figure_size), quiet=quiet)
