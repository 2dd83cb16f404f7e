"""What a second worker brings, and what a sweep costs beside training; writes docs/sweep.md. `make benchmark-sweep`.

In turn, on the same runs: trained one after the other in one process without workers, records or checkpoints (the
baseline), as a sweep with one worker, and as a sweep with two. Wants two idle cores.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "docs" / "sweep.md"
ROUNDS = 1
SEEDS = 4

# In a process of its own.
_PROGRAM = """
import sys, time
from pathlib import Path

if __name__ == "__main__":
    import torch
    torch.set_num_threads(1)
    from scalelab.sweep.resolve import resolve
    from scalelab.sweep.run import Execution, run_sweep
    from scalelab.sweep.spec import SweepSpec
    from scalelab.train.recipe import Recipe
    workers, D, seeds, val_tokens = (int(word) for word in sys.argv[2:])
    recipe = Recipe(dtype="fp32", val_tokens=val_tokens)
    spec = SweepSpec(N=(50e3,), P=(2,), D=(D,), seeds=tuple(range(seeds)), recipe=recipe)
    if not workers:
        from scalelab.train.legs import train_run
        resolved = resolve(spec)
        ready = time.perf_counter()
        for config in resolved.runs:
            train_run(config, resolved.data)
    else:
        resolve(spec)
        ready = time.perf_counter()
        run_sweep(spec, Path(sys.argv[1]), Execution(workers=workers))
    print(time.perf_counter() - ready)
"""


def timed(workers: int, D: int = 500_000, seeds: int = SEEDS, val_tokens: int = 131_072) -> float:
    """Seconds of a sweep with `workers` (0: the baseline), from when its text is ready to its last record."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"
        program.write_text(_PROGRAM)
        words = map(str, (Path(folder) / "out", workers, D, seeds, val_tokens))
        done = subprocess.run([sys.executable, program, *words], capture_output=True, text=True, check=True)
    return float(done.stdout)


def timed_pair() -> float:
    """Seconds of the same runs without a sweep, half of them in each of two processes: what two cores can give."""
    with ThreadPoolExecutor(2) as pool:
        return max(pool.map(lambda _: timed(0, seeds=SEEDS // 2), range(2)))


def main() -> None:
    seconds: dict[str, list[float]] = {"none": [], "pair": [], "one": [], "two": [], "start": []}
    for number in range(1, ROUNDS + 1):
        for name, workers in (("none", 0), ("one", 1), ("two", 2)):
            seconds[name].append(timed(workers))
            print(f"round {number}, {name}: {seconds[name][-1]:.1f} s", flush=True)
        seconds["pair"].append(timed_pair())
        print(f"round {number}, pair: {seconds['pair'][-1]:.1f} s", flush=True)
        # A sweep of one step: what is there once, however long the runs are.
        seconds["start"].append(timed(1, 512, 1, 128))
        print(f"round {number}, start: {seconds['start'][-1]:.1f} s", flush=True)
    none, pair, one, two, start = (statistics.median(each) for each in seconds.values())
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
    ]
    lines = [
        "# A sweep beside its training",
        "",
        f"`make benchmark-sweep`: {SEEDS} runs of N = 50k, P = 2, D = 500k with their validation, {ROUNDS} round(s) in",
        f"turn, {os.cpu_count()} cores ({platform.machine()}), {time.strftime('%Y-%m-%d')}. Seconds from when the text",
        "is ready to the last record. The start is what workers import and the measuring of the CPU's peak: once a",
        "sweep, however long.",
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
