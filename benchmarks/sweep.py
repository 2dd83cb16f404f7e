"""What a second worker brings, and what a sweep costs beside training; writes docs/sweep.md. `make benchmark-sweep`.

In turn, on the same runs: trained one after the other in one process without workers, records or checkpoints (the
baseline), as a sweep with one worker, and as a sweep with two; and three D as branches of one trajectory, and apart.
Wants two idle cores.
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
from itertools import product
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "docs" / "sweep.md"
ROUNDS = 2
SEEDS = 4
POINTS = (250_000, 500_000, 1_000_000)  # of one trajectory

# In a process of its own: sweeps of runs that share D, or with several D of one sweep.
_PROGRAM = """
import json, sys, time
from pathlib import Path

if __name__ == "__main__":
    import torch
    torch.set_num_threads(1)
    from scalelab.sweep.resolve import resolve
    from scalelab.sweep.run import Execution, run_sweep
    from scalelab.sweep.spec import SweepSpec
    from scalelab.train.legs import train_run
    from scalelab.train.recipe import Recipe
    out, workers, grids, seeds, schedule, val_tokens = json.loads(sys.argv[1])
    recipe = Recipe(dtype="fp32", val_tokens=val_tokens, schedule=schedule)
    specs = [SweepSpec(N=(50e3,), P=(2,), D=tuple(D), seeds=tuple(range(seeds)), recipe=recipe) for D in grids]
    resolved = [resolve(spec) for spec in specs]
    ready = time.perf_counter()
    for number, spec in enumerate(specs):
        if workers:
            run_sweep(spec, Path(out) / str(number), Execution(workers=workers))
        else:
            for config in resolved[number].runs:
                train_run(config, resolved[number].data)
    print(time.perf_counter() - ready)
"""


def timed(
    workers: int,
    grids: Sequence[Sequence[int]] = ((1_000_000,),),
    seeds: int = SEEDS,
    schedule: str = "linear",
    val_tokens: int = 131_072,
) -> float:
    """Seconds of a sweep for each of `grids` of D with `workers` (0: the baseline), from when their text is ready."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"
        program.write_text(_PROGRAM)
        words = json.dumps([str(Path(folder) / "out"), workers, grids, seeds, schedule, val_tokens])
        done = subprocess.run([sys.executable, program, words], capture_output=True, text=True, check=True)
    return float(done.stdout)


def timed_pair() -> float:
    """Seconds of the same runs without a sweep, half of them in each of two processes: what two cores can give."""
    with ThreadPoolExecutor(2) as pool:
        return max(pool.map(lambda _: timed(0, seeds=SEEDS // 2), range(2)))


WORKS: dict[str, Callable[[], float]] = {
    "none": lambda: timed(0),
    "one": lambda: timed(1),
    "two": lambda: timed(2),
    "pair": timed_pair,
    # A sweep of one step: what is there once, however long the runs are.
    "start": lambda: timed(1, ((512,),), seeds=1, val_tokens=128),
    "branches": lambda: timed(1, (POINTS,), seeds=1, schedule="wsd"),
    "apart": lambda: timed(1, [(D,) for D in POINTS], seeds=1, schedule="wsd"),
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in WORKS}
    for number, (name, work) in product(range(1, ROUNDS + 1), WORKS.items()):
        seconds[name].append(work())
        print(f"round {number}, {name}: {seconds[name][-1]:.1f} s", flush=True)
    none, one, two, pair, start, branches, apart = (statistics.median(each) for each in seconds.values())
    steps = f"{sum(POINTS) / 1e6:g}M tokens"
    rows = [
        ("one after the other, no sweep", "none", ""),
        ("sweep, one worker", "one", f"{one / none - 1:+.1%}; without its start {(one - start) / none - 1:+.1%}"),
        ("half each in two processes, no sweep", "pair", f"{none / pair:.2f} times: what these two cores can give"),
        (
            "sweep, two workers",
            "two",
            f"{one / two:.2f} times the throughput of one worker; without starts {(one - start) / (two - start):.2f}",
        ),
        ("sweep of a single step: the start", "start", ""),
        (f"wsd, one run to each D, {steps}", "apart", ""),
        (
            "wsd, one trajectory with branches",
            "branches",
            f"{branches / apart:.0%} of the time; without starts {(branches - start) / (apart - 3 * start):.0%}",
        ),
    ]
    lines = [
        "# A sweep beside its training",
        "",
        f"`make benchmark-sweep`: {SEEDS} runs of N = 50k, P = 2, D = 1M with their validation, and below three D by a",
        f"warm-up-stable-decay schedule; {ROUNDS} rounds in turn, {os.cpu_count()} cores ({platform.machine()}),",
        f"{time.strftime('%Y-%m-%d')}. Seconds from when the text is ready to the last record. The start is what",
        "workers import and the measuring of the CPU's peak: once a sweep, however long.",
        "",
        "| | seconds, by round | median | |",
        "|---|---|---|---|",
    ]
    for title, name, told in rows:
        each = seconds[name]
        lines.append(f"| {title} | {', '.join(f'{s:.1f}' for s in each)} | {statistics.median(each):.1f} | {told} |")
    OUTPUT.write_text("\n".join(lines) + "\n")
    print(OUTPUT.read_text())


if __name__ == "__main__":
    main()
