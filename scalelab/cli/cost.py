"""The command `scalelab cost`: memory and latency of a decoder with P streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from scalelab.architecture import PREFIX_TOKENS
from scalelab.cli.console import check_figure, check_out, show, stderr
from scalelab.cli.options import (
    CLOCK,
    DEVICE,
    MODEL,
    WORKLOAD,
    AsJson,
    Batches,
    Compute,
    Engine,
    Figure,
    FigureSize,
    FlopsEfficiency,
    Gpu,
    HardwareFile,
    Heads,
    Kv,
    KvHeads,
    LaunchUs,
    Layers,
    MemoryEfficiency,
    Out,
    Preset,
    PricePerHour,
    Quiet,
    Reserve,
    Runtime,
    TensorParallel,
    TokensIn,
    TokensOut,
    Vocab,
    Watts,
    Weights,
    Words,
    list_option,
    option,
)
from scalelab.cost.request import PAPER_HEADS, PAPER_KV_HEADS, PAPER_LAYERS, PAPER_VOCAB, Precision
from scalelab.errors import UsageError

_STREAMS = (1, 2, 4, 8)
# Flags of a shape, which --model replaces.
_SHAPE_FLAGS = ("hidden", "intermediate", "layers", "heads", "kv_heads", "vocab")
_ENGINE_FLAGS = ("runtime", "launch_us", "reserve", "tensor_parallel", "price_per_hour", "watts", "ttft", "tpot")
_PRICE_FLAGS = (
    *("model", *_SHAPE_FLAGS, "preset", "engine", "kv", "compute", "flops_efficiency", "memory_efficiency"),
    *_ENGINE_FLAGS,
)
_MEASURE_FLAGS = ("on", "threads", "seconds", "save_profile")
_FLAGS = {"on": "--device"}  # flags that differ from the argument


def cost(
    ctx: typer.Context,
    hidden: Annotated[int | None, option(help="Hidden size.", panel=MODEL, show_default=False)] = None,
    model: Annotated[
        Path | None,
        option(help="Model folder or config.json, instead of a hidden size: Llama, Qwen, Gemma, …", panel=MODEL),
    ] = None,
    P: Annotated[Words, list_option("--P", "Numbers of streams, e.g. --P 1 2 4 8.", _STREAMS, panel=MODEL)] = None,
    batch: Batches = None,
    ttft: Annotated[
        str | None, option(help="With --batch max: limit on the time to the first token, e.g. 500ms.", panel=WORKLOAD)
    ] = None,
    tpot: Annotated[
        str | None, option(help="With --batch max: limit on the time per output token, e.g. 30ms.", panel=WORKLOAD)
    ] = None,
    tokens_in: TokensIn = None,
    tokens_out: TokensOut = None,
    preset: Preset = "parscale",
    intermediate: Annotated[
        int | None, option(help="Width of the MLP.", panel=MODEL, show_default="about 5.4·hidden")
    ] = None,
    layers: Layers = PAPER_LAYERS,
    heads: Heads = PAPER_HEADS,
    kv_heads: KvHeads = PAPER_KV_HEADS,
    vocab: Vocab = PAPER_VOCAB,
    prefix_tokens: Annotated[
        int | None,
        option(help="Prefix length of each stream.", panel=MODEL, show_default=f"the model's, or {PREFIX_TOKENS}"),
    ] = None,
    engine: Engine = None,
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
    list_hardware: Annotated[bool, option("--list-hardware", help="List the devices and exit.", panel=DEVICE)] = False,
    measured: Annotated[
        Path | None,
        option(
            "--measure",
            help="Measure this model (folder or config.json) here, and compare it with both cost models.",
            panel=CLOCK,
        ),
    ] = None,
    on: Annotated[str, option("--device", help="Device: auto, cpu or cuda.", panel=CLOCK, metavar="NAME")] = "auto",
    threads: Annotated[int | None, option(min=1, help="CPU threads.", show_default="set by torch", panel=CLOCK)] = None,
    seconds: Annotated[float, option(help="Seconds for each of prefill and decoding.", panel=CLOCK)] = 2.0,
    save_profile: Annotated[
        Path | None, option(help="Save the profile of this device, for --hardware.", panel=CLOCK, metavar="FILE")
    ] = None,
    out: Out = None,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Price inference of a decoder with P streams: memory and latency for each P and batch size.

    The defaults are the paper's: llm-analysis at 16 bits, 36 layers, 16 heads, 2 KV heads, an A100 SXM 80GB at 0.7 of
    its FLOP/s and 0.9 of its bandwidth. The roofline replaces llm-analysis where it does not support a model or device.
    With --measure, a model is measured on this device and compared with both cost models; --weights is then by default
    fp32 on a CPU and bf16 on CUDA.
    """
    from scalelab.api import costs

    check_out(out)
    check_figure(figure, figure_size)
    if list_hardware:
        show(costs.list_hardware(hardware), as_json=as_json, out=out, quiet=quiet)
        return
    streams, batches = P or _STREAMS, "max" if batch == ["max"] else batch or (1,)
    chosen = weights if _given(ctx, ("weights",)) else None
    if measured is not None:
        from scalelab.api.measuring import measure_model

        _refuse(ctx, _PRICE_FLAGS, "--measure prices the measured model, with both cost models")
        lengths = dict(tokens_in=tokens_in, tokens_out=tokens_out)
        request: dict[str, Any] = {name: value for name, value in lengths.items() if value is not None}
        request |= dict(
            batch=batches, prefix_tokens=prefix_tokens, weights=chosen, device=on, threads=threads, seconds=seconds
        )
        request |= dict(gpu=gpu, hardware=hardware, save_profile=save_profile)
        found = measure_model(measured, streams, **request, progress=stderr(quiet or as_json))  # type: ignore[arg-type]
        show(found, as_json=as_json, out=out, figure=figure, drawn=dict(size=figure_size), quiet=quiet)
        return
    _refuse(ctx, _MEASURE_FLAGS, "some options need --measure MODEL")
    shape: dict[str, Any] = {}
    if model is not None:
        _refuse(ctx, _SHAPE_FLAGS, "--model sets the shape")
    elif hidden is None:
        raise UsageError("give --hidden, or --model with a model folder or config.json")
    else:
        shape = dict(intermediate=intermediate, layers=layers, heads=heads, kv_heads=kv_heads, vocab=vocab)
    given: dict[str, Any] = dict(batch=batches, tokens_in=tokens_in, tokens_out=tokens_out, preset=preset)
    given |= dict(engine=engine, gpu=gpu, hardware=hardware, weights=chosen, kv=kv, compute=compute)
    given |= dict(flops_efficiency=flops_efficiency, memory_efficiency=memory_efficiency, prefix_tokens=prefix_tokens)
    given |= dict(runtime=runtime, launch_us=launch_us, reserve=reserve, tensor_parallel=tensor_parallel)
    given |= dict(price_per_hour=price_per_hour, watts=watts, ttft=ttft, tpot=tpot)
    given |= dict(progress=stderr(quiet or as_json))
    prices = costs.price(model or hidden, streams, **given, **shape)  # type: ignore[arg-type]
    show(prices, as_json=as_json, out=out, figure=figure, drawn=dict(size=figure_size), quiet=quiet)


def _refuse(ctx: Any, names: Sequence[str], why: str) -> None:
    """Raise `UsageError` if any of these options is on the command line."""
    given = [_FLAGS.get(name, f"--{name.replace('_', '-')}") for name in _given(ctx, names)]
    if given:
        raise UsageError(f"{why}; leave out {', '.join(given)}")


def _given(ctx: Any, names: Sequence[str]) -> list[str]:
    """Return those of the options that are on the command line."""
    return [name for name in names if ctx.get_parameter_source(name).name == "COMMANDLINE"]
