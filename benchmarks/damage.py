"""Helpers that damage the files of a sweep, and a disk that is too small."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from scalelab.errors import DataError
from scalelab.records.files import CURVES, RUNS, read_curve, read_record

DISK_BYTES = 8 * 2**20


def flip(content: bytes, rng: random.Random) -> bytes:
    """`content` with one bit changed."""
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


Change = Callable[[bytes, random.Random], bytes]

CHANGES: dict[str, Change] = {
    "emptied": lambda content, rng: b"",
    "cut to half": lambda content, rng: content[: len(content) // 2],
    "one byte short": lambda content, rng: content[:-1],
    "with one bit flipped": flip,
    "with another bit flipped": flip,
}


def has_all_kinds(out: Path) -> bool:
    """Three finished runs, checkpoints, and the state of the sweep."""
    finished = len(list((out / RUNS).glob("[!.]*.parquet"))) >= 3
    return finished and len(list(out.glob("checkpoints/*/[0-9]*"))) >= 4 and any(out.glob(".sweeps/*.json"))


def expect_named(files: frozenset[Path], template: Path, out: Path) -> None:
    """Each file is refused by name, or what is read of it is what was written."""
    for file in files:
        read = read_record if file.parent.name == RUNS else read_curve
        before = read(template / file.relative_to(out))
        try:
            after = read(file)
        except DataError as error:
            named = str(file) in str(error)
        else:
            named = str(after) == str(before)
        assert named, f"{file}: changed, and nothing noticed"


def flip_bits_of_records(reference: Path, rng: random.Random, count: int) -> None:
    """Single bits of copies of records and curves. Raises AssertionError if one is read as something else."""
    files = sorted([*(reference / RUNS).glob("[!.]*"), *(reference / CURVES).glob("[!.]*")])
    with tempfile.TemporaryDirectory() as folder:
        for name in (RUNS, CURVES):
            (Path(folder) / name).mkdir()
        for _ in range(count):
            file = rng.choice(files)
            copy = Path(folder) / file.relative_to(reference)
            copy.write_bytes(flip(file.read_bytes(), rng))
            expect_named(frozenset([copy]), reference, Path(folder))


def can_mount() -> bool:
    """Return whether `small_disk` works on this machine."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount") is not None


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of `DISK_BYTES` in memory. Raises CalledProcessError where none can be mounted."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(filler: Path, leave: int) -> None:
    """Let `filler` grow until `leave` bytes are left on its disk."""
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:  # other processes write as well
            state = os.statvfs(filler)
            spare = state.f_bavail * state.f_frsize - leave
            if spare <= 0:
                break
            file.write(bytes(min(spare, 2**16)))
