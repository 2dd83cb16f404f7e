"""Run a sweep: resolve the spec, train what is missing, return the records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from scalelab.errors import InterruptedSweepError, ScalelabError
from scalelab.records import load
from scalelab.records.store import record_path
from scalelab.sweep.progress import announce, make_progress
from scalelab.sweep.resolve import missing, resolve
from scalelab.sweep.spec import SweepSpec
from scalelab.sweep.workers import Job, default_places, run_all


def run_sweep(
    spec: SweepSpec,
    out: Path,
    device: str = "auto",
    workers: int | None = None,
    compile_model: bool = False,
    save_models: bool = False,
    console: Console | None = None,
) -> pd.DataFrame:
    """Train the runs of `spec` that have no record below `out`; return the records of all.

    `device` is auto, cpu or cuda; `workers` runs train at once, by default one a core or GPU.
    With `save_models` each trained model stays in ``out/models/KEY``. Progress goes to `console`
    (default: nowhere). Raises `ScalelabError` if runs failed, and `InterruptedSweepError` on
    Ctrl-C; the records of finished runs stay either way.

    Workers are processes: in a script, call it below ``if __name__ == "__main__":``.
    """
    console = console or Console(quiet=True)
    places = default_places(device)
    if workers is not None:
        places = (places * workers)[:workers]
    if spec.recipe.dtype == "auto":
        spec = replace(spec, recipe=replace(spec.recipe, dtype="fp32" if places[0] == "cpu" else "bf16"))
    out.mkdir(parents=True, exist_ok=True)
    probe = out / ".writable"  # better now than after the first training
    probe.touch()
    probe.unlink(missing_ok=True)
    console.print(f"reading {spec.corpus} …")
    resolved = resolve(spec)
    left = missing(resolved.runs, out)
    if save_models:  # a record alone is not all that was asked for
        left += [c for c in resolved.runs if c not in left and not (out / "models" / c.key / "config.json").is_file()]
    announce(console, resolved, left, places, out)
    total = len(resolved.runs)
    if left:
        try:
            with make_progress(left, console) as progress:
                failures = run_all(left, Job(resolved.data, out, compile_model, save_models), places, progress)
        except KeyboardInterrupt:
            kept = total - len(missing(resolved.runs, out))
            raise InterruptedSweepError(
                f"interrupted: {kept} of {total} runs are recorded below {out}; the same command goes on from there"
            ) from None
        if failures:
            first = failures[0].values["message"]
            raise ScalelabError(f"{len(failures)} of {len(left)} runs failed, the first with: {first}")
    files = [record_path(out, config.key) for config in resolved.runs]
    return pd.concat([load(file) for file in files], ignore_index=True)
