"""Folders that appear complete or not at all, and what killed processes leave of them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUILDING = ".building-"  # how the names of unfinished folders begin


@contextmanager
def whole_folder(target: Path, mark: str, stale_s: float) -> Iterator[Path]:
    """A folder to fill, beside `target`, which it becomes at the end.

    Another process may do the same: `target` is then of whoever came first, and complete once it holds the file
    `mark`. What others had begun there and not touched for `stale_s` seconds is removed. Raises `OSError`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(target.parent, stale_s)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=BUILDING))
    try:
        yield building
        try:
            building.rename(target)
        except OSError:
            if not (target / mark).exists():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove_unfinished(folder: Path, stale_s: float) -> None:
    """Remove what processes had begun to build in `folder` and not touched for `stale_s` seconds: they were killed."""
    for building in folder.glob(f"{BUILDING}*"):
        try:
            touched = max(path.stat().st_mtime for path in (building, *building.iterdir()))
        except OSError:  # it was finished, or removed, just now
            continue
        if time.time() - touched > stale_s:
            shutil.rmtree(building, ignore_errors=True)
