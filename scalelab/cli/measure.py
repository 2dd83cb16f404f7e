"""`scalelab cost --measure`: a real model by the clock, beside what the cost models say of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scalelab.cli.console import make_table, print_table, print_text, stdout
from scalelab.cli.models import check_figure, check_writable, choose_device, quiet_libraries
from scalelab.cost.engines import ENGINES
from scalelab.cost.hardware import profile_text, read_hardware
from scalelab.cost.model import Device, Workload
from scalelab.errors import DataError, MemoryShortError, UsageError
from scalelab.measure.shapes import read_shape

if TYPE_CHECKING:
    from rich.console import Console

    from scalelab.cost.hardware import Hardware
    from scalelab.cost.shape import ServedModel
    from scalelab.measure.against import Row

_MIB = 2**20
_ERRORS = (("prefill", "s"), ("decode", "s"), ("latency", "s"), ("memory", "bytes"))
_PRECISIONS = ("fp32", "bf16")
_PROFILE_SHARE = 5  # a figure of the profile, of which there are many, has so small a part of --seconds


@dataclass(frozen=True)
class Request:
    """What to measure, how long, and where to put it."""

    model: Path
    streams: Sequence[int]
    workloads: Sequence[Workload]
    prefix_tokens: int | None
    weights: str | None  # None: as the device likes it
    device: str
    threads: int | None
    seconds: float
    priced_on: Device | None  # None: this device, calibrated
    save_profile: Path | None
    csv: Path | None
    figure: Path | None
    as_json: bool


def measure(asked: Request) -> None:
    """Measure, print and save. Raises `UsageError` before the work for what could not be done after it."""
    _check(asked)
    import torch

    quiet_libraries()
    device = choose_device(asked.device)
    dtype = asked.weights or ("bf16" if device.startswith("cuda") else "fp32")
    threads = asked.threads or torch.get_num_threads()
    console = stdout()
    console.quiet = asked.as_json
    priced_on = asked.priced_on
    if priced_on is None or asked.save_profile is not None:
        hardware = _calibrate(console, device, dtype, threads, asked)
        priced_on = priced_on or Device(hardware.name, 1.0, 1.0, hardware)
    rows = _measure_all(console, asked, device, dtype, threads, priced_on)
    if asked.as_json:
        typer.echo(json.dumps([row.as_dict() for row in rows], indent=1))
    else:
        _show(console, rows, f"{dtype}, priced on {priced_on.gpu}")
    _save(console, asked, rows)


def _check(asked: Request) -> None:
    if asked.weights not in (None, *_PRECISIONS):
        raise UsageError(f"--weights {asked.weights}: models are measured at {' or '.join(_PRECISIONS)}")
    if not 0 < asked.seconds < math.inf:
        raise UsageError(f"--seconds {asked.seconds:g}: must be above 0, and finite")
    if asked.threads is not None and asked.threads > (os.cpu_count() or 1):
        raise UsageError(f"--threads {asked.threads}: this machine has {os.cpu_count()} cores")
    if not asked.model.exists():
        raise UsageError(f"--measure {asked.model}: not there; give a model's folder or a config.json")
    _check_model(asked, read_shape(asked.model))
    if asked.save_profile is not None and asked.save_profile.exists():
        raise UsageError(f"--save-profile {asked.save_profile}: is there already; name a new file")
    for path in (asked.save_profile, asked.csv):
        if path is not None:
            check_writable(path.parent)
    if asked.figure is not None:
        check_figure(asked.figure)
    for flag, path in (("--csv", asked.csv), ("--figure", asked.figure)):
        if path is not None and path.is_dir():
            raise UsageError(f"{flag} {path}: is a folder; name a file")


def _check_model(asked: Request, model: ServedModel) -> None:
    """Raises `ScalelabError` for what would come out only when the device has been measured."""
    if asked.model.is_dir() and not any(asked.model.glob("*.safetensors")):
        raise DataError(f"{asked.model}: no safetensors beside config.json, so no weights; give config.json itself")
    n, banks = asked.prefix_tokens, dict(model.banks)
    if n is not None and n < 1:
        raise UsageError(f"--prefix-tokens {n}: must be at least 1")
    for P in asked.streams:
        if n is not None and banks.get(P, n) != n:
            raise UsageError(f"--prefix-tokens {n}: the model's P = {P} has {banks[P]}; leave the flag out")
    work = asked.workloads[0]
    if 0 < model.position_rows < work.tokens_in + work.tokens_out - 1:
        raise UsageError(
            f"--tokens-in {work.tokens_in} and --tokens-out {work.tokens_out}: the model has positions for "
            f"{model.position_rows} tokens; give fewer"
        )


def _calibrate(console: Console, device: str, dtype: str, threads: int, asked: Request) -> Hardware:
    """This device's profile, saved where that is asked for, and named after its file."""
    from scalelab.measure.calibrate import calibrate

    file = asked.save_profile
    with console.status("measuring this device"):
        found = calibrate(device, dtype, threads, asked.seconds / _PROFILE_SHARE)
    name = file.stem if file is not None else f"this {device.split(':')[0]}"
    found = replace(found, name=name)
    few = [share for rows, share in found.row_shares if 1 < rows <= 16]
    print_text(
        console,
        f"{found.source}: {found.peak(dtype) / 1e9:.4g} GFLOP/s in matrix products, "
        f"{min(few):.0%} to {max(few):.0%} of the roof with 2 to 16 rows; {found.bytes_per_s / 1e9:.3g} GB/s; "
        f"{(found.launch_s or 0.0) * 1e6:.3g} µs a kernel",
    )
    if file is not None:
        file.write_text(profile_text(found), encoding="utf-8")
        found = read_hardware(file)[name]  # so that later predictions are these, to the last digit
        print_text(console, f"saved {file}: scalelab cost … --engine roofline --hardware {file} --weights {dtype}")
    return found


