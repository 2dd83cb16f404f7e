"""The files that a command leaves, for benchmarks/command_kills.py."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from scalelab.atomic import is_temporary
from scalelab.records.files import CURVES, read_curve, read_record


def unfinished(folder: Path) -> set[str]:
    """Unfinished files and folders at this moment, by the names of scalelab/atomic.py."""
    found = set()
    for place, folders, files in os.walk(folder):
        found |= {f"{place}/{name}" for name in folders if name.startswith(".building-")}
        found |= {f"{place}/{name}" for name in files if is_temporary(Path(name))}
    return found


def content(folder: Path) -> dict[str, Any]:
    """Return the content of each file, except times, durations and files that exist only while a command runs."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        hidden = any(part.startswith(".building-") or part.endswith(".checkpoints") for part in inside.parts)
        if hidden or is_temporary(file) or not file.is_file():
            continue
        if file.suffix == ".parquet":
            curve = file.parent.name == CURVES
            found[str(inside)] = read_curve(file).to_csv() if curve else str(read_record(file) | {"created_utc": None})
        elif file.name == "training.json":
            found[str(inside)] = json.loads(file.read_text(encoding="utf-8")) | {"seconds": None}
        else:
            found[str(inside)] = file.read_bytes()
    return found


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of the last change and content of each file."""
    return {str(f): (f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(folder.rglob("*")) if f.is_file()}
