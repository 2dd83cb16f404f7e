"""Speed-up of a second worker, and overhead of sweeps over training; writes docs/sweep.md. `make benchmark-sweep`.

Times are those of whole commands less those of the same commands with a single training step, which is the start-up: a
sweep with one worker and with two, and the same runs without sweep, records and checkpoints, in one process and in two
at once. They are repeated in rounds, since cores change speed within minutes. Three D are also trained as branches of
one stable phase, and separately. Needs two idle cores for half an hour.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scalelab.units import format_count

OUTPUT = Path(__file__).parent.parent / "docs" / "sweep.md"
TOKENS = 1_000_000
SEEDS = range(4)  # runs
FEW = 512  # a single step, which leaves the start-up
POINTS = (250_000, 500_000, 1_000_000)  # of one stable phase
ROUNDS = 5

_BARE = """
import json, sys
from scalelab.sweep.resolve import resolve
from scalelab.sweep.spec import SweepSpec
from scalelab.train.trainer import train_run
from scalelab.train.recipe import Recipe
import torch
torch.set_num_threads(1)
seeds, tokens, given = json.loads(sys.argv[1])
recipe = Recipe(dtype="fp32", **given)
resolved = resolve(SweepSpec(N=(50e3,), P=(2,), D=(tokens,), seeds=tuple(seeds), recipe=recipe))
for config in resolved.runs:
    train_run(config, resolved.data)
"""


def bare(seeds: Sequence[int] = SEEDS, tokens: int = TOKENS, **recipe: int) -> float:
    """Seconds of a process that trains these runs without a sweep."""
    return _seconds(["-c", _BARE, json.dumps([list(seeds), tokens, recipe])])


def bare_pair() -> float:
    """Seconds of two such processes at once, with half of the runs each: what two cores can give."""
    with ThreadPoolExecutor(2) as pool:
        return max(pool.map(bare, (SEEDS[::2], SEEDS[1::2])))


def sweep(workers: int, seeds: Sequence[int] = SEEDS, tokens: Sequence[int] = (TOKENS,), *options: str) -> float:
    """Seconds of ``scalelab sweep`` over `seeds` and D in `tokens`."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "scalelab", "sweep", "--N", "50k", "--P", "2", "--D", *map(str, tokens)]
        words += ["--seed", *map(str, seeds), "--dtype", "fp32", "--device", "cpu", *options]
        return _seconds([*words, "--workers", str(workers), "--out", folder])


def _seconds(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True)
    return time.perf_counter() - began


SHORT = ("--set", "recipe.val_tokens=128")
# Compared works are next to each other, in alternating order.
WORKS: dict[str, Callable[[], float]] = {
    "two": lambda: sweep(2),
    "one": lambda: sweep(1),
    "none": bare,
    "pair": bare_pair,
    "start": lambda: sweep(1, (0,), (FEW,), *SHORT),
    "bare start": lambda: bare((0,), FEW, val_tokens=128),
}
TITLES = {
    "none": "one process, no sweep",
    "one": "one worker",
    "pair": "two processes, no sweep",
    "two": "two workers",
    "start": "a sweep of a single step: the start",
    "bare start": "a single step, no sweep",
}


def main() -> None:
    WORKS["start"]()  # tokenises the text once and fills the file cache
    rounds: list[dict[str, float]] = []
    for number in range(ROUNDS):
        names = list(WORKS) if number % 2 == 0 else list(WORKS)[::-1]
        rounds.append({name: WORKS[name]() for name in names})
        print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in rounds[-1].items()), flush=True)
    apart = sum(sweep(1, (0,), (D,), "--schedule", "wsd") for D in POINTS)
    write(rounds, apart, sweep(1, (0,), POINTS, "--schedule", "wsd"))


def write(rounds: list[dict[str, float]], apart: float, branches: float) -> None:
    """The seconds of each of `WORKS` in each round, and of three D by one schedule, as a page."""
    start, bare_start = (statistics.median(r[name] for r in rounds) for name in ("start", "bare start"))
    trained = [
        {name: r[name] - (start if name in ("one", "two") else bare_start) for name in ("none", "one", "pair", "two")}
        for r in rounds
    ]
    told = {
        "one": ("over no sweep", lambda r: r["one"] / r["none"] - 1, "+.1%"),
        "pair": ("times one: what these two cores can give", lambda r: r["none"] / r["pair"], ".2f"),
        "two": ("times the throughput of one worker", lambda r: r["one"] / r["two"], ".2f"),
    }
    D, points = format_count(TOKENS), ", ".join(map(format_count, POINTS))
    lines = [
        "# A sweep beside its training",
        "",
        f"`make benchmark-sweep`: {len(SEEDS)} runs of N = 50k, P = 2, D = {D}, each with its validation, in {ROUNDS}",
        f"rounds there and back; {os.cpu_count()} cores ({platform.machine()}), {time.strftime('%Y-%m-%d')}. Seconds",
        "of whole commands, with all that they import; the text is tokenised before. Ratios are of what is left",
        "without the start, which is there once a sweep, however long: median of the rounds, and lowest to highest.",
        "",
        "| | seconds | median | |",
        "|---|---|---|---|",
    ]
    for name, title in TITLES.items():
        each, words = [r[name] for r in rounds], ""
        if name in told:
            what, ratio, form = told[name]
            ratios = sorted(map(ratio, trained))
            middle, low, high = (format(x, form) for x in (statistics.median(ratios), ratios[0], ratios[-1]))
            words = f"{middle} ({low} to {high}) {what}"
        lines.append(f"| {title} | {', '.join(f'{s:.1f}' for s in each)} | {statistics.median(each):.1f} | {words} |")
    less = (branches - start) / (apart - 3 * start)
    lines += [
        "",
        f"By a warm-up-stable-decay schedule, D = {points}: {apart:.1f} s as three sweeps, {branches:.1f} s as one",
        f"trajectory with branches, {branches / apart:.0%} of the time; without starts {less:.0%}.",
    ]
    OUTPUT.write_text("\n".join(lines) + "\n")
    print(OUTPUT.read_text())


if __name__ == "__main__":
    main()
