"""Run records: schema, reading and writing, and the paper's data."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scalelab.records.paper import NAME, paper_records
from scalelab.records.store import read_records

__all__ = ["load", "paper_records", "read_records"]


def load(source: str | Path) -> pd.DataFrame:
    """Records below a folder, of a file, or of a set shipped with the package (``paper``)."""
    if str(source) == NAME and not Path(source).exists():
        return paper_records()
    return read_records(source)
