"""Reports of measurements and their predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalelab.cost.engines import ENGINES
from scalelab.reports.blocks import Line, Report, Table

if TYPE_CHECKING:
    from scalelab.api.measuring import Measurements

_MIB = 2**20
_ERRORS = (("prefill", "s"), ("decode", "s"), ("latency", "s"), ("memory", "bytes"))


def measurements_report(found: Measurements) -> Report:
    """Return measurements, their ratios to each prediction, and the median errors."""
    rows, work = found.rows, found.rows[0].workload
    engines = [name for name in ENGINES if any(name in row.predicted for row in rows)]
    short = {"llm-analysis": "/ llm-a."}
    names = [short.get(name, f"/ {name}") for name in engines]
    title = (
        f"{rows[0].model}: {work.tokens_in} tokens in, {work.tokens_out} out; {found.dtype}, priced on "
        f"{found.priced_on}; / means measured over predicted"
    )
    headings = ["P", "batch", "prefill ms", "ms/token", "latency s", *names, "memory MiB", *names]
    table = Table(title, headings, keys=2)
    for row in rows:
        seen, steps = row.measured, row.workload.tokens_out - 1
        table.add(
            str(row.P),
            str(row.workload.batch),
            f"{seen.prefill_s * 1e3:.1f}",
            f"{seen.decode_s / steps * 1e3:.2f}" if steps else "",
            f"{seen.latency_s:.3f}",
            *(_ratio(row.ratio(name, "latency_s")) for name in engines),
            "?" if seen.memory_bytes is None else f"{seen.memory_bytes / _MIB:.0f}",
            *(_ratio(row.ratio(name, "memory_bytes")) for name in engines),
        )
    blocks: list[Table | Line] = [*_profile(found), *(Line(text, "left out") for text in found.left_out), table]
    for name in engines:
        errors = ((what, found.median_error(name, f"{what}_{unit}")) for what, unit in _ERRORS)
        medians = ", ".join(f"{what} {error:.0%}" for what, error in errors if error is not None)
        blocks.append(Line(f"median |predicted / measured - 1| of {name}: {medians}"))
    refused = {name: why for row in rows for name, why in row.refused.items()}
    return Report.of([*blocks, *(Line(f"not priced by {name}: {why}") for name, why in refused.items())])


def _profile(found: Measurements) -> list[Line]:
    hardware = found.hardware
    if hardware is None:
        return []
    captured = "" if hardware.graph_launch_s is None else f", {hardware.graph_launch_s * 1e6:.3g} µs in a CUDA graph"
    few = [share for rows, share in hardware.row_shares if 1 < rows <= 16]
    lines = [
        Line(
            f"{hardware.source}: {hardware.peak(found.dtype) / 1e9:.4g} GFLOP/s in matrix products, "
            f"{min(few):.0%} to {max(few):.0%} of the roof with 2 to 16 rows; {hardware.bytes_per_s / 1e9:.3g} GB/s; "
            f"{(hardware.launch_s or 0.0) * 1e6:.3g} µs per kernel{captured}"
        )
    ]
    if found.profile is not None:
        use = f"`engine='roofline'`, `hardware={found.profile}`, `weights={found.dtype!r}`"
        lines.append(Line(f"saved {found.profile}; to use it for prices: {use}"))
    return lines


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def measurements_json(found: Measurements) -> list[dict[str, Any]]:
    """Return a mapping for each P and batch size, unrounded."""
    return [row.as_dict() for row in found.rows]
