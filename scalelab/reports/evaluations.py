"""Reports of scores on downstream tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalelab.records.evaluations import ACCURACY, accuracies
from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.json_values import as_json_value

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.api.evaluation import ModelScores


def scores_report(found: ModelScores) -> Report:
    """Return the scores of each task with standard errors, and paired differences between P with 95 % intervals."""
    table = Table(found.name, ["<task", "<metric", "P", "score", "±", "documents"], keys=3)
    for score in found.scores:
        stderr = "" if score.stderr is None else f"{score.stderr:.4f}"
        table.add(
            score.task, score.metric, _streams(score.P, score.plain), f"{score.value:.4f}", stderr, f"{score.n_docs}"
        )
    blocks: list[Table | Line] = [table]
    if found.differences:
        paired = Table(
            "paired differences on the same documents", ["<task", "<metric", "P", "score (95 % interval)"], keys=3
        )
        for row in found.differences:
            versus = f"{_streams(row.P, False)} − {_streams(row.base, row.base_plain)}"
            paired.add(row.task, row.metric, versus, f"{row.value:+.4f} ({row.low:+.4f} to {row.high:+.4f})")
        blocks.append(paired)
    text = "± is one standard error"
    if found.corpus:
        text += f"; next-line, cloze and brackets are from the held-out text of {found.corpus}"
    blocks.append(Line(text, "dim"))
    saved = "no record: the model is not in a sweep's folder; name a results folder with `records`"
    blocks.append(Line(saved if found.file is None else f"saved {found.file}", "dim"))
    return Report.of(blocks)


def _streams(P: int, plain: bool) -> str:
    return "plain" if plain else f"{P}"


def scores_json(found: ModelScores) -> dict[str, Any]:
    """Return all scores and differences, unrounded, without the values of single documents."""
    scores = [
        {name: value for name, value in vars(score).items() if name not in ("values", "clusters")}
        for score in found.scores
    ]
    return as_json_value(
        {
            "model": found.name,
            "corpus": found.corpus or None,
            "scores": scores,
            "differences": [vars(row) for row in found.differences],
            "file": None if found.file is None else str(found.file),
        }
    )


def evaluations_table(frame: pd.DataFrame) -> Table:
    """Return a row for each score in the records of a results folder."""
    table = Table("evaluations", ["<model", "<task", "<metric", "P", "score", "±", "documents"], keys=3, drops=True)
    for row in frame.to_dict("records"):
        stderr = "" if row["stderr"] is None else f"{row['stderr']:.4f}"
        streams = _streams(int(row["n_streams"]), bool(row["plain"]))
        cells = (streams, f"{row['value']:.4f}", stderr, f"{row['n_docs']:.0f}")
        table.add(str(row["model"]), str(row["task"]), str(row["metric"]), *cells)
    return table


def accuracy_headings(frame: pd.DataFrame) -> dict[str, str]:
    """Return heading by column for the accuracies of runs: ``accuracy_next_line`` is shown as ``next line``."""
    return {name: name.removeprefix(ACCURACY).replace("_", " ") for name in accuracies(frame.columns)}
