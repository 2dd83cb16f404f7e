"""Exchange between the head of a sweep and nodes of a Ray cluster; imports neither Ray nor torch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

Files = dict[str, bytes]  # content by path, relative to some folder


class Mailbox:
    """Ray actor on the head's machine: collects events of runs and serves the head's files to nodes that lack them.

    Its paths are those of the head. Files are sent only on request.
    """

    def __init__(self, tokens: Path, checkpoints: Path) -> None:
        self._tokens, self._checkpoints = tokens, checkpoints
        self._events: list[tuple[str, str, dict[str, Any]]] = []
        self._lock = threading.Lock()

    def post(self, key: str, kind: str, values: dict[str, Any]) -> None:
        """Add the event of a task: its key, and the event's kind and values."""
        with self._lock:
            self._events.append((key, kind, values))

    def drain(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return the events posted since the last call, as (task key, kind, values)."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def read_tokens(self) -> Files:
        """Return the files of the token cache."""
        return read_files(self._tokens)

    def read_checkpoints(self, phase_keys: list[str]) -> Files:
        """Return the checkpoints of the phases `phase_keys`, relative to the folder of all checkpoints."""
        return {
            f"{name}/{path}": content
            for name in phase_keys
            for path, content in read_files(self._checkpoints / name).items()
        }


def read_files(folder: Path) -> Files:
    """Return every file below `folder`, except hidden ones and those that vanish meanwhile."""
    files: Files = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts) and path.is_file():
            try:
                files["/".join(parts)] = path.read_bytes()
            except FileNotFoundError:  # a checkpoint that a newer one has replaced
                continue
    return files
