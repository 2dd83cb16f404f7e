"""State of a running sweep for other processes, in the file DIR/.sweeps/HOST-PID.json."""

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

from scalelab.analysis.final_loss import RunFacts
from scalelab.atomic import atomic_write, folder_time, is_temporary
from scalelab.status import RunStatus
from scalelab.sweep.tasks import Event, Task
from scalelab.sweep.tracker import RunningTask, Snapshot, Tracker

FOLDER = ".sweeps"
_MIN_INTERVAL_S = 1.0  # between two writes, unless a task starts or ends
_MAX_INTERVAL_S = 10.0  # between two writes, even if nothing happens
_STOPPED_S = 60.0  # without a write, after which a sweep on another machine is taken to have ended
# Of a state that a sweep may have written.
_MAX_BYTES, _MAX_RUNNING, _MOST_POINTS, _LONGEST, _LARGEST = 2**24, 10_000, 100, 1_000, 1e30
_LAST_TIME = 4e9  # Unix seconds, in the year 2096
_T = TypeVar("_T")


@dataclass(frozen=True)
class SweepState:
    """A sweep that is running, or was until its process was killed.

    `started` and `written` are Unix seconds by the clock of `host`; `age_s` are the seconds since the last write by the
    clock of the folder, since those of machines differ; `birth` distinguishes its process from a later one with the
    same id.
    """

    name: str
    device: str
    executor: str
    host: str
    pid: int
    birth: str
    started: float
    written: float
    progress: Snapshot
    age_s: float = 0.0

    @property
    def is_running(self) -> bool:
        """True if the process is alive or, on another machine, if it wrote within the last minute."""
        if self.host == socket.gethostname():
            birth = _process_birth(self.pid)
            return birth is not None and (birth == self.birth or "" in (birth, self.birth))
        return self.age_s < _STOPPED_S

    @property
    def is_silent(self) -> bool:
        """True if several writes are overdue: the process is suspended or cannot write."""
        return self.age_s > 3 * _MAX_INTERVAL_S


def read_states(out: Path) -> tuple[list[SweepState], list[str]]:
    """Return the sweeps that write below `out` or were killed while they did, and a line for each unreadable file."""
    found = [state for _, state in _read(out / FOLDER)]
    states = sorted((s for s in found if isinstance(s, SweepState)), key=lambda state: state.started)
    return states, [fault for fault in found if isinstance(fault, str)]


def _read(folder: Path) -> Iterator[tuple[Path, SweepState | str]]:
    """Yield each file with its state, or with a description of what is wrong."""
    files = sorted(folder.glob("[!.]*.json"))
    now = folder_time(folder) if files else 0.0
    for file in files:
        try:
            found = file.stat()
            if found.st_size > _MAX_BYTES:
                raise ValueError("too large")
            content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
            yield file, _parse(content, max(0.0, now - found.st_mtime))
        except FileNotFoundError:  # the sweep has just ended
            continue
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "damaged or from another version"
            yield file, f"{file}: not the state of a sweep ({reason}); delete it"


class StateFile:
    """Receiver of a sweep's events that writes its state in a background thread, so that the sweep never waits.

    A failed write is ignored; the next may succeed. The file is removed when the sweep ends in any way other than a
    kill.
    """

    def __init__(self, out: Path, tasks: list[Task], name: str, device: str, executor: str) -> None:
        host, pid = socket.gethostname(), os.getpid()
        now = time.time()
        self._tracker = Tracker(tasks)
        self._state = SweepState(
            name, device, executor, host, pid, _process_birth(pid) or "", now, now, self._tracker.snapshot()
        )
        self._path = out / FOLDER / f"{re.sub(r'[^0-9A-Za-z._-]', '_', host)}-{pid}.json"
        self._changed, self._task_changed, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="sweep state", daemon=True)

    def __call__(self, event: Event) -> None:
        """Take one event into account."""
        self._tracker.update(event)
        if event.kind != "progress":
            self._task_changed.set()
        self._changed.set()

    def __enter__(self) -> StateFile:
        with contextlib.suppress(OSError):
            _remove_stale(self._path.parent)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for signal in (self._ended, self._task_changed, self._changed):
            signal.set()
        self._thread.join(_MAX_INTERVAL_S)  # a hanging file system must not block the sweep
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            self._path.parent.rmdir()  # fails if another sweep's state is there

    def _keep_writing(self) -> None:
        while True:
            self._changed.clear()
            self._task_changed.clear()
            if self._ended.is_set():  # checked after clearing: it is set before the others
                return
            self._write()
            self._task_changed.wait(_MIN_INTERVAL_S)
            self._changed.wait(_MAX_INTERVAL_S)

    def _write(self) -> None:
        state = replace(self._state, written=time.time(), progress=self._tracker.snapshot())
        with contextlib.suppress(OSError), atomic_write(self._path, lasting=False, clean=False) as file:
            file.write(json.dumps(asdict(state)).encode())


