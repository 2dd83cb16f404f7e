"""Atomic writing of files and folders, and removal of what killed processes leave unfinished."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{32}\.tmp$")
_BUILDING = ".building-"  # prefix of unfinished folders


@contextmanager
def atomic_write(path: Path, lasting: bool = True, clean: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` when it is complete; on an error `path` is unchanged.

    A killed process leaves a hidden file that readers skip (`is_temporary`) and the next write of `path` removes.

    Args:
        path: The file to write.
        lasting: Flush to disk, so that the file survives a power failure.
        clean: Call `remove_abandoned` for `path`, which lists its folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if clean:
        remove_abandoned([path])
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with _held(temporary):
            with temporary.open("wb") as file:
                yield file
                if lasting:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        if lasting:
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file by `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())


def is_temporary(path: Path) -> bool:
    """Return whether `path` has the name of an unfinished file of `atomic_write`."""
    return _TEMPORARY.match(path.name) is not None


@contextmanager
def _held(temporary: Path) -> Iterator[None]:
    """Create a file and hold a lock on it, where the file system has locks, until it has its final name."""
    if fcntl is None:
        yield
        return
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # without a lock it is never removed as abandoned
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove unfinished files of `atomic_write` for `paths` that no process holds: their writers were killed.

    Each folder is listed once. Nothing is removed where the file system has no locks.
    """
    if fcntl is None:
        return
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, wanted in names.items():
        found: list[Path] = []
        with contextlib.suppress(OSError):  # a folder that can be written need not be readable
            found = [e for e in entries(folder) if is_temporary(e) and e.name[1:].rsplit(".", 2)[0] in wanted]
        for entry in found:
            with contextlib.suppress(OSError), entry.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                entry.unlink()


@contextmanager
def atomic_folder(target: Path, put: Callable[[Path, Path], object] = Path.rename) -> Iterator[Path]:
    """Make a temporary folder beside `target` to fill, and rename it to `target` when it is complete.

    Its content is flushed to disk before it is renamed.

    Args:
        target: The folder to write.
        put: Function that renames the first path to the second, for renames that need more steps.

    Raises:
        OSError: The folder cannot be written or renamed.
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
    """Remove unfinished folders in `folder` that have not changed for `stale_s` seconds."""
    for building in entries(folder):
        if not building.name.startswith(_BUILDING):
            continue
        try:
            touched = max(path.stat().st_mtime for path in (building, *building.iterdir()))
        except OSError:  # another process has just renamed or removed it
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
    """Remove unfinished folders for `target`. No other process may be writing it."""
    for building in entries(target.parent):
        if (
            building.name.startswith(_BUILDING)
            and building.name.removeprefix(_BUILDING).rpartition(".")[0] == target.name
        ):
            shutil.rmtree(building, ignore_errors=True)


def entries(folder: Path) -> list[Path]:
    """List the entries of `folder`; an empty list if another process has removed it."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush renames in `folder` to disk, on file systems that support it."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
