"""What is wrong below a folder of results, and a safe place for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from scalelab.atomic import is_temporary
from scalelab.errors import DataError
from scalelab.records.files import CHECKPOINTS, QUARANTINE, read_parquet, sweep_folder, walk
from scalelab.records.schema import CURVE_KIND, NEEDED, RECORD_KIND, REQUIRED
from scalelab.records.store import curve_path, record_path
from scalelab.status import RunStatus

STALE_S = 600.0  # a file takes seconds to write: what is older will never be finished
Action = Literal["quarantine", "remove", "none"]


@dataclass(frozen=True)
class Finding:
    """Something about one file, and what is to be done: only what is to go into quarantine is wrong."""

    file: Path
    message: str  # names the file
    action: Action = "none"


@dataclass(frozen=True)
class Check:
    """What there is below a folder, and what was found."""

    n_records: int
    n_curves: int
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """Files that readers refuse."""
        return tuple(finding for finding in self.findings if finding.action == "quarantine")


@dataclass(frozen=True)
class _Record:
    file: Path
    rows: int  # of that file
    ok: bool
    created: str
    numbers: tuple  # of REQUIRED

    @property
    def rank(self) -> tuple:
        """Of several records of one run the one to keep comes first."""
        return (not self.ok, -self.rows, self.created, str(self.file))


def check_folder(folder: Path) -> Check:
    """Look at every file below `folder`, but for what is in quarantine. Changes nothing. Raises `OSError`."""
    files = sorted(walk(folder))
    records: dict[str, list[_Record]] = {}
    curves: list[Path] = []
    findings: list[Finding] = []
    for file in files:
        if is_temporary(file):
            findings += _temporary(file)
        elif file.suffix == ".parquet" and not file.name.startswith("."):
            try:
                found = read_parquet(file)
                lacking = [name for name in NEEDED if found.kind != CURVE_KIND.decode() and name not in found.table]
                if lacking:
                    raise DataError(f"{file}: no record and no loss curve: it has no column {lacking[0]!r}")
            except DataError as error:
                findings.append(Finding(file, str(error), "quarantine"))
                continue
            if found.kind == CURVE_KIND.decode():
                curves.append(file)
            elif found.kind == RECORD_KIND.decode() or sweep_folder(file) is not None:
                for key, record in _records(file, found.table):
                    records.setdefault(key, []).append(record)
    for same in records.values():
        findings += _doubled(sorted(same, key=lambda record: record.rank))
    every = [record for same in records.values() for record in same]
    finished = {record.file for record in every if record.ok}
    findings += _unpaired({record.file for record in every}, finished, curves)
    findings += _checkpoints(folder, files, finished)
    findings.sort(key=lambda finding: (finding.action != "quarantine", str(finding.file)))
    return Check(len(every), len(curves), tuple(findings))


def settle(folder: Path, findings: Iterable[Finding]) -> list[str]:
    """Do what `findings` ask for; returns a line for each file.

    A file goes to the same place below ``folder/quarantine``, where no reader looks, in one step, and never over
    another; only unfinished temporary files are removed. Raises `OSError`.
    """
    done = []
    for finding in findings:
        if finding.action == "quarantine":
            place = wanted = folder / QUARANTINE / finding.file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            number = 1
            while place.exists() or place.is_symlink():
                place, number = wanted.with_name(f"{wanted.stem}.{number}{wanted.suffix}"), number + 1
            finding.file.rename(place)
            done.append(f"moved {finding.file} to {place}")
        elif finding.action == "remove":
            finding.file.unlink(missing_ok=True)
            done.append(f"removed {finding.file}")
    return done


def _temporary(file: Path) -> Iterator[Finding]:
    try:
        age = time.time() - file.stat().st_mtime
    except FileNotFoundError:  # it has become what it was to be
        return
    if age > STALE_S:
        yield Finding(file, f"{file}: temporary file of a write that was cut short", "remove")
    else:
        yield Finding(file, f"{file}: temporary file, {age:.0f} s old: of a write that goes on or was cut short")


def _records(file: Path, table: pd.DataFrame) -> Iterator[tuple[str, _Record]]:
    """Key and record of each row of a table that has keys."""
    for row in table.to_dict("records"):
        if not pd.isna(row.get("key")):
            status, created = (None if pd.isna(row.get(name)) else row[name] for name in ("status", "created_utc"))
            numbers = tuple(row.get(name) for name in REQUIRED)
            is_ok = status in (None, RunStatus.OK)
            yield str(row["key"]), _Record(file, len(table), is_ok, str(created or ""), numbers)


def _doubled(same: list[_Record]) -> Iterator[Finding]:
    """`same` are the records of one run, the best first."""
    best = same[0]
    for other in same[1:]:
        if other.ok and other.numbers != best.numbers:
            message = f"{other.file}: another record of the run in {best.file}, with other numbers"
            yield Finding(other.file, message, "quarantine")
        elif other.ok or not best.ok:
            yield Finding(other.file, f"{other.file}: a copy of {best.file}, counts once")
        else:
            yield Finding(other.file, f"{other.file}: not ok, but the same run is in {best.file}")


def _unpaired(records: set[Path], finished: set[Path], curves: list[Path]) -> Iterator[Finding]:
    known = set(curves)
    for file in curves:
        root = sweep_folder(file)
        if root is not None and record_path(root, file.stem) not in records:
            yield Finding(file, f"{file}: loss curve without a record: its run goes on, or was cut short")
    for file in finished:
        root = sweep_folder(file)
        if root is not None and curve_path(root, file.stem) not in known:
            message = f"{file}: record without a readable loss curve: its loss counts all the same; "
            yield Finding(file, message + "for the curve remove this record and repeat its sweep, which trains it anew")


def _checkpoints(folder: Path, files: list[Path], finished: set[Path]) -> Iterator[Finding]:
    """Checkpoints that nothing will go on from."""
    sizes: dict[Path, int] = {}
    for file in files:
        for place in file.relative_to(folder).parents:
            if place.parent.name == CHECKPOINTS and record_path(folder / place.parent.parent, place.name) in finished:
                with contextlib.suppress(FileNotFoundError):  # removed just now
                    sizes[folder / place] = sizes.get(folder / place, 0) + file.lstat().st_size
    for place, size in sizes.items():
        yield Finding(place, f"{place}: checkpoints of a finished run, {size / 2**20:.1f} MiB")
