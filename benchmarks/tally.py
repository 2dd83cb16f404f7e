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
    """One kind of fault: how many, how many of them in the midst of a write, how many runs they cut."""

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
    """The section of docs/faults.md on single commands."""
    rows = "\n".join(
        f"| {t.kind} | {t.kills} | {t.in_writes} | {t.kills} ({t.whole}) | {t.kills} | {t.resumed or ''} | "
        f"{t.leftovers} | {t.seconds:.0f} |"
        for t in tallies
    )
    kills, in_writes = sum(t.kills for t in tallies), sum(t.in_writes for t in tallies)
    return SECTION.format(rows=rows, kills=kills, in_writes=in_writes, command=command)


def replace_commands(page: str, section: str) -> str:
    """`page` with `section` at its end, in place of the earlier one."""
    return page.partition(COMMANDS)[0] + section


def commands_of(page: Path) -> str:
    """The section on single commands in a page; empty if there is none."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    _, title, section = text.partition(COMMANDS)
    return title + section


def merge(tallies: Iterable[Tally]) -> list[Tally]:
    """One tally a kind."""
    merged: dict[str, Tally] = {}
    for tally in tallies:
        total = merged.setdefault(tally.kind, Tally(tally.kind))
        for name in ("faults", "in_writes", "cut", "folders", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        total.orphans_s = max(total.orphans_s, tally.orphans_s)
    return list(merged.values())


def describe(tallies: list[Tally], runs: int, undisturbed_s: float, total_s: float, command: str) -> str:
    """The page docs/faults.md."""
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
training) were disturbed as below, and then run again until they were done. {kills} of the faults are SIGKILLs,
{in_writes} of them at a moment when a record, a curve or a checkpoint was being written. After every fault each
reader (`scalelab.records`, `scalelab results`, `scalelab results check`) worked, or named a file that had been
damaged on purpose; every finished run's record was there, byte for byte as before, and no run had two. In the end
all {folders} folders held the records of an undisturbed sweep: the same keys, the same losses and the same ends of
loss curves, bit for bit.

| fault | count | in a write | runs cut | folders, equal in the end | longest orphan, s | seconds |
|---|---|---|---|---|---|---|
{rows}

- *runs cut* were in training, and went on from a checkpoint when the sweep was repeated.
- *longest orphan*: seconds until the last process was gone after its parent. A worker ends at the next progress
  that it cannot tell, twice a second; a fork server that is still importing ends when it has. Busy cores make both
  longer.
- *SIGKILL of a worker*: one that has an unfinished file open, three times in four; else any, at a random moment.
- *SIGKILL of the parent*: alone or with all its processes, as when a machine dies; one in six before the first run.
- *full disk*: a tmpfs of {disk} MiB on which none to 300 kB are left, before the sweep begins or while it trains, and
  which is freed afterwards. The sweep ends with one line that says so.
- *two sweeps*: begin together on one folder with one worker each; one is killed, twice, and begun again.
- *files*: a record, another run's curve, all checkpoints (weights, optimizer, state), locks and states of sweeps,
  of one sweep that was killed. Readers named the first two, `scalelab results check --quarantine` moved them, the
  sweep was repeated. A damaged checkpoint counts as none. A curve alone is not made again: its run has ended well.
- *one bit*: of a copy of a record or curve: refused by name, or nothing of its content was changed.

An undisturbed sweep took {undisturbed:.0f} s, everything {minutes:.0f} minutes, on {cores} cores ({system},
Python {python}). Made by `{command}`; which run is hit
at which moment depends on the clock as well as on the seed.
"""

SECTION = (
    COMMANDS
    + """
Single commands were killed {kills} times with SIGKILL, with all their processes, {in_writes} times while an unfinished
file or folder of theirs was there. Each ran on tiny inputs in a folder that also held files of its user. After each
kill every file of the output was the undisturbed command's or absent (a model's folder: all of it or none), and no
other file, inputs and cache included, was changed. Then the same command was repeated, and its files were those of the
undisturbed command: models and figures, tables and fits byte for byte, records and the losses in training.json without
times.

| command | kills | in a write | whole or absent (whole) | repeat equals the reference | resumed | leftovers | seconds |
|---|---|---|---|---|---|---|---|
{rows}

- *in a write*: the kill left a hidden unfinished file or folder. Half of the kills waited for one, the others came at a
  random moment.
- *whole*: all of the output was there before the repeat. `convert` and `train` then refuse to write into the folder.
- *resumed*: `train` went on from a checkpoint in OUT.checkpoints, which is removed when OUT is written.
- *leftovers*: folders of checkpoints that the repeat left; a hidden unfinished file or folder would have ended the
  campaign. The next write of a file or model removes what killed processes left of it; a living process holds a lock
  on its file. A `train` killed between the renaming of OUT and the removal of OUT.checkpoints would leave the latter.
- *results*: `-o runs.csv --figure runs.png`; *fit*: two groups, with figures; *import*: four runs with curves.

A loss of power is not among these faults. In its place tests/core/test_atomic.py records each fsync and rename of
`atomic_write`, `atomic_folder`, a model, a checkpoint and a token cache. It checks that every file and folder of the
output was synced before the one rename to the final name, and the parent folder after it. It does not check that the
disk obeys, nor that nothing is written between sync and rename.

Made by `{command}`.
"""
)