def _remove_stale(folder: Path) -> None:
    """Remove the files of killed sweeps, whose runs the new sweep trains.

    A sweep that only seems dead because of a wrong clock soon writes its file again. Raises `OSError`.
    """
    for file in folder.glob("*"):
        if is_temporary(file) and folder_time(folder) - file.stat().st_mtime > _STOPPED_S:
            file.unlink(missing_ok=True)
    for file, state in _read(folder):
        if isinstance(state, SweepState) and not state.is_running:
            file.unlink(missing_ok=True)


def _process_birth(pid: int) -> str | None:
    """Return when the process `pid` started, in the system's own format; empty where the system does not say.

    None if there is no such process, or only a zombie.
    """
    if os.name != "posix":  # signal 0 would be Ctrl-C
        return ""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:  # it belongs to another user
        pass
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # not Linux
        return ""
    return None if values[0] in "ZX" else values[19]


def _parse(content: Any, age_s: float) -> SweepState:
    """Return the state in `content`. Raises `KeyError`, `TypeError` or `ValueError` if it is not a state."""
    progress = content["progress"]
    if len(progress["running"]) > _MAX_RUNNING or len(progress["ended"]) > len(RunStatus):
        raise ValueError("too many tasks")
    running = tuple(_running_task(task) for task in progress["running"])
    ended = {RunStatus(status).value: int(count) for status, count in progress["ended"].items()}
    snapshot = _fill(Snapshot, progress, running=running, ended=ended)
    in_range = [
        0 <= snapshot.fraction <= 1.001,
        0 <= snapshot.done <= snapshot.runs,
        all(0 <= count <= snapshot.runs for count in ended.values()),
        *(0 <= task.step <= task.steps and task.steps > 0 and task.n_tokens > 0 for task in running),
        *(task.tokens_per_s is None or task.tokens_per_s >= 0 for task in running),
    ]
    if not all(in_range):
        raise ValueError("a number is out of range")
    state = _fill(SweepState, content, progress=snapshot, age_s=age_s)
    if not (0 <= state.started <= _LAST_TIME and 0 <= state.written <= _LAST_TIME and state.pid > 0):
        raise ValueError("a time or process is out of range")
    return state


def _running_task(values: Mapping[str, Any]) -> RunningTask:
    """Return a running task; those of sweeps of the first versions have no facts and no curve."""
    given = values.get("facts")
    facts = None if given is None else _fill(RunFacts, given, ends=_numbers(given["ends"]))
    curve = tuple((int(step), loss) for step, loss in map(_numbers, values.get("curve", ())))
    if len(curve) > _MOST_POINTS:
        raise ValueError("too many points")
    return _fill(RunningTask, values, facts=facts, curve=curve)


def _numbers(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) and abs(v) <= _LARGEST for v in values):
        raise TypeError(f"{values!r:.100} are not numbers")
    return tuple(map(float, values))


def _fill(cls: type[_T], values: Mapping[str, Any], **known: Any) -> _T:
    """Make a `cls` from `values`, checking types and sizes, and from fields that are already `known`."""
    kinds = get_type_hints(cls)
    for name in (f.name for f in fields(cls) if f.name not in known):  # type: ignore[arg-type]
        value, kind = values[name], kinds[name]
        if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
            raise TypeError(f"{name} is {value!r}")
        if isinstance(value, (int, float)) and not abs(value) <= _LARGEST:
            raise ValueError(f"{name} is {value!r}")
        if isinstance(value, str) and len(value) > _LONGEST:
            raise ValueError(f"{name} is too long")
        known[name] = value
    return cls(**known)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
