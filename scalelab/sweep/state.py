"""What a running sweep tells other processes: one small file, DIR/.sweeps/HOST-PID.json, kept up to date."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from scalelab.atomic import atomic_write, is_temporary
from scalelab.sweep.tasks import Event, Task
from scalelab.sweep.tracker import RunningTask, Snapshot, Tracker

FOLDER = ".sweeps"
_SOON_S = 1.0  # least time between two states, unless a task begins or ends
_BEAT_S = 10.0  # a state at least that often, also when nothing happens
_STOPPED_S = 60.0  # a sweep on another machine that has told nothing for so long has ended
_T = TypeVar("_T")


@dataclass(frozen=True)
class SweepState:
    """A sweep that runs, or ran until its process was killed. `started` and `written` are Unix seconds, by the clock
    of `host`; `birth` tells its process from a later one of the same number."""

    name: str
    device: str
    executor: str
    host: str
    pid: int
    birth: str
    started: float
    written: float
    progress: Snapshot

    @property
    def is_running(self) -> bool:
        """Whether the process lives; on another machine, whether it wrote within the last minute."""
        if self.host == socket.gethostname():
            birth = _birth(self.pid)
            return birth is not None and (birth == self.birth or "" in (birth, self.birth))
        return self.age_s < _STOPPED_S

    @property
    def is_silent(self) -> bool:
        """Whether it has missed several times to write: it is suspended, or cannot."""
        return self.age_s > 3 * _BEAT_S

    @property
    def age_s(self) -> float:
        """Seconds since it was written."""
        return max(0.0, time.time() - self.written)


def read_states(out: Path) -> tuple[list[SweepState], list[str]]:
    """The sweeps that write below `out`, or did when they were killed; and a line for each file that tells of none."""
    found = [state for _, state in _read(out / FOLDER)]
    states = sorted((s for s in found if isinstance(s, SweepState)), key=lambda state: state.started)
    return states, [fault for fault in found if isinstance(fault, str)]


def _read(folder: Path) -> Iterator[tuple[Path, SweepState | str]]:
    """Each file with the state in it, or what is wrong with it."""
    for file in sorted(folder.glob("[!.]*.json")):
        try:
            yield file, _parse(json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse))
        except FileNotFoundError:  # it ended just now
            continue
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "damaged, or of another version"
            yield file, f"{file}: not the state of a sweep ({reason}); remove it"


class StateFile:
    """Receives the events of a sweep and writes its state, from a thread of its own: the sweep never waits for it.

    A state that cannot be written is given up without a word; the next may succeed. The file is gone when the
    sweep ends, however it ends, unless its process is killed.
    """

    def __init__(self, out: Path, tasks: list[Task], name: str, device: str, executor: str) -> None:
        host, pid = socket.gethostname(), os.getpid()
        now = time.time()
        self._tracker = Tracker(tasks)
        self._state = SweepState(
            name, device, executor, host, pid, _birth(pid) or "", now, now, self._tracker.snapshot()
        )
        self._path = out / FOLDER / f"{re.sub(r'[^0-9A-Za-z._-]', '_', host)}-{pid}.json"
        self._changed, self._turned, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="sweep state", daemon=True)

    def __call__(self, event: Event) -> None:
        self._tracker.update(event)
        if event.kind != "progress":
            self._turned.set()
        self._changed.set()

    def __enter__(self) -> StateFile:
        with contextlib.suppress(OSError):
            _clear(self._path.parent)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for signal in (self._ended, self._turned, self._changed):
            signal.set()
        self._thread.join(_BEAT_S)  # a file system that hangs must not keep the sweep
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            self._path.parent.rmdir()  # unless another sweep's state is there

    def _keep_writing(self) -> None:
        while True:
            self._changed.clear()
            self._turned.clear()
            if self._ended.is_set():  # looked at last: it is set before the others
                return
            self._write()
            self._turned.wait(_SOON_S)
            self._changed.wait(_BEAT_S)

    def _write(self) -> None:
        state = replace(self._state, written=time.time(), progress=self._tracker.snapshot())
        with contextlib.suppress(OSError), atomic_write(self._path, lasting=False) as file:
            file.write(json.dumps(asdict(state)).encode())


def _clear(folder: Path) -> None:
    """Remove what killed sweeps have left: the one that begins now takes up their runs.

    One that was taken for dead, for its clock is wrong, soon writes its state again. Raises `OSError`.
    """
    for file in folder.glob("*"):
        if is_temporary(file) and time.time() - file.stat().st_mtime > _STOPPED_S:
            file.unlink(missing_ok=True)
    for file, state in _read(folder):
        if isinstance(state, SweepState) and not state.is_running:
            file.unlink(missing_ok=True)


def _birth(pid: int) -> str | None:
    """What tells a process from others that have had or will have its number: when it began, where that can be told.

    None if there is no such process, or only what is left of one that ended.
    """
    if os.name != "posix":  # there a signal 0 is Ctrl-C
        return ""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:  # another user's
        pass
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no Linux
        return ""
    return None if values[0] in "ZX" else values[19]


def _parse(content: Any) -> SweepState:
    """Raises `KeyError`, `TypeError` or `ValueError` where it is no state."""
    progress = content["progress"]
    running = tuple(_fill(RunningTask, task) for task in progress["running"])
    ended = {str(status): int(count) for status, count in progress["ended"].items()}
    return _fill(SweepState, content, progress=_fill(Snapshot, progress, running=running, ended=ended))


def _fill(cls: type[_T], values: Mapping[str, Any], **made: Any) -> _T:
    """`cls` from values of the types that its fields have, but for those already `made`."""
    kinds = get_type_hints(cls)
    for name in (f.name for f in fields(cls) if f.name not in made):  # type: ignore[arg-type]
        value, kind = values[name], kinds[name]
        if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
            raise TypeError(f"{name} is {value!r}")
        made[name] = value
    return cls(**made)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
