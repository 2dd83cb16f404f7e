"""Measured memory and latency of a model on this device, compared with the cost models."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scalelab.api.loading import (
    DeviceName,
    check_device,
    check_file,
    choose_device,
    console_of,
    need_torch,
    quiet_libraries,
)
from scalelab.atomic import write_text
from scalelab.cost.engines import ENGINES
from scalelab.cost.hardware import profile_text, read_hardware
from scalelab.cost.request import Device, Workload
from scalelab.cost.setting import choose_device as device_named
from scalelab.errors import DataError, MemoryShortError, UsageError
from scalelab.shown import Shown
from scalelab.units import plural, whole_numbers

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from scalelab.cost.hardware import Hardware
    from scalelab.cost.shape import ServedModel
    from scalelab.measure.measured_vs_predicted import MeasuredRow

_PRECISIONS = ("fp32", "bf16")
_PROFILE_SHARE = 5  # each of the many figures of a profile is measured for 1/5 of `seconds`

__all__ = ["Measurements", "measure_model"]


@dataclass(frozen=True)
class Measurements(Shown):
    """Memory and latency of one model, measured and predicted by each cost model.

    Attributes:
        rows: A row for each P and batch size.
        dtype: Precision of the measurement.
        priced_on: Device that the cost models priced.
        left_out: Workloads that did not fit into memory, with reasons.
        hardware: Measured profile of this device, or None.
        profile: File of the saved profile, or None.
    """

    rows: tuple[MeasuredRow, ...]
    dtype: str
    priced_on: str
    left_out: tuple[str, ...] = ()
    hardware: Hardware | None = None
    profile: Path | None = None

    _report: ClassVar[str] = "scalelab.reports.measured:measurements_report"
    _figure: ClassVar[str] = "scalelab.plot.measured:plot_measurements"
    _json: ClassVar[str] = "scalelab.reports.measured:measurements_json"

    def median_error(self, engine: str, quantity: str) -> float | None:
        """Return the median of |predicted / measured − 1|, or None without predictions.

        Args:
            engine: Cost model: "llm-analysis" or "roofline".
            quantity: A quantity of `to_frame`, such as "memory_bytes" or "latency_s".
        """
        from scalelab.measure.measured_vs_predicted import median_error

        return median_error(self.rows, engine, quantity)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each P and batch size, in bytes and seconds, unrounded."""
        import pandas as pd

        return pd.DataFrame(self.to_dict())

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Measurements of {self.rows[0].model}: {len(self.rows)} workloads, {self.dtype}>"


def measure_model(
    model: str | Path,
    P: int | Sequence[int] = (1, 2, 4, 8),
    *,
    batch: int | Sequence[int] = 1,
    tokens_in: int = 64,
    tokens_out: int = 64,
    prefix_tokens: int | None = None,
    weights: Literal["fp32", "bf16"] | None = None,
    device: DeviceName = "auto",
    threads: int | None = None,
    seconds: float = 2.0,
    gpu: str | None = None,
    hardware: str | Path | None = None,
    save_profile: str | Path | None = None,
    progress: bool | Console = False,
) -> Measurements:
    """Measure memory and latency of a model on this device, and compare them with the cost models.

    Args:
        model: Folder of a model, or a config.json alone, which gets random weights.
        P: Numbers of streams.
        batch: Concurrent requests, one number or several.
        tokens_in: Prompt tokens per request.
        tokens_out: Generated tokens per request.
        prefix_tokens: Prefix length of each stream; by default that of the model, else 48.
        weights: Precision: "fp32" or "bf16"; by default fp32 on a CPU and bf16 on CUDA.
        device: Device to measure on: "auto", "cpu" or "cuda".
        threads: CPU threads.
        seconds: Time in seconds for each of prefill and decoding.
        gpu: Device for the predictions; by default this device, which is profiled first.
        hardware: YAML file with devices of your own.
        save_profile: New file for the profile of this device, for later use as `hardware`.
        progress: Show progress on standard error, or on a rich console.

    Returns:
        Measured and predicted memory (bytes) and latency (s) for each P and batch size.

    Raises:
        UsageError: An argument is wrong.
        DataError: The model cannot be used.
        MemoryShortError: No workload fits into memory.
        MissingPackageError: torch or transformers is not installed.
    """
    path, profile = Path(model), None if save_profile is None else Path(save_profile)
    streams = whole_numbers(P, "P")
    workloads = [Workload(size, tokens_in, tokens_out) for size in whole_numbers(batch, "batch")]
    priced_on = device_named(gpu, hardware) if gpu or hardware else None
    _check(path, streams, workloads, prefix_tokens, weights, device, threads, seconds, profile, console_of(progress))
    need_torch("measuring a model")
    import torch

    quiet_libraries()
    chosen = choose_device(device)
    dtype = weights or ("bf16" if chosen.startswith("cuda") else "fp32")
    threads = threads or torch.get_num_threads()
    console, found = console_of(progress), None
    if priced_on is None or profile is not None:
        found = _calibrate(console, chosen, dtype, threads, seconds, profile)
        priced_on = priced_on or Device(found.name, 1.0, 1.0, found)
    cells = [(P, workload) for workload in workloads for P in streams]
    about = (path, prefix_tokens, dtype, chosen, threads)
    rows, left_out = _measure_all(console, about, cells, priced_on, seconds)
    return Measurements(tuple(rows), dtype, priced_on.gpu, tuple(map(str, left_out)), found, profile)


