"""Sweeps in separate processes that can be killed at a chosen moment, and checks of their records.

For benchmarks/faults.py and benchmarks/tests; needs process sessions, as on Linux.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

from scalelab.cli.main import main
from scalelab.errors import DataError
from scalelab.records.check import check_folder
from scalelab.records.files import CURVES, RUNS, read_curve
from scalelab.records.read import gather

LONGEST_S = 1800.0  # limit for a sweep here, even on busy cores; longer means it hangs
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
ORPHANS_S = 30.0  # time that a process may outlive its parent: as long as its imports take on busy cores


def write_corpus(folder: Path, modules: int = 60) -> Path:
    """Some modules of the standard library: real text, tokenised in a moment."""
    folder.mkdir(parents=True)
    files = [p for p in sorted(Path(json.__file__).parent.parent.glob("*.py")) if 2_000 < p.stat().st_size < 40_000]
    for file in files[:modules]:
        (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Lab:
    """Starts sweeps of one small grid. `folder` is for the corpus, the cache and what sweeps print."""

    folder: Path
    D: Sequence[str] = ("60k", "120k")
    seeds: Sequence[str] = ("0", "1", "2")

    def start(self, out: Path, workers: int = 2, largest_file: int | None = None) -> Sweep:
        """Begin or go on with the sweep below `out`; no file may grow over `largest_file` bytes."""
        corpus = self.folder / "corpus"
        if not corpus.exists():
            write_corpus(corpus)
        command = [sys.executable, "-m", "scalelab", "sweep", "--out", str(out), "--corpus", str(corpus)]
        command += ["--tokenizer", "320", "--N", "12k", "--P", "1", "2", "--D", *self.D, "--seed", *self.seeds]
        # A schedule whose runs over D share their first phase, with several checkpoints per run.
        command += ["--schedule", "wsd", "--checkpoint-minutes", "0.005", "--workers", str(workers), "--device", "cpu"]
        command += ["--set", "recipe.val_tokens=4096", "recipe.warmup_tokens=10000"]
        environment = os.environ | {"SCALELAB_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        log = self.folder / f"{out.name}-{time.monotonic_ns()}.log"

        def limit() -> None:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=limit,
            )
        return Sweep(process, out, log)

    def finish(self, out: Path, workers: int = 2) -> None:
        """Go on with the sweep below `out`, undisturbed, until it is done. Raises AssertionError if it ends badly."""
        sweep = self.start(out, workers)
        assert sweep.wait() == 0, sweep.output


@dataclass(frozen=True)
class Sweep:
    """A running sweep: the parent, and its session, in which all its other processes are."""

    process: subprocess.Popen
    out: Path
    log: Path

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> int:
        """Its exit code. Raises AssertionError if it printed a traceback."""
        code = self.process.wait(LONGEST_S)
        assert "Traceback" not in self.output, self.output
        return code

    def workers(self) -> list[int]:
        """Process ids of the runs in training: the children of the fork server."""
        session = _session(self.process.pid)
        servers = [pid for pid, parent in session.items() if parent == self.process.pid and _is_fork_server(pid)]
        return [pid for pid, parent in session.items() if parent in servers]

    def survivors(self) -> list[int]:
        """Every process of the session that lives, but for the parent."""
        return [pid for pid in _session(self.process.pid) if pid != self.process.pid]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the parent alone."""
        send([self.process.pid], number)

    def wait_for(self, condition: Callable[[], object], seconds: float = 60.0) -> bool:
        """Until `condition` holds; False if the sweep ended, or the time is up, before that."""
        until = time.monotonic() + seconds
        while not self.ended and time.monotonic() < until:
            if condition():
                return True
            time.sleep(0.001)
        return False

    def orphans_gone_s(self, at_most: float = ORPHANS_S) -> float:
        """Seconds until no process is left of a sweep whose parent is dead. Raises AssertionError after `at_most`."""
        self.process.wait(LONGEST_S)
        began = time.monotonic()
        while alive := self.survivors():
            if time.monotonic() - began > at_most:
                commands = [_command(pid) for pid in alive]
                send(alive)
                raise AssertionError(f"{at_most:.0f} s after their parent these live: {commands}")
            time.sleep(0.02)
        return time.monotonic() - began


