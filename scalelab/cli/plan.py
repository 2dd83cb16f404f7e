"""`scalelab plan`: which N and P to train and serve, from a fitted law, a cost model and limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalelab.architecture import PREFIX_TOKENS
from scalelab.cli.console import print_text, stdout
from scalelab.cli.device_options import (
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
)
from scalelab.cli.models import check_figure
from scalelab.cost.model import (
    PAPER_HEADS,
    PAPER_KV_HEADS,
    PAPER_LAYERS,
    PAPER_VOCAB,
    Precision,
    Workload,
)
from scalelab.errors import UsageError
from scalelab.units import counts, parse_bytes, parse_count, parse_duration

if TYPE_CHECKING:
    from scalelab.plan import Plan, Shapes

_CHEAP = "latency"
TRAINER = "h100-sxm-80gb"


def plan(
    source: Annotated[Path, typer.Argument(metavar="FIT", help="A saved fit (JSON), of scalelab fit.")],
    memory: Annotated[
        str | None, typer.Option(help="Limit on memory, e.g. 4GB or 4GiB.", show_default="all that the device has")
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="Limit on the time of a whole request, prompt and all, e.g. 500ms or 2s.")
    ] = None,
    ttft: Annotated[
        str | None, typer.Option("--ttft", help="Limit on the time to the first token, e.g. 500ms.")
    ] = None,
    tpot: Annotated[
        str | None, typer.Option("--tpot", help="Limit on the time for each token after it, e.g. 30ms.")
    ] = None,
    train_flops: Annotated[
        str | None, typer.Option(help="Limit on training, e.g. 1e21: 6·N·D FLOPs, times P with streams.")
    ] = None,
    loss: Annotated[
        float | None,
        typer.Option(help="A loss to reach as cheaply as can be, instead of the lowest within the limits."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="What is cheap, with --loss: latency, ttft, tpot, memory or training.",
            metavar="NAME",
            show_default=_CHEAP,
        ),
    ] = None,
    max_P: Annotated[int, typer.Option("--max-P", help="P are the powers of two up to this.")] = 64,
    gpu: Gpu = None,
    batch: Annotated[int, typer.Option(help="Requests at once.")] = 1,
    tokens_in: TokensIn = 512,
    tokens_out: TokensOut = 128,
    D: Annotated[
        str | None, typer.Option("--D", help="Training tokens.", show_default="the runs'; of several the most")
    ] = None,
    second_stage_fraction: Annotated[
        float, typer.Option(help="Share of the training tokens that streams are trained on, after a plain stage.")
    ] = 1.0,
    shapes: Annotated[
        str,
        typer.Option(
            help="Shapes of decoders: paper, all --layers deep; ladder, narrow ones are shallower.", metavar="NAME"
        ),
    ] = "paper",
    layers: Annotated[int, typer.Option(help="Decoder layers; of the ladder the most.")] = PAPER_LAYERS,
    heads: Heads = PAPER_HEADS,
    kv_heads: KvHeads = PAPER_KV_HEADS,
    vocab: Vocab = PAPER_VOCAB,
    prefix_tokens: Annotated[int, typer.Option(help="Prefix length of each stream.")] = PREFIX_TOKENS,
    engine: Annotated[
        str, typer.Option(help="Cost model: roofline, ours; or llm-analysis, the paper's.", metavar="NAME")
    ] = ROOFLINE,
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
    train_gpu: Annotated[
        str | None, typer.Option(help="Device that trains; its days are what training takes.", show_default=TRAINER)
    ] = None,
    law: Annotated[str | None, typer.Option(help="file.py:NAME, for a fit of a law of your own.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw loss over memory and over latency here, with limits (PNG, PDF or SVG).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every digit.")] = False,
) -> None:
    """The best N and P within limits on memory, latency and training, and how surely they are best.

    N is continuous: decoders have real-valued widths. Without --loss the lowest loss within the limits is
    sought; with it, what reaches that loss most cheaply.
    """
    from scalelab.cli import plan_tables as tables
    from scalelab.cli.plan_units import Wording
    from scalelab.cost.compare import price_by
    from scalelab.cost.describe import device_notes, priced_by
    from scalelab.fit import load_fit
    from scalelab.laws import get_law
    from scalelab.plan import Limits, Problem, make_plan
    from scalelab.plan.problem import tokens_of

    limits = Limits(
        _read("--memory", parse_bytes, memory),
        _read("--latency", parse_duration, latency),
        _read("--train-flops", parse_count, train_flops),
        _read("--ttft", parse_duration, ttft),
        _read("--tpot", parse_duration, tpot),
    )
    if loss is not None and not 0 < loss < float("inf"):
        raise UsageError(f"--loss {loss:g}: give a loss above 0, in nats a token")
    if by is not None and loss is None:
        raise UsageError(f"--by {by}: it says what is cheap where a loss is to be reached: give --loss too")
    if not 1 <= max_P <= 2**20:
        raise UsageError(f"--max-P {max_P}: choose between 1 and 1,048,576")
    if figure is not None:
        check_figure(figure)
    fit = load_fit(source, None if law is None else get_law(law))
    own = own_devices(hardware)
    used = (runtime, launch_us, reserve, tensor_parallel, price_per_hour, watts)
    device = device_of(gpu, own, flops_efficiency, memory_efficiency, *used)
    train_on = device_of(train_gpu or TRAINER, own, None, None)
    precision = Precision(weights, kv, compute)
    problem = Problem(
        fit=fit,
        shapes=_shapes(shapes, layers, heads, kv_heads, vocab, prefix_tokens, fit.options.convention),
        workload=Workload(batch, tokens_in, tokens_out),
        price=price_by(engine, device, precision),
        limits=limits,
        D=tokens_of(fit, None if D is None else counts([D], "--D")[0]),
        second_stage=second_stage_fraction,
    )
    streams = [2**i for i in range(max_P.bit_length())]
    made = make_plan(problem, streams, device, loss, by or _CHEAP, train_on)
    console = stdout()
    how = Wording(
        priced_by(engine, device, precision), memory is None or "i" in memory.lower(), train_on.gpu, device.gpu
    )
    if as_json:
        tables.print_json(console, made)
    elif made.options:
        tables.show(console, made, how)
    if figure is not None and made.options:
        _draw(figure, made, how)
        if not as_json:
            print_text(console, f"saved {figure}")
    if not as_json:
        for note in device_notes(device, precision, engine):
            print_text(console, f"note: {note}", "yellow")
    tables.complain_if_infeasible(made, how)


def _read(flag: str, parse: Any, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse(text)
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from None


def _shapes(name: str, layers: int, heads: int, kv_heads: int, vocab: int, prefix: int, convention: str) -> Shapes:
    from scalelab.architecture import Architecture, mlp_width
    from scalelab.plan import SHAPES, Shapes

    if name not in SHAPES:
        raise UsageError(f"--shapes {name}: choose one of {', '.join(SHAPES)}")
    check_sizes({"--layers": layers, "--heads": heads, "--kv-heads": kv_heads, "--vocab": vocab})
    width = 64 * heads
    base = Architecture(width, mlp_width(width), layers, heads, kv_heads, vocab, prefix_tokens=prefix)
    return Shapes(base, name == "ladder", convention)


def _draw(path: Path, made: Plan, how: Any) -> None:
    from scalelab.plan.frontier import frontier
    from scalelab.plot.plan import plot_plan

    drawn = plot_plan(made, frontier(made), how.setting(made), how.binary)
    drawn.savefig(path, dpi=150)
