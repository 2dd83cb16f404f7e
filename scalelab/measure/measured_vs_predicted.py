"""Measured times and memory beside the predictions of the cost models for the same workload."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scalelab.cost.engines import get_engine
from scalelab.cost.request import GIB, Cost, Device, Precision, Workload
from scalelab.cost.shape import ServedModel
from scalelab.errors import MemoryShortError, ScalelabError
from scalelab.measure.clock import MeasuredModel, Measurement, measure
from scalelab.measure.shapes import read_shape
from scalelab.train.device import device_memory_bytes

QUANTITIES = ("prefill_s", "decode_s", "latency_s", "memory_bytes")


@dataclass(frozen=True)
class MeasuredRow:
    """Measurement of one workload of one model, and the predictions of the cost models."""

    model: str
    P: int
    workload: Workload
    measured: Measurement
    predicted: Mapping[str, Cost]
    refused: Mapping[str, str] = field(default_factory=dict)  # reason for each engine that cannot price it

    def ratio(self, engine: str, quantity: str) -> float | None:
        """Return measured over predicted; None if either is missing or zero."""
        measured = getattr(self.measured, quantity)
        predicted = getattr(self.predicted.get(engine), quantity, None)
        return measured / predicted if measured and predicted else None

    def as_dict(self) -> dict[str, Any]:
        """Return a flat dict: measured quantities, and predictions under ENGINE_QUANTITY."""
        work = self.workload
        flat = {"model": self.model, "P": self.P, "batch": work.batch}
        flat |= {"tokens_in": work.tokens_in, "tokens_out": work.tokens_out}
        flat |= {name: getattr(self.measured, name) for name in QUANTITIES}
        for engine, cost in self.predicted.items():
            flat |= {f"{engine.replace('-', '_')}_{name}": getattr(cost, name) for name in QUANTITIES}
        return flat


def measure_and_predict(
    subject: MeasuredModel, workload: Workload, priced_on: Device, engines: Sequence[str], seconds: float = 2.0
) -> MeasuredRow:
    """Measure `workload` on `subject` and price it on `priced_on` with each of `engines` that can.

    Args:
        subject: The model to measure.
        workload: Batch size, prompt and generated tokens.
        priced_on: Device for the predictions.
        engines: Names of cost models.
        seconds: Time for each of prefill and decoding.

    Raises:
        MemoryShortError: The workload needs more memory than the device has.
        ScalelabError: The model cannot be loaded or measured.
    """
    subject, served = with_streams(subject)
    precision = Precision(subject.dtype)
    predicted, refused = {}, {}
    for name in engines:
        try:
            predicted[name] = get_engine(name)(served, workload, priced_on, precision)
        except ScalelabError as error:
            refused[name] = str(error)
    needed = max((cost.memory_bytes for cost in predicted.values()), default=0.0)
    there = device_memory_bytes(subject.device)
    if needed > there:  # otherwise a CPU would swap for an hour
        raise MemoryShortError(f"needs about {needed / GIB:.3g} GiB, but {subject.device} has {there / GIB:.3g}")
    path = subject.path.resolve()
    return MeasuredRow(
        path.parent.name if path.name == "config.json" else path.stem if path.is_file() else path.name,
        subject.P,
        workload,
        measure(subject, workload, seconds),
        predicted,
        refused,
    )


def with_streams(subject: MeasuredModel) -> tuple[MeasuredModel, ServedModel]:
    """Return `subject` and the model to price, both with the same streams.

    These are the model's own streams for this P, or new ones. New prefixes have the requested length, or that of the
    model's other banks, or the paper's 48 tokens.
    """
    served = read_shape(subject.path).with_streams(subject.P)
    if subject.P > 1 and subject.P not in dict(served.banks):
        served = served.with_prefix(subject.prefix_tokens)
        subject = replace(subject, prefix_tokens=served.prefix_length)
    return subject, served


def median_error(rows: Iterable[MeasuredRow], engine: str, quantity: str) -> float | None:
    """Return the median of |predicted / measured − 1|; None if nothing was predicted."""
    ratios = [ratio for row in rows if (ratio := row.ratio(engine, quantity))]
    return statistics.median(abs(1 / ratio - 1) for ratio in ratios) if ratios else None
