"""Bring in runs that other tools recorded, as records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from scalelab.importers import Imported

SourceKind = Literal["wandb", "trainer", "tensorboard", "mlflow", "trackio", "files"]

__all__ = ["import_runs"]


def import_runs(
    source: str | Path,
    out: str | Path | None = None,
    *,
    source_kind: SourceKind | str | None = None,
    columns: Mapping[str, str] | None = None,
    n_from: Mapping[str, str | float] | str | Path | None = None,
    strict: bool = False,
) -> Imported:
    """Import runs of W&B, Trainer, TensorBoard, MLflow, trackio or files of your own as records with loss curves.

    Args:
        source: A file or folder that another tool wrote.
        out: A folder for the records, which `fit_law` and `list_runs` read; without it nothing is written.
        source_kind: What wrote it; found from the files where left out.
        columns: Which column of a run's history or config, or which expression over them, holds what:
            ``{"loss": "eval/c4/loss"}``.
        n_from: N by run name, ``{"190M": 190354176}``, or a YAML file of such a map.
        strict: Import nothing if a run cannot be used.

    Returns:
        The records, why other runs cannot be used, and which column was taken for what.

    Raises:
        UsageError: There is no such source, kind or column.
        DataError: A file cannot be read, a column is missing, or no run can be used (`strict`: one).
    """
    from scalelab import importers
    from scalelab.importers.sources import read_map

    sizes = n_from if isinstance(n_from, Mapping) or n_from is None else read_map(Path(n_from))
    imported = importers.import_runs(source, source_kind, columns, sizes, strict)
    return imported if out is None else importers.write_runs(imported, out)
