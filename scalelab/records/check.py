"""Check a results folder for damaged files, and move them to quarantine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from scalelab.atomic import folder_time, is_temporary
from scalelab.errors import DataError
from scalelab.records.files import BESIDE, CHECKPOINTS, QUARANTINE, read_parquet, sweep_folder, walk
from scalelab.records.schema import CURVE_KIND, NEEDED, RECORD_KIND, REQUIRED
from scalelab.records.store import curve_path, record_path
from scalelab.status import RunStatus

STALE_S = 600.0  # writing a file takes seconds, so an older temporary file is a leftover
Action = Literal["quarantine", "remove", "none"]


@dataclass(frozen=True)
class Finding:
    """A remark about one file, with the action it needs; only files for quarantine are wrong."""

    file: Path
    message: str  # starts with the file
    action: Action = "none"


@dataclass(frozen=True)
class Check:
    """The result of checking a folder: numbers of records and loss curves, and findings."""

    n_records: int
    n_curves: int
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """Findings on files that readers reject."""
        return tuple(finding for finding in self.findings if finding.action == "quarantine")


@dataclass(frozen=True)
class _Record:
    file: Path
    rows: int  # in that file
    ok: bool
    created: str
    numbers: tuple  # values of REQUIRED

    @property
    def rank(self) -> tuple:
        """Sort key that puts the record to keep first among several of one run."""
        return (not self.ok, -self.rows, self.created, str(self.file))


def check_folder(folder: Path) -> Check:
    """Check every file below `folder`, except in quarantine, without changes. Raises `OSError`."""
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
                lacking = [name for name in NEEDED if found.kind not in BESIDE and name not in found.table]
                if lacking:
                    raise DataError(f"{file}: neither a record nor a loss curve: column {lacking[0]!r} is missing")
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


def apply_actions(folder: Path, findings: Iterable[Finding]) -> list[str]:
    """Carry out the actions of `findings` and return one line of text per file.

    A file is moved atomically to the same relative path below ``folder/quarantine``, which readers skip, and never
    replaces another; only leftover temporary files are removed.

    Raises:
        DataError: The way into the quarantine leads through a symbolic link, so files could leave the folder.
        OSError: A file cannot be moved or removed.
    """
    done = []
    for finding in findings:
        if finding.action == "quarantine":
            target = wanted = folder / QUARANTINE / finding.file.relative_to(folder)
            _refuse_links(folder, target.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            number = 1
            while target.exists() or target.is_symlink():
                target, number = wanted.with_name(f"{wanted.stem}.{number}{wanted.suffix}"), number + 1
            finding.file.rename(target)
            done.append(f"moved {finding.file} to {target}")
        elif finding.action == "remove":
            finding.file.unlink(missing_ok=True)
            done.append(f"removed {finding.file}")
    return done


def _refuse_links(folder: Path, target: Path) -> None:
    for path in (target, *target.parents):
        if path == folder:
            return
        if path.is_symlink():
            raise DataError(f"{path}: a symbolic link, through which files would leave {folder}; remove it")


def _temporary(file: Path) -> Iterator[Finding]:
    try:
        age = folder_time(file.parent) - file.stat().st_mtime
    except FileNotFoundError:  # its write has finished
        return
    if age > STALE_S:
        yield Finding(file, f"{file}: temporary file of an interrupted write", "remove")
    else:
        yield Finding(file, f"{file}: temporary file, {age:.0f} s old, of a running or interrupted write")


def _records(file: Path, table: pd.DataFrame) -> Iterator[tuple[str, _Record]]:
    """Yield key and record of each row with a key."""
    for row in table.to_dict("records"):
        if not pd.isna(row.get("key")):
            status, created = (None if pd.isna(row.get(name)) else row[name] for name in ("status", "created_utc"))
            numbers = tuple(row.get(name) for name in REQUIRED)
            is_ok = status in (None, RunStatus.OK)
            yield str(row["key"]), _Record(file, len(table), is_ok, str(created or ""), numbers)


def _doubled(same: list[_Record]) -> Iterator[Finding]:
    """Yield a finding for each duplicate in `same`, the records of one run, the best first."""
    best = same[0]
    for other in same[1:]:
        if other.ok and other.numbers != best.numbers:
            message = f"{other.file}: another record of the run in {best.file}, with different numbers"
            yield Finding(other.file, message, "quarantine")
        elif other.ok or not best.ok:
            yield Finding(other.file, f"{other.file}: a copy of {best.file}; it is used once")
        else:
            yield Finding(other.file, f"{other.file}: not ok, but {best.file} has the same run")


def _unpaired(records: set[Path], finished: set[Path], curves: list[Path]) -> Iterator[Finding]:
    known = set(curves)
    for file in curves:
        root = sweep_folder(file)
        if root is not None and record_path(root, file.stem) not in records:
            yield Finding(file, f"{file}: loss curve without a record: its run is running or was interrupted")
    for file in finished:
        root = sweep_folder(file)
        if root is not None and curve_path(root, file.stem) not in known:
            message = f"{file}: record without a readable loss curve; its loss is used anyway: "
            yield Finding(file, message + "to get the curve, remove this record and run its sweep again")


def _checkpoints(folder: Path, files: list[Path], finished: set[Path]) -> Iterator[Finding]:
    """Yield a finding for the checkpoints of each finished run, which nothing needs."""
    sizes: dict[Path, int] = {}
    for file in files:
        for part in file.relative_to(folder).parents:
            if part.parent.name == CHECKPOINTS and record_path(folder / part.parent.parent, part.name) in finished:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    sizes[folder / part] = sizes.get(folder / part, 0) + file.lstat().st_size
    for path, size in sizes.items():
        yield Finding(path, f"{path}: checkpoints of a finished run, {size / 2**20:.1f} MiB")
