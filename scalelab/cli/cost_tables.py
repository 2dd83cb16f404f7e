"""Tables and JSON of `scalelab cost`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import typer

from scalelab.architecture import Architecture
from scalelab.cli.console import make_table, print_table, print_text
from scalelab.cost.hardware import WIDER, Hardware
from scalelab.cost.model import BF16, GIB, Cost, Device, Precision
from scalelab.units import format_count, plain_number

if TYPE_CHECKING:
    from rich.console import Console

# Costs of P = 1 and then of each P asked for, by engine.
Block = Mapping[str, Sequence[Cost]]


def print_json(blocks: Sequence[Block]) -> None:
    """A list with one object for each batch, engine and P."""
    rows = [_row(c, costs[0], name) for block in blocks for name, costs in block.items() for c in costs[1:]]
    typer.echo(json.dumps(rows, indent=1))


def _row(cost: Cost, base: Cost, engine: str) -> dict[str, Any]:
    shape = cost.architecture
    return {
        "engine": engine,
        "hidden": shape.hidden_size,
        "intermediate": _mlp_width(cost),
        "P": shape.P,
        "batch": cost.workload.batch,
        "n_params": shape.n_params,
        "memory_bytes": cost.memory_bytes,
        "latency_s": cost.latency_s,
        "weight_bytes": cost.weight_bytes,
        "kv_cache_bytes": cost.kv_cache_bytes,
        "activation_bytes": cost.activation_bytes,
        "aggregator_bytes": cost.aggregator_bytes,
        "prefix_bytes": cost.prefix_bytes,
        "prefill_s": cost.prefill_s,
        "decode_s": cost.decode_s,
        "memory_over_P1_bytes": cost.memory_bytes - base.memory_bytes,
        "latency_over_P1_s": cost.latency_s - base.latency_s,
        "fits": cost.fits,
        "ttft_s": cost.ttft_s,
        "tpot_s": cost.tpot_s,
        "tokens_per_s": cost.tokens_per_s,
        "kwh_per_mtoken": cost.kwh_per_mtoken,
        "usd_per_mtoken": cost.price_per_mtoken,
        "latency_interval_s": cost.interval(cost.latency_s),
        "memory_interval_bytes": cost.interval(cost.memory_bytes, memory=True),
        "device_bytes": cost.device_bytes,
    }


def show_served(console: Console, costs: Sequence[Cost]) -> None:
    """What people notice, for each P but the first, which is there for comparison."""
    energy = any(c.kwh_per_mtoken is not None for c in costs)
    money = any(c.price_per_mtoken is not None for c in costs)
    doubt = costs[0].interval(1.0)
    head = ["P", "TTFT, ms", "ms a token", *(["<95 % interval"] if doubt else [])]
    head += ["tokens/s a request", "tokens/s in all"]
    head += [*(["kWh/M tokens"] if energy else []), *(["$/M tokens"] if money else [])]
    table = make_table(*head)
    for cost in costs[1:]:
        cells = [str(cost.architecture.P), plain_number(cost.ttft_s * 1e3), plain_number(cost.tpot_s * 1e3)]
        cells += ["–".join(plain_number(v * cost.tpot_s * 1e3) for v in doubt)] if doubt else []
        cells += [plain_number(v) if isfinite(v) else "" for v in (cost.request_tokens_per_s, cost.tokens_per_s)]
        cells += [plain_number(cost.kwh_per_mtoken or 0.0)] if energy else []
        cells += [plain_number(cost.price_per_mtoken or 0.0)] if money else []
        table.add_row(*cells)
    print_table(console, "as served (roofline)", table)


def show_most(console: Console, rows: Sequence[tuple[str, int, str | None, Cost]], as_json: bool) -> None:
    """The most requests at once of each engine and P, and what one more would be short of."""
    if as_json:
        found = [
            {**_row(cost, cost, name), "most_requests": most, "short_of": stops} for name, most, stops, cost in rows
        ]
        typer.echo(json.dumps(found, indent=1))
        return
    table = make_table("<engine", "P", "most at once", "<then short of", "TTFT, ms", "ms a token", "tokens/s in all")
    for name, most, stops, cost in rows:
        cells = [name, str(cost.architecture.P), f"{most:,}", stops or ""]
        speeds = (cost.ttft_s * 1e3, cost.tpot_s * 1e3, cost.tokens_per_s)
        table.add_row(*cells, *((plain_number(v) for v in speeds) if most else ("", "", "")))
    print_table(console, "most requests at once", table)


def show_costs(console: Console, block: Block, device: Device, precision: Precision, model: str = "") -> None:
    """A row for each P and engine, P = 1 first for comparison; `model` is its name, where it has one."""
    several = len(block) > 1
    costs = next(iter(block.values()))
    memory = ("GiB", GIB) if costs[0].memory_bytes >= 0.1 * GIB else ("MiB", 2**20)
    time = ("s", 1.0) if costs[0].latency_s >= 0.1 else ("ms", 1e-3)
    parts = () if several else (f"weights {memory[0]}", f"KV cache {memory[0]}")  # the line is full
    over = "over P = 1"
    head = ("P", "N", "<engine") if several else ("P", "N")
    table = make_table(*head, f"memory {memory[0]}", over, f"latency {time[0]}", over, *parts)
    asked = [c.architecture.P for c in costs[1:]]
    for index in range(1 if 1 in asked else 0, len(costs)):
        for place, (name, priced) in enumerate(block.items()):
            cost, base = priced[index], priced[0]
            shape = cost.architecture
            row = ["", ""] if place else [str(shape.P), format_count(shape.n_params)]
            row += [name] if several else []
            row += [f"{cost.memory_bytes / memory[1]:.3f}{'' if cost.fits else ' *'}"]
            row += [_over(cost.memory_bytes, base.memory_bytes, memory[1]) if shape.P > 1 else ""]
            row += [f"{cost.latency_s / time[1]:.3f}"]
            row += [_over(cost.latency_s, base.latency_s, time[1]) if shape.P > 1 else ""]
            row += [f"{cost.weight_bytes / memory[1]:.3f}", f"{cost.kv_cache_bytes / memory[1]:.4f}"][: len(parts)]
            table.add_row(*row)
    print_table(console, _title(costs[0], device, precision, model), table)


def _over(value: float, base: float, unit: float) -> str:
    return f"{(value - base) / unit:+.3f} ({value / base - 1:+.1%})"


def _title(base: Cost, device: Device, precision: Precision, model: str) -> str:
    shape, work = base.architecture, base.workload
    stored = "" if precision == BF16 else f"; {precision.weights} weights, {precision.kv_stored} KV cache"
    whose = f"{model}: " if model else ""
    return (
        f"{whose}hidden {shape.hidden_size}, intermediate {_mlp_width(base):g}, {shape.num_layers} layers; "
        f"batch {work.batch}, {work.tokens_in} tokens in, {work.tokens_out} out; {device.gpu}{stored}"
    )


def _mlp_width(cost: Cost) -> float:
    """Of the first layer's MLP, or of one of its experts."""
    shape = cost.architecture
    return shape.intermediate_size if isinstance(shape, Architecture) else shape.layers[0][0].mlp_width


