"""Bring in runs that other tools recorded: W&B, Trainer, TensorBoard, MLflow, trackio, and files of one's own."""

from scalelab.importers.columns import Column
from scalelab.importers.convert import Imported, import_runs, write_runs
from scalelab.importers.sources import KINDS, History

__all__ = ["KINDS", "Column", "History", "Imported", "import_runs", "write_runs"]
