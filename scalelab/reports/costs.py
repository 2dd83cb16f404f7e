"""Reports of prices and devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from scalelab.architecture import Architecture
from scalelab.cost.describe import device_notes, priced_by
from scalelab.cost.fallback import ROOFLINE
from scalelab.cost.hardware import WIDER, Hardware
from scalelab.cost.request import BF16, GIB, Cost
from scalelab.reports.blocks import Line, Report, Table
from scalelab.units import format_count, plain_number, plural

if TYPE_CHECKING:
    from scalelab.cost.devices import Devices
    from scalelab.cost.prices import Prices


def prices_report(prices: Prices) -> Report:
    """Return a table for each batch size, with a row for each P and cost model.

    With the roofline, a second table has speed, energy and money; the assumptions about the device come last.
    """
    blocks: list[Table | Line] = [Line(text, "info") for text in prices.notes]
    if prices.most:
        return Report.of([*blocks, _most_table(prices), *_assumed(prices)])
    for block in prices.blocks:
        blocks.append(_table(prices, block))
        if ROOFLINE in block:
            blocks.append(_served_table(block[ROOFLINE]))
    blocks += _assumed(prices)
    if not prices.fits:
        blocks.append(Line("rows with * need more memory than the device has, and cannot run on it", "warning"))
    return Report.of(blocks)


def prices_json(prices: Prices) -> list[dict[str, Any]]:
    """Return a mapping for each batch size, cost model and P, unrounded."""
    if prices.most:
        return [
            {**_row(m.cost, m.cost, m.engine), "most_requests": m.requests, "short_of": m.short_of} for m in prices.most
        ]
    return [_row(c, costs[0], name) for block in prices.blocks for name, costs in block.items() for c in costs[1:]]


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


def _assumed(prices: Prices) -> list[Line]:
    """Return the assumptions of the roofline about this device, and precisions that it replaces."""
    if ROOFLINE not in prices.engines:
        return []
    lines = [Line(priced_by(ROOFLINE, prices.device, prices.precision), "dim")]
    return lines + [Line(text, "info") for text in device_notes(prices.device, prices.precision)]


def served_headings(costs: Sequence[Cost]) -> list[str]:
    """Return the headings of serving speed, and of energy and money if known for any of `costs`."""
    headings = ["TTFT, ms", "ms/token", "tokens/s per request", "tokens/s total"]
    headings += ["kWh/M tokens"] if _has_energy(costs) else []
    return headings + (["$/M tokens"] if _has_money(costs) else [])


def served_cells(cost: Cost, costs: Sequence[Cost]) -> list[str]:
    """Return the cells of one of `costs` under `served_headings`."""
    cells = [plain_number(cost.ttft_s * 1e3), plain_number(cost.tpot_s * 1e3)]
    cells += [plain_number(v) if isfinite(v) else "" for v in (cost.request_tokens_per_s, cost.tokens_per_s)]
    cells += [plain_number(cost.kwh_per_mtoken or 0.0)] if _has_energy(costs) else []
    return cells + ([plain_number(cost.price_per_mtoken or 0.0)] if _has_money(costs) else [])


def _has_energy(costs: Sequence[Cost]) -> bool:
    return any(cost.kwh_per_mtoken is not None for cost in costs)


def _has_money(costs: Sequence[Cost]) -> bool:
    return any(cost.price_per_mtoken is not None for cost in costs)


def _served_table(costs: Sequence[Cost]) -> Table:
    """Return serving speed for each P except the first, which is only the baseline."""
    doubt = costs[0].interval(1.0)
    ttft, tpot, *rest = served_headings(costs)
    headings = ["P", ttft, tpot, *(["<95 % interval"] if doubt else []), *rest]
    table = Table(f"serving ({ROOFLINE})", headings)
    for cost in costs[1:]:
        ttft, tpot, *rest = served_cells(cost, costs)
        between = ["–".join(plain_number(v * cost.tpot_s * 1e3) for v in doubt)] if doubt else []
        table.add(str(cost.architecture.P), ttft, tpot, *between, *rest)
    return table


def _most_table(prices: Prices) -> Table:
    """Return the largest batch of each cost model and P, and the limit that stops a larger one."""
    headings = ["<engine", "P", "largest batch", "<limited by", "TTFT, ms", "ms/token", "tokens/s total"]
    table = Table("largest batch within the limits", headings, keys=2)
    for row in prices.most:
        cost = row.cost
        speeds = (cost.ttft_s * 1e3, cost.tpot_s * 1e3, cost.tokens_per_s)
        shown = [plain_number(v) for v in speeds] if row.requests else ["", "", ""]
        table.add(row.engine, str(cost.architecture.P), f"{row.requests:,}", row.short_of or "", *shown)
    return table


def _table(prices: Prices, block: Mapping[str, Sequence[Cost]]) -> Table:
    several = len(block) > 1
    costs = next(iter(block.values()))
    memory = ("GiB", GIB) if costs[0].memory_bytes >= 0.1 * GIB else ("MiB", 2**20)
    time = ("s", 1.0) if costs[0].latency_s >= 0.1 else ("ms", 1e-3)
    parts = () if several else (f"weights {memory[0]}", f"KV cache {memory[0]}")  # no room with two cost models
    over = "over P = 1"
    keys = ("P", "N", "<engine") if several else ("P", "N")
    headings = [*keys, f"memory {memory[0]}", over, f"latency {time[0]}", over, *parts]
    table = Table(_title(costs[0], prices), headings, keys=len(keys))
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
            table.add(*row)
    return table


def _over(value: float, base: float, unit: float) -> str:
    return f"{(value - base) / unit:+.3f} ({value / base - 1:+.1%})"


def _title(base: Cost, prices: Prices) -> str:
    shape, work, precision = base.architecture, base.workload, prices.precision
    stored = "" if precision == BF16 else f"; {precision.weights} weights, {precision.kv_stored} KV cache"
    whose = f"{prices.name}: " if prices.name else ""
    return (
        f"{whose}hidden {shape.hidden_size}, intermediate {_mlp_width(base):g}, "
        f"{plural(int(shape.num_layers), 'layer')}; "
        f"batch {work.batch}, {work.tokens_in} tokens in, {work.tokens_out} out; {prices.device.gpu}{stored}"
    )


def _mlp_width(cost: Cost) -> float:
    """Return the width of the first layer's MLP, or of one of its experts."""
    shape = cost.architecture
    return shape.intermediate_size if isinstance(shape, Architecture) else shape.layers[0][0].mlp_width


