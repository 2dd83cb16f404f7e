"""Predictions of a saved fit, or of every fit in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.mixture import open_fit

if TYPE_CHECKING:
    from scalelab.fit.answers import Allocations, Predictions
    from scalelab.laws import Law


@dataclass(frozen=True)
class Answers:
    """Predictions of the fits in a folder, by file, and the errors of the others. `asked` is the number of fits."""

    answers: Mapping[Path, Predictions | Allocations]
    failures: Sequence[ScalelabError]
    asked: int

    def write(self, out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `rows` as JSON, or all tables as CSV if the name ends in .csv."""
        from scalelab.atomic import write_text

        if out.suffix.lower() == ".csv":
            import pandas as pd

            frames = {str(file): answer.to_frame() for file, answer in self.answers.items()}
            text = pd.concat(frames, names=["fit"]).droplevel(1).to_csv()
        else:
            text = json.dumps(rows, indent=1) + "\n"
        write_text(out, text)


def answer_all(
    source: str | Path,
    *,
    N: Any = None,
    P: Any = 1,
    D: Any = None,
    flops: Any = None,
    law: str | Law | None = None,
    **others: Any,
) -> Answers:
    """Predict with the saved fit `source`, or with each fit in the folder `source`.

    Fits predict the loss at N, P, D and the `others`, or find the best N and D for `flops`. They average over their
    laws; `law` is one of these to use alone, or that of a fit of your own law.

    Returns:
        The predictions. Fits in a folder may need different variables; their errors are in `failures`.

    Raises:
        UsageError: The folder has no fits.
        ScalelabError: There is a single fit, and it cannot predict this.
    """
    source = Path(source)
    files = sorted(source.glob("*.json")) if source.is_dir() else [source]
    if not files:
        raise UsageError(f"{source}: no saved fits (*.json) in this folder; run scalelab fit DATA first")
    answers: dict[Path, Predictions | Allocations] = {}
    failures: list[ScalelabError] = []
    for file in files:
        try:
            fit = open_fit(file, law)
            answers[file] = fit.predict(N, P, D, **others) if flops is None else fit.compute_optimal(flops, P)
        except ScalelabError as error:
            if len(files) == 1:
                raise
            failures.append(error)
    return Answers(answers, failures, len(files))
