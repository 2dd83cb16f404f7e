"""Fault injection: kills, signals, full disks, damaged files and two sweeps at once, against an undisturbed sweep.

After every fault each reader must work or name the damaged file, and every earlier record must be unchanged. At the end
each folder must hold the records of the undisturbed sweep, bit for bit. Run with `make faults`; needs Linux, and root
to mount a small disk (skipped otherwise); writes docs/faults.md. `--scale 0.1` is a quick check. Single
commands: benchmarks/command_kills.py.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from benchmarks.damage import (
    CHANGES,
    Change,
    can_mount,
    expect_named,
    fill,
    flip_bits_of_records,
    has_all_kinds,
    small_disk,
)
from benchmarks.disturb import Lab, Sweep, Witness, being_written, run_command, send, stopped, work_folder, writers
from benchmarks.tally import OUTPUT, Tally, commands_of, describe, merge
from scalelab.records.files import CURVES, RUNS
from scalelab.records.read import gather

# The longest first, split into parts that run at the same time.
CAMPAIGNS = (("parent", 10), ("parent", 10), ("parent", 10), ("disk", 6), ("damage", 5), ("worker", 15), ("worker", 15))
CAMPAIGNS += (("share", 3), ("signals", 6), ("flips", 1000))
FREE_BYTES = (0, 16_384, 300_000, 0, 20_000, 200_000)  # bytes left on the full disks


class Campaign:
    """Sweeps on fresh folders, one after the other, until enough faults have struck."""

    def __init__(self, lab: Lab, reference: Path, seed: int) -> None:
        self.lab, self.reference, self.seed, self.random = lab, reference, seed, random.Random(seed)
        self.numbers = 0

    def folder(self, kind: str) -> Path:
        self.numbers += 1
        return self.lab.folder / f"{kind.replace(' ', '-').replace(',', '')}-{self.seed}-{self.numbers}"

    def run(self, kind: str, count: int, strike: Callable[[Sweep, Tally], None]) -> Tally:
        """`strike` running sweeps until `count` faults are counted; then let the last sweep end."""
        tally, began = Tally(kind), time.monotonic()
        while tally.faults < count:
            out = self.folder(kind)
            witness = Witness(out)
            sweep = self.lab.start(out)
            while True:
                if tally.faults < count and not sweep.ended:
                    strike(sweep, tally)
                    witness.check()
                    show(tally)
                    continue
                if sweep.ended or tally.faults >= count:
                    code = sweep.wait()
                    tally.orphans_s = max(tally.orphans_s, sweep.orphans_gone_s())
                    if code == 0:
                        break
                    witness.check()
                    sweep = self.lab.start(out)
            self.settle(witness, tally)
        tally.seconds = time.monotonic() - began
        return tally

    def settle(self, witness: Witness, tally: Tally, without_curve: tuple[str, ...] = ()) -> None:
        witness.compare(self.reference, without_curve)
        tally.folders += 1
        shutil.rmtree(witness.out)

    @contextmanager
    def moment(self, sweep: Sweep, at_most: float) -> Iterator[tuple[list[int], list[int]]]:
        """A moment at which the workers stand still: three times in four one at which something is being written,
        else after any time up to `at_most` seconds. Yields the workers, and those of them that are writing."""
        aimed, until = self.random.random() < 0.75, time.monotonic() + 8.0
        if not aimed:
            time.sleep(self.random.uniform(0.0, at_most))
        left_behind = set(being_written(sweep.out))  # written by killed processes
        while True:
            if aimed:
                sweep.wait_for(lambda: set(being_written(sweep.out)) - left_behind, until - time.monotonic())
            with stopped(workers := sweep.workers()):
                writing = writers(sweep)
                if writing or not aimed or sweep.ended or time.monotonic() > until:  # else the write has ended
                    yield workers, writing
                    return

    def kill_worker(self, sweep: Sweep, tally: Tally) -> None:
        """SIGKILL to a run in training, three times in four to one that is writing."""
        if not sweep.wait_for(sweep.workers):
            return
        with self.moment(sweep, 2.0) as (workers, writing):
            if not workers:
                return
            victim = self.random.choice(writing or workers)
            send([victim])
        while victim in sweep.survivors():
            time.sleep(0.001)
        tally.faults += 1
        tally.cut += 1
        tally.in_writes += bool(writing)

    def kill_parent(self, sweep: Sweep, tally: Tally) -> None:
        """SIGKILL to the parent, or to it and all its processes at once; one in six while it is starting."""
        if self.random.random() < 1 / 6:
            time.sleep(self.random.uniform(0.0, 6.0))
            workers: list[int] = []
            if sweep.ended:
                return
            sweep.kill()
        elif sweep.wait_for(sweep.workers):
            with self.moment(sweep, 3.0) as (workers, writing):
                if sweep.ended:
                    return
                tally.in_writes += bool(writing)
                if self.random.random() < 0.5:
                    send(sweep.survivors())
                sweep.kill()
        else:
            return
        tally.faults += 1
        tally.cut += len(workers)
        tally.orphans_s = max(tally.orphans_s, sweep.orphans_gone_s())

    def interrupt(self, sweep: Sweep, tally: Tally) -> None:
        """Send SIGINT, SIGTERM or SIGHUP to the parent, in turn."""
        if not sweep.wait_for(sweep.workers):
            return
        time.sleep(self.random.uniform(0.0, 2.0))
        workers = sweep.workers()
        sweep.kill((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[tally.faults % 3])
        tally.faults += 1
        tally.cut += len(workers)
        sweep.wait()
        tally.orphans_s = max(tally.orphans_s, sweep.orphans_gone_s())

    def fill_disk(self, count: int) -> Tally:
        """Sweeps on a disk on which so many bytes are left, which then is freed; the last while the sweep runs."""
        free, began = FREE_BYTES[:count], time.monotonic()
        with small_disk(self.lab.folder / "disk") as disk:
            tally = Tally("full disk")
            for i, left in enumerate(free):
                out = disk / f"sweep-{i}"
                witness = Witness(out)
                filler = disk / "filler"
                if i < len(free) // 2:
                    fill(filler, left)
                    sweep = self.lab.start(out)
                else:  # the whole disk, while workers run
                    sweep = self.lab.start(out)
                    sweep.wait_for(sweep.workers)
                    time.sleep(self.random.uniform(0.0, 2.0))
                    fill(filler, left)
                code = sweep.wait()
                tally.faults += 1
                tally.orphans_s = max(tally.orphans_s, sweep.orphans_gone_s())
                assert code == 0 or "o space left" in sweep.output, sweep.output
                tally.cut += sum(line.startswith("FAILED") for line in sweep.output.splitlines())
                witness.check()
                show(tally)
                filler.unlink()
                self.lab.finish(out)
                self.settle(witness, tally)
        tally.seconds = time.monotonic() - began
        return tally

    def damage(self, count: int) -> list[Tally]:
        """Files of a sweep that was killed are cut or changed; then check --quarantine, and the sweep goes on."""
        template = self.lab.folder / "template"
        sweep = self.lab.start(template)
        assert sweep.wait_for(lambda: has_all_kinds(template), 300.0), sweep.output
        send(sweep.survivors())
        sweep.kill()
        sweep.orphans_gone_s()
        return [self.damage_all(template, name, change) for name, change in list(CHANGES.items())[:count]]

    def damage_all(self, template: Path, name: str, change: Change) -> Tally:
        """One record and another's curve, every checkpoint, the locks and the states of sweeps, all in one folder."""
        tally, began = Tally(f"files {name}"), time.monotonic()
        out = self.folder("damage")
        shutil.copytree(template, out)
        records = sorted(gather(out).records["key"])
        bad_record, bad_curve = self.random.sample(records, 2)
        files = [out / RUNS / f"{bad_record}.parquet", out / CURVES / f"{bad_curve}.parquet"]
        read_by_others = frozenset(files)
        for folder in ("checkpoints", ".locks", ".sweeps"):
            files += sorted(file for file in (out / folder).rglob("*") if file.is_file())
        for file in files:
            file.write_bytes(change(file.read_bytes(), self.random))
        tally.faults = len(files)
        tally.cut = 1 + sum(1 for place in (out / "checkpoints").iterdir() for _ in place.glob("[0-9]*"))
        expect_named(read_by_others, template, out)
        witness = Witness(out)
        witness.check(damaged=read_by_others)
        code, text = run_command(["results", "check", str(out), "--quarantine"])
        assert code == 0, text
        witness = Witness(out)
        witness.check()
        self.lab.finish(out)
        self.settle(witness, tally, () if (out / CURVES / f"{bad_curve}.parquet").exists() else (bad_curve,))
        tally.seconds = time.monotonic() - began
        return tally

    def share(self, rounds: int) -> Tally:
        """Two sweeps that begin together on one folder, one of which is killed now and then."""
        tally, began = Tally("two sweeps on one folder, SIGKILL of one"), time.monotonic()
        for _ in range(rounds):
            out = self.folder("shared")
            witness = Witness(out)
            sweeps = [self.lab.start(out, workers=1) for _ in range(2)]
            kills = 2
            while not all(sweep.ended for sweep in sweeps):
                until = time.monotonic() + self.random.uniform(0.5, 4.0)
                while time.monotonic() < until and not all(sweep.ended for sweep in sweeps):
                    witness.check()
                    time.sleep(0.05)
                running = [sweep for sweep in sweeps if sweep.workers()]
                if kills and len(running) == 2:
                    victim = self.random.choice(running)
                    tally.in_writes += bool(writers(victim))
                    tally.cut += len(victim.workers())
                    victim.kill()
                    tally.faults, kills = tally.faults + 1, kills - 1
                    tally.orphans_s = max(tally.orphans_s, victim.orphans_gone_s())
                    show(tally)
                    sweeps = [sweep for sweep in sweeps if sweep is not victim] + [self.lab.start(out, workers=1)]
            codes = [sweep.wait() for sweep in sweeps]
            assert codes == [0, 0], [sweep.output for sweep in sweeps]
            self.settle(witness, tally)
        tally.seconds = time.monotonic() - began
        return tally

    def flip_bits(self, count: int) -> Tally:
        tally, began = Tally("one bit of a record or curve", count), time.monotonic()
        flip_bits_of_records(self.reference, self.random, count)
        tally.seconds = time.monotonic() - began
        return tally