def _check(
    path: Path,
    streams: Sequence[int],
    workloads: Sequence[Workload],
    prefix_tokens: int | None,
    weights: str | None,
    device: str,
    threads: int | None,
    seconds: float,
    profile: Path | None,
    console: Console,
) -> None:
    """Raise `ScalelabError` before the measurement for arguments that would fail after it."""
    from scalelab.measure.shapes import read_shape

    check_device(device)
    if weights not in (None, *_PRECISIONS):
        raise UsageError(f"models are measured at {' or '.join(_PRECISIONS)}", argument="weights", value=weights)
    if not 0 < seconds < math.inf:
        raise UsageError("must be above 0 and finite", argument="seconds", value=seconds)
    if threads is not None and threads > (os.cpu_count() or 1):
        raise UsageError(f"this machine has {plural(os.cpu_count() or 1, 'core')}", argument="threads", value=threads)
    if not path.exists():
        raise UsageError("does not exist; give a model folder or config.json", argument="measure", value=str(path))
    _check_model(path, read_shape(path, on_progress=console.print), streams, workloads[0], prefix_tokens)
    if profile is not None:
        if profile.exists():
            raise UsageError("exists; give a new file", argument="save_profile", value=str(profile))
        check_file(profile, "save_profile")


def _check_model(
    path: Path, model: ServedModel, streams: Sequence[int], work: Workload, prefix_tokens: int | None
) -> None:
    """Raise `ScalelabError` if the model cannot run these streams and tokens."""
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise DataError(f"{path}: no safetensors in this folder; for random weights give its config.json")
    n, banks = prefix_tokens, dict(model.banks)
    if n is not None and n < 1:
        raise UsageError("must be at least 1", argument="prefix_tokens", value=n)
    for P in streams:
        if n is not None and banks.get(P, n) != n:
            reason = f"the model has {banks[P]} for P = {P}; leave it out"
            raise UsageError(reason, argument="prefix_tokens", value=n)
    if 0 < model.position_rows < work.tokens_in + work.tokens_out - 1:
        raise UsageError(
            f"`tokens_in={work.tokens_in}` and `tokens_out={work.tokens_out}`: the model has positions for "
            f"{plural(model.position_rows, 'token')}; give fewer"
        )


def _calibrate(console: Console, device: str, dtype: str, threads: int, seconds: float, file: Path | None) -> Hardware:
    """Measure the profile of this device, and save it to `file` if given, whose name it takes."""
    from scalelab.measure.calibrate import calibrate

    with console.status("measuring this device"):
        found = calibrate(device, dtype, threads, seconds / _PROFILE_SHARE)
    name = file.stem if file is not None else f"this {device.split(':')[0]}"
    found = replace(found, name=name)
    if file is not None:
        write_text(file, profile_text(found))
        found = read_hardware(file)[name]  # so that later predictions from the file are exactly the same
    return found


def _measure_all(
    console: Console, about: tuple[Any, ...], cells: Sequence[tuple[int, Workload]], priced_on: Device, seconds: float
) -> tuple[list[MeasuredRow], list[MemoryShortError]]:
    from scalelab.measure.clock import MeasuredModel
    from scalelab.measure.measured_vs_predicted import measure_and_predict

    rows: list[MeasuredRow] = []
    left_out: list[MemoryShortError] = []
    path, prefix_tokens, dtype, device, threads = about
    for number, (P, workload) in enumerate(cells, 1):
        message = f"measuring P = {P}, batch {workload.batch} ({number} of {len(cells)})"
        with console.status(message):
            if not console.is_terminal:
                console.print(message)
            subject = MeasuredModel(path, P, prefix_tokens, dtype, device, threads)
            try:
                rows.append(measure_and_predict(subject, workload, priced_on, tuple(ENGINES), seconds))
            except MemoryShortError as error:
                left_out.append(MemoryShortError(f"P = {P}, batch {workload.batch}: {error}"))
    if not rows:
        raise left_out[0]
    return rows, left_out
