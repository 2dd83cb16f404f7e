"""Where nodes of a Ray cluster and the head of a sweep meet. Light: it imports neither Ray nor torch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

Files = dict[str, bytes]  # content by path, relative to some folder


class Desk:
    """An actor beside the head: takes what runs tell, and hands out the head's files to nodes that lack them.

    Its paths are the head's. Nothing travels unless it is asked for.
    """

    def __init__(self, tokens: Path, checkpoints: Path) -> None:
        self._tokens, self._checkpoints = tokens, checkpoints
        self._told: list[tuple[str, str, dict[str, Any]]] = []
        self._lock = threading.Lock()

    def tell(self, key: str, kind: str, values: dict[str, Any]) -> None:
        with self._lock:
            self._told.append((key, kind, values))

    def drain(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What was told since the last time: the task's key, and kind and values of an event."""
        with self._lock:
            told, self._told = self._told, []
        return told

    def tokens(self) -> Files:
        return read_files(self._tokens)

    def checkpoints(self, trajectories: list[str]) -> Files:
        """Those of `trajectories`, relative to the folder of all."""
        return {
            f"{name}/{path}": content
            for name in trajectories
            for path, content in read_files(self._checkpoints / name).items()
        }


def read_files(folder: Path) -> Files:
    """Every file below `folder` but hidden ones; those that vanish meanwhile are left out."""
    files: Files = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts) and path.is_file():
            try:
                files["/".join(parts)] = path.read_bytes()
            except FileNotFoundError:  # a checkpoint that a newer one has replaced
                continue
    return files
