"""Files and folders that appear complete or not at all, and what killed processes leave of them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{32}\.tmp$")
_BUILDING = ".building-"  # how the names of unfinished folders begin


@contextmanager
def atomic_write(path: Path, lasting: bool = True) -> Iterator[IO[bytes]]:
    """Open a file to write `path` through: it appears there complete, or what was there stays.

    It survives a loss of power, unless it need not be `lasting`. What a killed process leaves behind is a hidden file
    that no reader looks at (`is_temporary`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
        if lasting:
            sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Return whether `path` is named like a file that `atomic_write` had not finished."""
    return _TEMPORARY.match(path.name) is not None


@contextmanager
def atomic_folder(target: Path, put: Callable[[Path, Path], object] = Path.rename) -> Iterator[Path]:
    """Make a folder to fill, beside `target`, which it becomes at the end.

    Its content survives a loss of power before it has its name. `put` renames it, where more than that is to be done.
    Raises `OSError`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{_BUILDING}{target.name}."))
    try:
        yield building
        for path in building.rglob("*"):
            if path.is_file():
                sync(path)
            elif path.is_dir():
                sync_folder(path)
        sync_folder(building)
        put(building, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove_unfinished(folder: Path, stale_s: float) -> None:
    """Remove the folders that killed processes had begun in `folder`: nobody has touched them for `stale_s` seconds."""
    for building in entries(folder):
        if not building.name.startswith(_BUILDING):
            continue
        try:
            touched = max(path.stat().st_mtime for path in (building, *building.iterdir()))
        except OSError:  # it was finished, or removed, just now
            continue
        if folder_time(folder) - touched > stale_s:
            shutil.rmtree(building, ignore_errors=True)


def folder_time(folder: Path) -> float:
    """Return the time in Unix seconds by the clock that stamps the files of `folder`.

    On a network share that may be another machine's: ages of files must not depend on the clock of this one. Where
    nothing can be written, this machine's time is returned.
    """
    probe = folder / f".clock.{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def remove_unfinished_of(target: Path) -> None:
    """Remove what killed processes had begun to build as `target`, which no other process builds now."""
    for building in entries(target.parent):
        if (
            building.name.startswith(_BUILDING)
            and building.name.removeprefix(_BUILDING).rpartition(".")[0] == target.name
        ):
            shutil.rmtree(building, ignore_errors=True)


def entries(folder: Path) -> list[Path]:
    """List what is in `folder`; nothing where another process has removed it."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync(path: Path) -> None:
    """Make the content of a file or folder last through a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a loss of power, where the file system knows such a thing."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