def show_hardware(console: Console, devices: Sequence[Hardware], as_json: bool) -> None:
    """Dense peaks in TFLOP/s, bandwidth, memory and source of each device."""
    precisions = tuple(reversed(WIDER))
    if as_json:
        typer.echo(json.dumps([_device_row(d) for d in devices], indent=1))
        return
    table = make_table("<device", "<class", *precisions, "GB/s", "GiB", "W", "$/h")
    for device in devices:
        peaks = [device.flops_per_s.get(name) for name in precisions]
        figures = [
            *(("" if v is None else f"{v / 1e12:.4g}", name) for v, name in zip(peaks, precisions, strict=True)),
            (f"{device.bytes_per_s / 1e9:.4g}", "bandwidth"),
            (f"{device.memory_bytes / GIB:.4g}", "memory"),
            ("" if device.watts is None else f"{device.watts:g}", "watts"),
            ("" if device.price_per_hour is None else f"{device.price_per_hour:g}?", "price"),
        ]
        marked = [f"{text}?" if key in device.unconfirmed else text for text, key in figures]
        table.add_row(device.name, device.kind, *marked)
    print_table(console, "dense TFLOP/s, memory bandwidth and size; ? was not checked against its source", table)
    for device in devices:
        print_text(console, f"{device.name}: {device.source}{'; measured' if device.measured else ''}")


def _device_row(device: Hardware) -> dict[str, Any]:
    return {
        "name": device.name,
        "flops_per_s": dict(device.flops_per_s),
        "bytes_per_s": device.bytes_per_s,
        "memory_bytes": device.memory_bytes,
        "launch_s": device.launch_s,
        "measured": device.measured,
        "unconfirmed": list(device.unconfirmed),
        "class": device.kind,
        "graph_launch_s": device.graph_launch_s,
        "usable_bytes": device.usable_bytes,
        "watts": device.watts,
        "link_bytes_per_s": device.link_bytes_per_s,
        "usd_per_hour": device.price_per_hour,
        "source": device.source,
    }