def devices_report(devices: Devices) -> Report:
    """Return dense peaks in TFLOP/s, bandwidth, memory and source of each device."""
    precisions = tuple(reversed(WIDER))
    title = "dense TFLOP/s, memory bandwidth and size; ? marks figures not checked against their source"
    table = Table(title, ["<device", "<class", *precisions, "GB/s", "GiB", "W", "$/h"])
    for device in devices:
        peaks = [device.flops_per_s.get(name) for name in precisions]
        figures = [
            *(("" if v is None else f"{v / 1e12:.4g}", name) for v, name in zip(peaks, precisions, strict=True)),
            (f"{device.bytes_per_s / 1e9:.4g}", "bandwidth"),
            (f"{device.memory_bytes / GIB:.4g}", "memory"),
            ("" if device.watts is None else f"{device.watts:g}", "watts"),
            ("" if device.price_per_hour is None else f"{device.price_per_hour:g}", "price_per_hour"),
        ]
        table.add(
            device.name, device.kind, *(f"{text}?" if key in device.unconfirmed else text for text, key in figures)
        )
    sources = [Line(f"{device.name}: {device.source}{'; measured' if device.measured else ''}") for device in devices]
    return Report.of([table, *sources])


def devices_json(devices: Devices) -> list[dict[str, Any]]:
    """Return a mapping for each device."""
    return [_device_row(device) for device in devices]


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