def _measure_all(
    console: Console, asked: Request, device: str, dtype: str, threads: int, priced_on: Device
) -> list[Row]:
    from scalelab.measure.against import compare
    from scalelab.measure.clock import Subject

    rows: list[Row] = []
    left_out: list[MemoryShortError] = []
    cells = [(P, workload) for workload in asked.workloads for P in asked.streams]
    for number, (P, workload) in enumerate(cells, 1):
        told = f"measuring P = {P}, batch {workload.batch} ({number} of {len(cells)})"
        with console.status(told):
            if not console.is_terminal:
                console.print(told)
            subject = Subject(asked.model, P, asked.prefix_tokens, dtype, device, threads)
            try:
                rows.append(compare(subject, workload, priced_on, tuple(ENGINES), asked.seconds))
            except MemoryShortError as error:
                left_out.append(MemoryShortError(f"P = {P}, batch {workload.batch}: {error}"))
                typer.echo(f"left out: {left_out[-1]}", err=True)
    if not rows:
        raise left_out[0]
    return rows


def _show(console: Console, rows: Sequence[Row], where: str) -> None:
    from scalelab.measure.against import median_error

    work = rows[0].workload
    engines = [name for name in ENGINES if any(name in row.predicted for row in rows)]
    short = {"llm-analysis": "/ llm-a."}
    names = [short.get(name, f"/ {name}") for name in engines]
    table = make_table("P", "batch", "prefill ms", "ms a token", "latency s", *names, "memory MiB", *names)
    for row in rows:
        seen = row.measured
        steps = row.workload.tokens_out - 1
        table.add_row(
            str(row.P),
            str(row.workload.batch),
            f"{seen.prefill_s * 1e3:.1f}",
            f"{seen.decode_s / steps * 1e3:.2f}" if steps else "",
            f"{seen.latency_s:.3f}",
            *(_ratio(row.ratio(name, "latency_s")) for name in engines),
            "?" if seen.memory_bytes is None else f"{seen.memory_bytes / _MIB:.0f}",
            *(_ratio(row.ratio(name, "memory_bytes")) for name in engines),
        )
    title = f"{rows[0].model}: {work.tokens_in} tokens in, {work.tokens_out} out; {where}; / is measured over predicted"
    print_table(console, title, table)
    for name in engines:
        errors = ((what, median_error(rows, name, f"{what}_{unit}")) for what, unit in _ERRORS)
        told = ", ".join(f"{what} {error:.0%}" for what, error in errors if error is not None)
        print_text(console, f"median |predicted / measured - 1| by {name}: {told}")
    for name, reason in {name: why for row in rows for name, why in row.refused.items()}.items():
        print_text(console, f"not priced by {name}: {reason}")


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _save(console: Console, asked: Request, rows: Sequence[Row]) -> None:
    if asked.csv is None and asked.figure is None:
        return
    import pandas as pd

    table = pd.DataFrame([row.as_dict() for row in rows])
    if asked.csv is not None:
        table.to_csv(asked.csv, index=False)
        print_text(console, f"saved {asked.csv}")
    if asked.figure is not None:
        from scalelab.plot.measured import plot_efficiency

        work = rows[0].workload
        heading = f"{rows[0].model}, {work.tokens_in} tokens in, {work.tokens_out} out"
        plot_efficiency(table, heading).savefig(asked.figure, dpi=150)
        print_text(console, f"saved {asked.figure}")
