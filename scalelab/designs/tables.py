"""Tables of candidates and of target points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalelab.errors import UsageError
from scalelab.fit.data import COLUMNS
from scalelab.laws.base import Array, Points

if TYPE_CHECKING:
    import pandas as pd


def columns_of(frame: pd.DataFrame, argument: str = "candidates") -> dict[str, Array]:
    """Return the variables of laws that every row of a table of records has, [c] each; P is 1 where it is missing."""
    found: dict[str, Array] = {}
    for variable, column in COLUMNS.items():
        if column in frame and frame[column].notna().all():
            found[variable] = frame[column].to_numpy(dtype=float)
        elif column in frame and frame[column].notna().any() and variable != "P":
            raise UsageError(f"some rows have no {column!r}: fill it in for all", argument=argument)
    if not {*found} - {"P"}:
        raise UsageError("there is no column for N, D or compute; map one with `columns`", argument=argument)
    found.setdefault("P", np.ones(len(frame)))
    return found


def points_of(table: pd.DataFrame | str | Path, columns: Mapping[str, str] | None, argument: str = "target") -> Points:
    """Return the points of a table, whose losses, if any, are not read."""
    found = columns_of(read_points(table, columns), argument)
    count = len(found["P"])
    main = [found.pop(v, np.full(count, np.nan)) for v in ("N", "P", "D")]
    return Points(main[0], main[1], main[2], others=found)


def read_points(table: pd.DataFrame | str | Path, columns: Mapping[str, str] | None) -> pd.DataFrame:
    """Return the rows of a table that need no loss, as records in their order."""
    import pandas as pd

    from scalelab import records
    from scalelab.records.files import read_file

    if not isinstance(table, pd.DataFrame):
        path = Path(table)
        if not path.is_file():
            raise UsageError(f"{path}: no such file; give a table", argument="candidates")
        table = read_file(path).table
    mapped = {field: of for field, of in (columns or {}).items() if field != "loss"}
    return records.read(table.assign(loss=1.0), {**mapped, "loss": "loss"}).records
