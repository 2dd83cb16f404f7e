"""Import of runs that other tools recorded."""

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
    """Import runs from W&B, Trainer, TensorBoard, MLflow, trackio or your own files as records with loss curves.

    Args:
        source: File or folder that another tool wrote.
        out: Folder for the records, which `fit_law` and `list_runs` read; by default nothing is written.
        source_kind: Kind of the source: "wandb", "trainer", "tensorboard", "mlflow", "trackio" or "files"; by default
            detected from the files.
        columns: Map from field to a column of a run's history or config, or an expression over them:
            ``{"loss": "eval/c4/loss"}``.
        n_from: N by run name, ``{"190M": 190354176}``, or a YAML file with such a map.
        strict: Import nothing if any run cannot be used.

    Returns:
        The records, the reasons why other runs cannot be used, and the columns that were used.

    Raises:
        UsageError: The source, kind or column does not exist.
        DataError: A file cannot be read, a column is missing, or no run can be used (with `strict`: one cannot).
    """
    from scalelab import importers
    from scalelab.importers.sources import read_map

    sizes = n_from if isinstance(n_from, Mapping) or n_from is None else read_map(Path(n_from))
    imported = importers.import_runs(source, source_kind, columns, sizes, strict)
    return imported if out is None else importers.write_runs(imported, out)
