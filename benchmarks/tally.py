"""Counts of the fault injection benchmark, and its page docs/faults.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.damage import DISK_BYTES


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
