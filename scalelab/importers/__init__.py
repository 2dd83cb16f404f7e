"""Import runs recorded by other tools: W&B, Trainer, TensorBoard, MLflow, trackio, and tables."""

from scalelab.importers.columns import Column
from scalelab.importers.convert import Imported, import_runs, write_runs
from scalelab.importers.sources import KINDS, History

__all__ = ["KINDS", "Column", "History", "Imported", "import_runs", "write_runs"]
