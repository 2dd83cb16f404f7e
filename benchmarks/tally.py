"""Counts of the fault injection benchmark, and its page docs/faults.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.damage import DISK_BYTES

OUTPUT = Path(__file__).parent.parent / "docs" / "faults.md"
COMMANDS = "\n## Single commands\n"  # begins the last section of the page


@dataclass
class Tally:
    """Counts for one kind of fault: faults, faults during a write, and interrupted runs."""

    kind: str
    faults: int = 0
    in_writes: int = 0
    cut: int = 0
    orphans_s: float = 0.0  # the longest time that a process outlived its parent
    folders: int = 0  # that ended with the records of the undisturbed sweep
    seconds: float = 0.0


@dataclass
class CommandTally:
    """Kills of one command; every one of them passed the checks of benchmarks/command_kills.py."""

    kind: str
    kills: int = 0
    in_writes: int = 0
    whole: int = 0  # kills after which the whole output was there
    refused: int = 0  # of these: repeated commands that refuse to write into the folder
    resumed: int = 0  # repeated commands that went on from a checkpoint
    leftovers: int = 0  # folders of checkpoints that the repeat left
    seconds: float = 0.0


def describe_commands(tallies: list[CommandTally], command: str) -> str:
    """Return the section of docs/faults.md on single commands."""
    rows = "\n".join(
        f"| {t.kind} | {t.kills} | {t.in_writes} | {t.kills} ({t.whole}) | {t.kills} | {t.resumed or ''} | "
        f"{t.leftovers} | {t.seconds:.0f} |"
        for t in tallies
    )
    kills, in_writes = sum(t.kills for t in tallies), sum(t.in_writes for t in tallies)
    return SECTION.format(rows=rows, kills=kills, in_writes=in_writes, command=command)


def replace_commands(page: str, section: str) -> str:
    """Return `page` with `section` at its end, in place of the earlier one."""
    return page.partition(COMMANDS)[0] + section


def commands_of(page: Path) -> str:
    """Return the section on single commands of a page, or an empty string."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    _, title, section = text.partition(COMMANDS)
    return title + section


def merge(tallies: Iterable[Tally]) -> list[Tally]:
    """Add up the tallies of each kind."""
    merged: dict[str, Tally] = {}
    for tally in tallies:
        total = merged.setdefault(tally.kind, Tally(tally.kind))
        for name in ("faults", "in_writes", "cut", "folders", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        total.orphans_s = max(total.orphans_s, tally.orphans_s)
    return list(merged.values())


def describe(tallies: list[Tally], runs: int, undisturbed_s: float, total_s: float, command: str) -> str:
    """Return the page docs/faults.md."""
    rows = "\n".join(
        f"| {t.kind} | {t.faults} | {t.in_writes or ''} | {t.cut or ''} | "
        f"{t.folders or ''} | "
        f"{f'{t.orphans_s:.1f}' if t.orphans_s else ''} | {t.seconds:.0f} |"
        for t in tallies
    )
    kills = [t for t in tallies if "SIGKILL" in t.kind]
    return PAGE.format(
        runs=runs,
        rows=rows,
        kills=sum(t.faults for t in kills),
        in_writes=sum(t.in_writes for t in kills),
        folders=sum(t.folders for t in tallies),
        undisturbed=undisturbed_s,
        minutes=total_s / 60,
        disk=DISK_BYTES // 2**20,
        cores=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        command=command,
    )


PAGE = """# What sweeps survive

Sweeps of {runs} runs (N 12k; P 1, 2; two D that share their stable phase; 3 seeds; a checkpoint every 0.3 s of
training) were disturbed as below and then repeated until all runs had ended. {kills} of the faults are SIGKILLs,
{in_writes} of them while a record, a curve or a checkpoint was being written. After each fault every reader
(`scalelab.records`, `scalelab results`, `scalelab results check`) worked, or named a file that had been damaged on
purpose. Each finished run kept its record, unchanged to the byte, and no run had two. In the end all {folders} folders
held the records of an undisturbed sweep: the same keys, losses and loss curves, bit for bit.

| fault | count | during a write | runs interrupted | folders, equal in the end | longest orphan, s | seconds |
|---|---|---|---|---|---|---|
{rows}

- *runs interrupted* were in training, and resumed from a checkpoint when the sweep was repeated.
- *longest orphan*: seconds from the end of the parent to the end of its last process. A worker reports progress twice a
  second and ends when the report fails. A fork server that is still importing ends afterwards. Busy cores make both
  slower.
- *SIGKILL of a worker*: three times in four one that has an unfinished file open, otherwise any, at a random moment.
- *SIGKILL of the parent*: alone or with all its processes, as when a machine fails; one in six before the first run.
- *full disk*: a tmpfs of {disk} MiB with 0 to 300 kB left, before the sweep starts or while it trains. Space is freed
  afterwards. The sweep ends with one line that names the full disk.
- *two sweeps*: start together on one folder with one worker each; one is killed and restarted, twice.
- *files*: a record, another run's curve, all checkpoints (weights, optimizer, state), locks and states of sweeps, from
  one killed sweep. Readers named the first two, `scalelab results check --quarantine` moved them, and the sweep was
  repeated. A damaged checkpoint is ignored. A missing curve of a finished run is not made again.
- *one bit*: of a copy of a record or curve. The file was refused by name, or its content was unchanged.

An undisturbed sweep took {undisturbed:.0f} s, everything {minutes:.0f} minutes, on {cores} cores ({system},
Python {python}). Made by `{command}`. Which run
is hit at which moment depends on the clock as well as on the seed.
"""

SECTION = (
    COMMANDS
    + """
Single commands were killed {kills} times with SIGKILL, together with all their processes, {in_writes} times while they
had an unfinished file or folder. Each ran on tiny inputs in a folder that also held files of its user. After each kill
every output file was complete or absent (a model's folder: all or nothing), and no other file had changed, inputs and
cache included. Then the same command was repeated. Its files equalled those of an undisturbed command: models, figures,
tables and fits byte for byte, records and training.json apart from their times.

| command | kills | during a write | complete or absent (complete) | repeat is equal | resumed | leftovers | seconds |
|---|---|---|---|---|---|---|---|
{rows}

- *during a write*: the kill left a hidden unfinished file or folder. Half of the kills waited for one, the others came
  at a random moment.
- *complete*: all of the output existed before the repeat. `convert` and `train` then refuse to write into the folder.
- *resumed*: `train` resumed from a checkpoint in OUT.checkpoints, which is removed when OUT is written.
- *leftovers*: folders of checkpoints that remained after the repeat. A hidden unfinished file or folder would have
  ended the benchmark: the next write of a file or model removes what killed processes left, while a living process
  holds a lock on its file. A `train` killed between renaming OUT and removing OUT.checkpoints would leave the latter.
- *results*: `-o runs.csv --figure runs.png`; *fit*: two groups, with figures; *import*: four runs with curves;
  *report*: one page, without plan and comparison of laws.

A loss of power is not among these faults. In its place tests/core/test_atomic.py records each fsync and rename of
`atomic_write`, `atomic_folder`, a model, a checkpoint and a token cache. It checks that every file and folder of the
output was synced before the one rename to the final name, and the parent folder after it. It does not check that the
disk obeys, nor that nothing is written between sync and rename.

Made by `{command}`.
"""
)
