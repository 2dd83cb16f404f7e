"""`scalelab cost`: memory and latency of a decoder with P streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalelab.architecture import PREFIX_TOKENS, Architecture, mlp_width
from scalelab.cli.console import print_text, stdout
from scalelab.cli.device_options import (
    LLM_ANALYSIS,
    ROOFLINE,
    Compute,
    FlopsEfficiency,
    Gpu,
    HardwareFile,
    Heads,
    Kv,
    KvHeads,
    LaunchUs,
    MemoryEfficiency,
    PricePerHour,
    Reserve,
    Runtime,
    TensorParallel,
    TokensIn,
    TokensOut,
    Vocab,
    Watts,
    Weights,
    check_sizes,
    device_of,
    own_devices,
    read_limit,
)
from scalelab.cli.lists import list_option
from scalelab.cost.model import (
    PAPER_HEADS,
    PAPER_KV_HEADS,
    PAPER_LAYERS,
    PAPER_VOCAB,
    Precision,
    Workload,
)
from scalelab.errors import UsageError
from scalelab.units import whole_numbers

if TYPE_CHECKING:
    from scalelab.cost.engines import Engine
    from scalelab.cost.model import Device
    from scalelab.cost.shape import ServedModel

_STREAMS, _BATCHES = (1, 2, 4, 8), (1,)
_BOTH = "both"
_CLOCK = "Against a clock"
# Of a shape given by flags; --model brings its own.
_SHAPE_FLAGS = ("hidden", "intermediate", "layers", "heads", "kv_heads", "vocab")
_ENGINE_FLAGS = ("runtime", "launch_us", "reserve", "tensor_parallel", "price_per_hour", "watts", "ttft", "tpot")
_PRICE_FLAGS = (
    *("model", *_SHAPE_FLAGS, "engine", "kv", "compute", "flops_efficiency", "memory_efficiency"),
    *_ENGINE_FLAGS,
)
_MOST = "max"  # as many requests at once as there is room and time for
_MEASURE_FLAGS = ("on", "threads", "seconds", "save_profile", "csv", "figure")
_FLAGS = {"on": "--device"}  # where the name differs


def cost(
    ctx: typer.Context,
    hidden: Annotated[int | None, typer.Option(help="Hidden size.", show_default=False)] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="A model's folder or config.json instead of a hidden size: Llama, Qwen, Gemma and others."),
    ] = None,
    P: Annotated[
        list[str] | None,
        list_option("--P", "Parallel streams, e.g. --P 1 2 4 8.", _STREAMS),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(
            help="Requests at once, e.g. --batch 1 8; or max: the most within memory, --ttft and --tpot.",
            metavar="VALUE…",
            show_default="1",
        ),
    ] = None,
    ttft: Annotated[
        str | None, typer.Option("--ttft", help="With --batch max: limit on the time to the first token, e.g. 500ms.")
    ] = None,
    tpot: Annotated[
        str | None, typer.Option("--tpot", help="With --batch max: limit on each token after it, e.g. 30ms.")
    ] = None,
    tokens_in: TokensIn = 64,
    tokens_out: TokensOut = 64,
    intermediate: Annotated[
        int | None, typer.Option(help="MLP width; about 5.4·hidden when not given, as in the paper.")
    ] = None,
    layers: Annotated[int, typer.Option(help="Decoder layers.")] = PAPER_LAYERS,
    heads: Heads = PAPER_HEADS,
    kv_heads: KvHeads = PAPER_KV_HEADS,
    vocab: Vocab = PAPER_VOCAB,
    prefix_tokens: Annotated[
        int | None,
        typer.Option(help="Prefix length of each stream.", show_default=f"{PREFIX_TOKENS}, or the model's own"),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Cost model: llm-analysis, the paper's; roofline, ours; or both.", metavar="NAME")
    ] = LLM_ANALYSIS,
    gpu: Gpu = None,
    hardware: HardwareFile = None,
    weights: Weights = Precision.weights,
    kv: Kv = None,
    compute: Compute = None,
    flops_efficiency: FlopsEfficiency = None,
    memory_efficiency: MemoryEfficiency = None,
    runtime: Runtime = None,
    launch_us: LaunchUs = None,
    reserve: Reserve = None,
    tensor_parallel: TensorParallel = 1,
    price_per_hour: PricePerHour = None,
    watts: Watts = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            "--measure",
            help="Time this model (folder or config.json) on this device, beside what both engines say.",
            rich_help_panel=_CLOCK,
        ),
    ] = None,
    on: Annotated[str, typer.Option("--device", help="Where: auto, cpu or cuda.", rich_help_panel=_CLOCK)] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of the CPU.", show_default="torch's", rich_help_panel=_CLOCK),
    ] = None,
    seconds: Annotated[float, typer.Option(help="For each of prefill and decoding.", rich_help_panel=_CLOCK)] = 2.0,
    save_profile: Annotated[
        Path | None, typer.Option(help="Save what this device reaches, for --hardware.", rich_help_panel=_CLOCK)
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Save what was measured.", rich_help_panel=_CLOCK)] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw it over P (PNG, PDF or SVG).", rich_help_panel=_CLOCK)
    ] = None,
    list_hardware: Annotated[bool, typer.Option("--list-hardware", help="Print the devices and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Memory and latency of inference for each P and batch.

    The defaults are the paper's: llm-analysis at 16 bits, 36 layers, 16 heads, 2 KV heads, an
    A100 SXM 80GB at 0.7 of its FLOP/s and 0.9 of its bandwidth. With --measure a real model is
    timed instead, at fp32 on a CPU, bf16 on CUDA, or as --weights says, beside what both engines
    say of it on this device, which is measured first, or on what --hardware and --gpu name.
    """
    from scalelab.cli import cost_tables as tables
    from scalelab.cost.describe import device_notes, priced_by
    from scalelab.cost.engines import ENGINES, get_engine
    from scalelab.cost.hardware import built_in
    from scalelab.cost.quantised import checkpoint_precision

    own = own_devices(hardware)
    if list_hardware:
        tables.show_hardware(stdout(), list((built_in() | own).values()), as_json)
        return
    streams = whole_numbers(P or _STREAMS, "--P")
    most = batch is not None and batch[0] == _MOST
    batches = (1,) if most else whole_numbers(batch or _BATCHES, "--batch")
    workloads = [Workload(size, tokens_in, tokens_out) for size in batches]
    limits = {"ttft": read_limit("--ttft", ttft), "tpot": read_limit("--tpot", tpot)}
    if (ttft or tpot) and not most:
        raise UsageError("--ttft and --tpot are limits on --batch max; leave them out, or give --batch max")
    if measured is not None:
        from scalelab.cli.measure import Request, measure

        _refuse(ctx, _PRICE_FLAGS, "--measure prices the model that it measures, by both engines")
        measure(
            Request(
                model=measured,
                streams=streams,
                workloads=workloads,
                prefix_tokens=prefix_tokens,
                weights=weights if _given(ctx, ("weights",)) else None,
                device=on,
                threads=threads,
                seconds=seconds,
                priced_on=device_of(gpu, own, None, None) if gpu or own else None,
                save_profile=save_profile,
                csv=csv,
                figure=figure,
                as_json=as_json,
            )
        )
        return
    _refuse(ctx, _MEASURE_FLAGS, "these are for --measure MODEL")
    engines = {name: get_engine(name) for name in (tuple(ENGINES) if engine == _BOTH else (engine,))}
    precision = Precision(weights, kv, compute)
    used = (runtime, launch_us, reserve, tensor_parallel, price_per_hour, watts)
    device = device_of(gpu, own, flops_efficiency, memory_efficiency, *used)
    plain: Architecture | ServedModel
    if model is not None:
        if not _given(ctx, ("weights",)):
            precision = checkpoint_precision(model, kv, compute) or precision
        plain = _read(ctx, model, prefix_tokens)
    else:
        plain = _shape(hidden, intermediate, layers, heads, kv_heads, vocab, prefix_tokens)
    if most:
        bounds = {name: value for name, value in limits.items() if value is not None}
        _most_requests(engines, plain, streams, workloads[0], device, precision, bounds, as_json)
        return
    blocks = [
        {
            name: [price(plain.with_streams(p), workload, device, precision) for p in (1, *streams)]
            for name, price in engines.items()
        }
        for workload in workloads
    ]
    if as_json:
        tables.print_json(blocks)
        return
    console = stdout()
    name = "" if isinstance(plain, Architecture) else plain.name
    for block in blocks:
        tables.show_costs(console, block, device, precision, name)
        if ROOFLINE in block:
            tables.show_served(console, block[ROOFLINE])
    if ROOFLINE in engines:
        print_text(console, priced_by(ROOFLINE, device, precision), "dim")
        for note in device_notes(device, precision):
            print_text(console, f"note: {note}", "yellow")
    if not all(c.fits for block in blocks for costs in block.values() for c in costs):
        print_text(console, "note: rows marked * need more memory than the GPU has: they cannot run there", "yellow")


