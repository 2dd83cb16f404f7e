"""What a second worker brings, and what a sweep costs beside training; writes docs/sweep.md. `make benchmark-sweep`.

Whole commands, from launch to end. The same runs are trained by a sweep with one worker and with two, and without a
sweep, records or checkpoints in one process and half each in two; and three D as branches of one trajectory, and
apart. Wants two idle cores.
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
SEEDS = 6  # of equal length, so that two workers end together
TOKENS = 1_000_000
POINTS = (250_000, 500_000, 1_000_000)  # of one trajectory
# There and back, what is compared side by side, so that cores that grow faster or slower meanwhile favour nobody.
ORDER = ("start", "one", "two", "two", "one", "start", "none", "pair", "pair", "none", "apart", "branches")

_BARE = """
import json, sys
from scalelab.sweep.resolve import resolve
from scalelab.sweep.spec import SweepSpec
from scalelab.train.legs import train_run
from scalelab.train.recipe import Recipe
import torch
torch.set_num_threads(1)
tokens, seeds = json.loads(sys.argv[1])
resolved = resolve(SweepSpec(N=(50e3,), P=(2,), D=(tokens,), seeds=tuple(seeds), recipe=Recipe(dtype="fp32")))
for config in resolved.runs:
    train_run(config, resolved.data)
"""


def bare(seeds: Sequence[int]) -> float:
    """Seconds of a process that trains the runs of `seeds` one after the other, without a sweep."""
    return _seconds(["-c", _BARE, json.dumps([TOKENS, list(seeds)])])


def bare_pair() -> float:
    """Seconds of the same runs, half of them in each of two such processes: what two cores can give."""
    halves = range(SEEDS // 2), range(SEEDS // 2, SEEDS)
    with ThreadPoolExecutor(2) as pool:
        return max(pool.map(bare, halves))


def sweep(workers: int, tokens: Sequence[int] = (TOKENS,), seeds: int = SEEDS, *options: str) -> float:
    """Seconds of ``scalelab sweep`` over `seeds` and D in `tokens`."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "scalelab", "sweep", "--N", "50k", "--P", "2", "--D", *map(str, tokens)]
        words += ["--seed", *map(str, range(seeds)), "--dtype", "fp32", "--device", "cpu", *options]
        return _seconds([*words, "--workers", str(workers), "--out", folder])


def _seconds(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True)
    return time.perf_counter() - began


def start() -> float:
    """Seconds of a sweep of a single step: what is there once, however long the runs are."""
    return sweep(1, (512,), 1, "--set", "recipe.val_tokens=128")


WORKS: dict[str, Callable[[], float]] = {
    "none": lambda: bare(range(SEEDS)),
    "one": lambda: sweep(1),
    "pair": bare_pair,
    "two": lambda: sweep(2),
    "start": start,
    "apart": lambda: sum(sweep(1, (D,), 1, "--schedule", "wsd") for D in POINTS),
    "branches": lambda: sweep(1, POINTS, 1, "--schedule", "wsd"),
}


def main() -> None:
    start()  # the text is tokenised once, and files are read that later lie in memory
    seconds: dict[str, list[float]] = {name: [] for name in WORKS}
    for name in ORDER:
        seconds[name].append(WORKS[name]())
        print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    none, one, pair, two, once, apart, branches = (statistics.mean(each) for each in seconds.values())
    points = f"{format_count(sum(POINTS))} tokens"
    told = {
        "none": ("one after the other, no sweep", ""),
        "one": ("sweep, one worker", f"{one / none - 1:+.1%}"),
        "pair": ("half each in two processes, no sweep", f"{none / pair:.2f} times: what these two cores can give"),
        "two": (
            "sweep, two workers",
            f"{one / two:.2f} times the throughput of one worker; without starts {(one - once) / (two - once):.2f}",
        ),
        "start": ("sweep of a single step: the start", ""),
        "apart": (f"wsd, a sweep for each D, {points}", ""),
        "branches": (
            "wsd, one trajectory with branches",
            f"{branches / apart:.0%} of the time; without starts {(branches - once) / (apart - 3 * once):.0%}",
        ),
    }
    lines = [
        "# A sweep beside its training",
        "",
        f"`make benchmark-sweep`: {SEEDS} runs of equal length, N = 50k, P = 2, D = {format_count(TOKENS)}, each with",
        f"its validation; and by a warm-up-stable-decay schedule D = {', '.join(map(format_count, POINTS))}.",
        f"{os.cpu_count()} cores ({platform.machine()}), {time.strftime('%Y-%m-%d')}. Seconds of whole commands, from",
        "launch to end, with all that they import; the text is tokenised before. The start is there once a sweep,",
        f"however long. In this order: {', '.join(ORDER)}.",
        "",
        "| | seconds | mean | |",
        "|---|---|---|---|",
    ]
    for name, (title, words) in told.items():
        each = seconds[name]
        lines.append(f"| {title} | {', '.join(f'{s:.1f}' for s in each)} | {statistics.mean(each):.1f} | {words} |")
    OUTPUT.write_text("\n".join(lines) + "\n")
    print(OUTPUT.read_text())


if __name__ == "__main__":
    main()