def show(tally: Tally) -> None:
    print(f"{tally.kind}: {tally.faults} ({tally.in_writes} in a write)", flush=True)


def carry_out(kind: str, count: int, lab: Lab, reference: Path, seed: int) -> list[Tally]:
    """One campaign, in a process of its own."""
    campaign = Campaign(lab, reference, seed)
    strikes = {
        "worker": ("SIGKILL of a worker", campaign.kill_worker),
        "parent": ("SIGKILL of the parent", campaign.kill_parent),
        "signals": ("SIGINT, SIGTERM, SIGHUP", campaign.interrupt),
    }
    if kind in strikes:
        name, strike = strikes[kind]
        return [campaign.run(name, count, strike)]
    if kind == "damage":
        return campaign.damage(count)
    return [{"share": campaign.share, "disk": campaign.fill_disk, "flips": campaign.flip_bits}[kind](count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of faults")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of moments and victims")
    parser.add_argument("--jobs", type=int, default=2, help="campaigns at once")
    parser.add_argument("--folder", type=Path, help="for the sweeps; stays if something is wrong")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    campaigns = [(kind, max(1, round(n * options.scale))) for kind, n in CAMPAIGNS if kind != "disk" or can_mount()]
    with work_folder(options.folder) as folder:
        lab, reference = Lab(folder), folder / "reference"
        began = time.monotonic()
        lab.finish(reference)
        undisturbed_s, runs = time.monotonic() - began, len(gather(reference).records)
        print(f"undisturbed: {runs} runs in {undisturbed_s:.0f} s", flush=True)
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
            jobs = [
                pool.submit(carry_out, kind, count, lab, reference, 1000 * options.seed + i)
                for i, (kind, count) in enumerate(campaigns)
            ]
            tallies = merge(tally for job in jobs for tally in job.result())
        total_s = time.monotonic() - began
    command = f"python -m benchmarks.faults --scale {options.scale:g} --seed {options.seed} --jobs {options.jobs}"
    text = describe(tallies, runs, undisturbed_s, total_s, command)
    print(text)
    options.output.write_text(text + commands_of(options.output), encoding="utf-8")


if __name__ == "__main__":
    main()
