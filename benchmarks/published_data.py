"""Published measurements in data/published.csv, and predictions of the cost models for each."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from scalelab.cost.engines import get_engine
from scalelab.cost.families import served_from_config
from scalelab.cost.hardware import find_hardware
from scalelab.cost.kernels import kernels
from scalelab.cost.rates import Rates, find_rates
from scalelab.cost.request import GIB, Cost, Device, Precision, Workload
from scalelab.cost.shape import ServedModel
from scalelab.errors import ScalelabError

DATA = Path(__file__).parent / "data"
MEMORY, PREFILL, ROWS = "memory_gib", "prefill_tokens_per_s", "pass_of_rows_over_one"
CHUNKS = "prefill_tokens_per_s_in_chunks_of_batch"
PROMPT = 512  # prompt tokens per chunk
REQUEST = "output_tokens_per_s_whole_request"


@dataclass(frozen=True)
class Row:
    """One measurement: `what` was `measured`, as the columns of the table name it."""

    id: str
    source: str
    model: str
    device: str
    runtime: str
    weights: str
    kv: str
    compute: str
    what: str
    batch: int
    tokens_in: int
    tokens_out: int
    measured: float

    @property
    def quantity(self) -> str:
        """Return what the errors are grouped by: decode, prefill, memory or rows."""
        return {MEMORY: "memory", PREFILL: "prefill", ROWS: "rows"}.get(self.what, "decode")

    @property
    def kind(self) -> str:
        """Return the class of the device."""
        return find_hardware(self.device).kind

    @property
    def precision(self) -> Precision:
        return Precision(self.weights, self.kv or None, self.compute or None)

    @property
    def workload(self) -> Workload:
        return Workload(self.batch, self.tokens_in, self.tokens_out)

    @property
    def on(self) -> Device:
        return Device(self.device, runtime=self.runtime)


@cache
def read_rows() -> tuple[Row, ...]:
    """Return the rows of the table."""
    with (DATA / "published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Row(
                **{k: v for k, v in row.items() if k not in ("batch", "tokens_in", "tokens_out", "measured")},
                batch=int(row["batch"]),
                tokens_in=int(row["tokens_in"]),
                tokens_out=int(row["tokens_out"]),
                measured=float(row["measured"]),
            )
            for row in csv.DictReader(file)
        )


@cache
def _configs() -> Mapping[str, Mapping[str, object]]:
    return yaml.safe_load((DATA / "published_models.yaml").read_text(encoding="utf-8"))


@cache
def served(model: str) -> ServedModel:
    """Return the shape of a model of the table."""
    return served_from_config(_configs()[model], model)


def pass_s(row: Row, rates: Rates, tokens: int) -> float:
    """Seconds of one pass of `tokens` of a prompt, half of which came before."""
    done = (PROMPT - tokens) // 2 if row.what == CHUNKS else row.tokens_in
    return rates.pass_s(kernels(served(row.model), 1, tokens, done, rates), step=tokens == 1)


def predict(row: Row, engine: str = "roofline") -> float | None:
    """Return what `engine` says of the row, in its unit; None where the engine cannot hold it."""
    if row.what in (CHUNKS, ROWS):
        if engine != "roofline":
            return None
        rates = find_rates(row.on, row.precision)
        if row.what == CHUNKS:
            return row.batch / pass_s(row, rates, row.batch)
        return pass_s(row, rates, row.batch) / pass_s(row, rates, 1)
    try:
        device, precision = row.on, row.precision
        if engine == "llm-analysis":  # llm-analysis supports 16 bits only, on its own devices or given ones
            device = Device(row.device, hardware=find_hardware(row.device))
        cost = get_engine(engine)(served(row.model), row.workload, device, precision)
    except ScalelabError:
        return None
    return from_cost(row, cost)


def from_cost(row: Row, cost: Cost) -> float:
    """Return the row's quantity of a price."""
    work = row.workload
    if row.what == MEMORY:
        return cost.memory_bytes / GIB
    if row.what == PREFILL:
        return work.batch * work.tokens_in / cost.prefill_s
    if row.what == REQUEST:
        return work.batch * work.tokens_out / cost.latency_s
    return work.batch * (work.tokens_out - 1) / cost.decode_s