def _session(leader: int) -> dict[int, int]:
    """{process: its parent} of the session begun by `leader`, without those that only wait to be collected."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):  # it has just ended
            if os.getsid(process.pid) == leader and process.status() not in _ENDED:
                found[process.pid] = process.ppid()
    return found


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def _is_fork_server(pid: int) -> bool:
    return "forkserver" in _command(pid)


def being_written(out: Path) -> list[Path]:
    """Temporary files of records and curves and folders of unfinished checkpoints that are there at this moment."""
    folders = [out / RUNS, out / CURVES]
    with contextlib.suppress(OSError):
        folders += [Path(entry.path) for entry in os.scandir(out / "checkpoints")]
    found = []
    for folder in folders:
        with contextlib.suppress(OSError):
            names = [entry.name for entry in os.scandir(folder) if entry.name[0] == "."]
            found += [folder / n for n in names if n.endswith(".tmp") or n.startswith(".building-")]
    return found


def writers(sweep: Sweep) -> list[int]:
    """Runs of `sweep` that have a file open at this moment which is not finished."""
    unfinished = [str(path) for path in being_written(sweep.out)]
    found = []
    for pid in sweep.workers() if unfinished else ():
        with contextlib.suppress(psutil.Error):
            opened = [file.path for file in psutil.Process(pid).open_files()]
            if any(name == path or name.startswith(f"{path}/") for name in opened for path in unfinished):
                found.append(pid)
    return found


class Witness:
    """Remembers every finished run of a folder and checks, after each fault, that nothing of it is lost."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.finished: dict[str, bytes] = {}  # key: the record's file

    def check(self, damaged: frozenset[Path] = frozenset()) -> pd.DataFrame:
        """Every reader works, or names a file that was `damaged` on purpose; returns the records that are ok.

        Raises AssertionError if a finished run is gone or changed, or two records have one key.
        """
        if not self.out.is_dir():
            assert not self.finished
            return pd.DataFrame()
        faults: list[DataError] = []
        table = gather(self.out, faults=faults)
        for message in [str(fault) for fault in faults] + [f.message for f in check_folder(self.out).wrong]:
            assert any(str(file) in message for file in damaged), message
        for words in (["results", str(self.out)], ["results", "check", str(self.out)]):
            code, text = run_command(words)
            assert code == 0 or any(str(file) in text for file in damaged) or not len(table.records), text
        keys = table.records["key"].tolist() + table.others["key"].tolist()
        assert len(keys) == len(set(keys)), keys
        for key, content in self.finished.items():
            file = self.out / RUNS / f"{key}.parquet"
            assert file in damaged or file.read_bytes() == content, f"{file}: changed"
        for key, file in zip(table.records["key"], table.records["file"], strict=True):
            self.finished.setdefault(key, Path(file).read_bytes())
        return table.records

    def compare(self, reference: Path, without_curve: Sequence[str] = ()) -> None:
        """Assert that the records are those of `reference`, bit for bit, and so is each curve's last loss."""
        mine, others = (t.set_index("key").sort_index() for t in (self.check(), gather(reference).records))
        assert mine.index.tolist() == others.index.tolist()
        assert mine["loss"].tolist() == others["loss"].tolist(), (mine["loss"] - others["loss"]).to_dict()
        assert gather(self.out).unfinished == {}
        for key in mine.index.difference(list(without_curve)):
            ends = [read_curve(place / CURVES / f"{key}.parquet").iloc[-1] for place in (self.out, reference)]
            assert ends[0].equals(ends[1]), f"curve of {key}: {ends}"


def run_command(words: Sequence[str]) -> tuple[int, str]:
    """Exit code and everything printed by ``scalelab WORDS``, run in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(list(words))
    return code, " ".join(said.getvalue().split())


def send(pids: Sequence[int], number: int = signal.SIGKILL) -> None:
    """A signal to those of the processes that live."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """The processes stand still meanwhile; those that live go on."""
    send(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send(pids, signal.SIGCONT)


@contextlib.contextmanager
def work_folder(wanted: Path | None) -> Iterator[Path]:
    """A folder that is gone if all went well."""
    folder = wanted or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        print(f"see {folder}", flush=True)
        raise
    shutil.rmtree(folder)
