"""Results of simulated data sets in a JSON Lines file, so that a long simulation can be continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Key = Mapping[str, Any]  # of one data set: all that its result depends on, its seed among them


class Kept:
    """Results by key, [data set]; those of `path` are read, and new ones added to it. Without one, only in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._found: dict[str, dict[str, float] | None] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path and path.exists() else ():
            row = json.loads(line)
            self._found[_text(row["key"])] = row["found"]

    def __contains__(self, key: Key) -> bool:
        return _text(key) in self._found

    def __getitem__(self, key: Key) -> dict[str, float] | None:
        return self._found[_text(key)]

    def add(self, key: Key, found: dict[str, float] | None) -> None:
        """Keep a result, None for a data set that has none."""
        self._found[_text(key)] = found
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": dict(key), "found": found}) + "\n")


def _text(key: Key) -> str:
    return json.dumps(dict(key), sort_keys=True)