def _most_requests(
    engines: Mapping[str, Engine],
    plain: Architecture | ServedModel,
    streams: Sequence[int],
    workload: Workload,
    device: Device,
    precision: Precision,
    limits: Mapping[str, float],
    as_json: bool,
) -> None:
    """Print the most requests at once for each engine and P."""
    from scalelab.cli import cost_tables as tables
    from scalelab.cost.requests import most_requests

    rows = []
    for name, price in engines.items():
        for P in streams:
            model = plain.with_streams(P)
            most, stops = most_requests(lambda work, p=price, m=model: p(m, work, device, precision), workload, limits)
            cost = price(model, replace(workload, batch=max(1, most)), device, precision)
            rows.append((name, most, stops, cost))
    tables.show_most(stdout(), rows, as_json)


def _shape(
    hidden: int | None, intermediate: int | None, layers: int, heads: int, kv_heads: int, vocab: int, prefix: int | None
) -> Architecture:
    if hidden is None:
        raise UsageError("Missing option '--hidden'; or give --model with a model's folder or config.json")
    check_sizes({"--hidden": hidden, "--layers": layers, "--vocab": vocab, "--intermediate": intermediate or 1})
    return Architecture(
        hidden_size=hidden,
        intermediate_size=mlp_width(hidden) if intermediate is None else intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        vocab_size=vocab,
        prefix_tokens=PREFIX_TOKENS if prefix is None else prefix,
    )


def _read(ctx: Any, path: Path, prefix_tokens: int | None) -> ServedModel:
    from scalelab.measure.shapes import read_shape

    _refuse(ctx, _SHAPE_FLAGS, "--model brings its own shape")
    return read_shape(path, lambda text: typer.echo(f"note: {text}", err=True)).with_prefix(prefix_tokens)


def _refuse(ctx: Any, names: Sequence[str], why: str) -> None:
    """Raises `UsageError` if any of these options stand on the command line."""
    given = [_FLAGS.get(name, f"--{name.replace('_', '-')}") for name in _given(ctx, names)]
    if given:
        raise UsageError(f"{why}; leave out {', '.join(given)}")


def _given(ctx: Any, names: Sequence[str]) -> list[str]:
    """Which of these options stand on the command line."""
    return [name for name in names if ctx.get_parameter_source(name).name == "COMMANDLINE"]
