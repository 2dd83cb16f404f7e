"""`scalelab plan`: which N and P to train and serve, from a fitted law, a cost model and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.architecture import PREFIX_TOKENS
from scalelab.cli.console import check_out, show
from scalelab.cli.flags import as_typed
from scalelab.cli.options import (
    LIMITS,
    MODEL,
    TRAINING,
    WORKLOAD,
    AsJson,
    Compute,
    Engine,
    Figure,
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
    OwnLaw,
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
from scalelab.errors import ScalelabError


def plan(
    source: Annotated[Path, typer.Argument(metavar="FIT", help="A saved fit (JSON), of scalelab fit.")],
    memory: Annotated[
        str | None,
        option(help="Limit on memory, e.g. 4GB or 4GiB.", show_default="all that the device has", panel=LIMITS),
    ] = None,
    latency: Annotated[
        str | None,
        option(help="Limit on the time of a whole request, prompt and all, e.g. 500ms or 2s.", panel=LIMITS),
    ] = None,
    ttft: Annotated[str | None, option(help="Limit on the time to the first token, e.g. 500ms.", panel=LIMITS)] = None,
    tpot: Annotated[
        str | None, option(help="Limit on the time for each token after it, e.g. 30ms.", panel=LIMITS)
    ] = None,
    train_flops: Annotated[
        str | None, option(help="Limit on training, e.g. 1e21: 6·N·D FLOPs, times P with streams.", panel=LIMITS)
    ] = None,
    loss: Annotated[
        float | None,
        option(help="A loss to reach as cheaply as can be, instead of the lowest within the limits.", panel=LIMITS),
    ] = None,
    by: Annotated[
        str | None,
        option(
            help="What is cheap, with --loss: latency, ttft, tpot, memory or training.",
            metavar="NAME",
            show_default="latency",
            panel=LIMITS,
        ),
    ] = None,
    P: Annotated[
        Words, list_option("--P", "Streams to choose among; by default powers of two up to --max-P.", panel=MODEL)
    ] = None,
    max_P: Annotated[int, option("--max-P", help="The largest P, without --P.", panel=MODEL)] = 64,
    batch: Annotated[int, option(help="Requests at once.", panel=WORKLOAD)] = 1,
    tokens_in: TokensIn = None,
    tokens_out: TokensOut = None,
    preset: Preset = "serving",
    D: Annotated[
        str | None,
        option("--D", help="Training tokens.", show_default="the runs'; of several the most", panel=TRAINING),
    ] = None,
    second_stage_fraction: Annotated[
        float,
        option(help="Share of the training tokens that streams are trained on, after a plain stage.", panel=TRAINING),
    ] = 1.0,
    shapes: Annotated[
        str,
        option(
            help="Shapes of decoders: paper, all --layers deep; ladder, narrow ones are shallower.",
            metavar="NAME",
            panel=MODEL,
        ),
    ] = "paper",
    layers: Layers = PAPER_LAYERS,
    heads: Heads = PAPER_HEADS,
    kv_heads: KvHeads = PAPER_KV_HEADS,
    vocab: Vocab = PAPER_VOCAB,
    prefix_tokens: Annotated[int, option(help="Prefix length of each stream.", panel=MODEL)] = PREFIX_TOKENS,
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
    train_gpu: Annotated[
        str | None,
        option(
            help="Device that trains; its days are what training takes.",
            panel=TRAINING,
            show_default="h100-sxm-80gb",
        ),
    ] = None,
    law: OwnLaw = None,
    out: Out = None,
    figure: Figure = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The best N and P within limits on memory, latency and training, and how surely they are best.

    N is continuous: decoders have real-valued widths. Without --loss the lowest loss within the limits is
    sought; with it, what reaches that loss most cheaply.
    """
    from scalelab.api.planning import make_plan
    from scalelab.report.plan_words import shortfall

    check_out(out, source)
    if figure is not None:
        from scalelab.api.loading import check_figure

        check_figure(figure, "figure", source)
    limits = dict(memory=memory, latency=latency, ttft=ttft, tpot=tpot, train_flops=train_flops, loss=loss, by=by)
    model = dict(shapes=shapes, layers=layers, heads=heads, kv_heads=kv_heads, vocab=vocab, prefix_tokens=prefix_tokens)
    request = dict(batch=batch, tokens_in=tokens_in, tokens_out=tokens_out, preset=preset, engine=engine)
    device = dict(gpu=gpu, hardware=hardware, weights=weights, kv=kv, compute=compute)
    used = dict(flops_efficiency=flops_efficiency, memory_efficiency=memory_efficiency, runtime=runtime)
    used |= dict(launch_us=launch_us, reserve=reserve, tensor_parallel=tensor_parallel)
    used |= dict(price_per_hour=price_per_hour, watts=watts)
    training = dict(D=D, train_gpu=train_gpu, second_stage_fraction=second_stage_fraction, law=law)
    made = make_plan(source, P=P, max_P=max_P, **limits, **model, **request, **device, **used, **training)  # type: ignore[arg-type]
    if made.options or as_json:
        show(made, as_json=as_json, out=out, figure=figure if made.options else None, quiet=quiet, verdict=False)
    if made.winner is None:
        raise ScalelabError(as_typed(shortfall(made)))
