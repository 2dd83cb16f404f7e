"""The command `scalelab plan`: the N and P to train and serve within limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.architecture import PREFIX_TOKENS
from scalelab.cli.console import check_figure, check_out, show
from scalelab.cli.flags import as_typed
from scalelab.cli.lists import numbers, pairs
from scalelab.cli.options import (
    LIFETIME,
    LIMITS,
    MODEL,
    OUTPUT,
    TRAINING,
    WORKLOAD,
    AnswerLaw,
    AsJson,
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
from scalelab.cost.request import PAPER_HEADS, PAPER_KV_HEADS, PAPER_LAYERS, PAPER_VOCAB, TRAINING_SHARE, Precision
from scalelab.errors import ScalelabError


def plan(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FIT",
            help="Saved fit (JSON) of scalelab fit. With --serve-tokens also hoffmann, sardana or besiroglu "
            "(published constants), or a law with --constants.",
        ),
    ],
    memory: Annotated[
        str | None,
        option(help="Limit on memory, e.g. 4GB or 4GiB.", show_default="all of the device", panel=LIMITS),
    ] = None,
    latency: Annotated[
        str | None,
        option(help="Limit on the time of a whole request, e.g. 500ms or 2s.", panel=LIMITS),
    ] = None,
    ttft: Annotated[str | None, option(help="Limit on the time to the first token, e.g. 500ms.", panel=LIMITS)] = None,
    tpot: Annotated[str | None, option(help="Limit on the time per output token, e.g. 30ms.", panel=LIMITS)] = None,
    train_flops: Annotated[
        str | None, option(help="Limit on training FLOPs (6·N·D, times P with streams), e.g. 1e21.", panel=LIMITS)
    ] = None,
    loss: Annotated[
        float | None,
        option(help="Loss to reach at the lowest cost, instead of the lowest loss within the limits.", panel=LIMITS),
    ] = None,
    by: Annotated[
        str | None,
        option(
            help="Cost to minimise with --loss: latency, ttft, tpot, memory or training; with --serve-tokens: flops, "
            "seconds or money.",
            metavar="NAME",
            show_default="latency; flops with --serve-tokens",
            panel=LIMITS,
        ),
    ] = None,
    serve_tokens: Annotated[
        str | None,
        option(
            help="Tokens to serve over the model's life, e.g. 2T: find the N, P and D that are cheapest to train and "
            "serve for --loss.",
            panel=LIFETIME,
        ),
    ] = None,
    constants: Annotated[
        Words,
        list_option("--constants", "Constants of the law FIT, instead of a fit.", (), "NAME=VALUE…", LIFETIME),
    ] = None,
    train_utilisation: Annotated[
        float | None,
        option(
            help="Share of the peak FLOP/s that training reaches, for seconds and money.",
            panel=LIFETIME,
            show_default=f"{TRAINING_SHARE:g}",
        ),
    ] = None,
    train_price_per_hour: Annotated[
        float | None,
        option(
            help="US dollars per hour of a training device.", panel=LIFETIME, show_default="from the hardware table"
        ),
    ] = None,
    P: Annotated[
        Words,
        list_option("--P", "Numbers of streams to choose from; by default powers of two up to --max-P.", panel=MODEL),
    ] = None,
    max_P: Annotated[int, option("--max-P", help="The largest P, without --P.", panel=MODEL)] = 64,
    batch: Annotated[int, option(help="Concurrent requests.", panel=WORKLOAD)] = 1,
    tokens_in: TokensIn = None,
    tokens_out: TokensOut = None,
    preset: Preset = "serving",
    D: Annotated[
        str | None,
        option("--D", help="Training tokens.", show_default="the largest of the runs", panel=TRAINING),
    ] = None,
    second_stage_fraction: Annotated[
        float,
        option(help="Fraction of training tokens for streams, after a plain first stage.", panel=TRAINING),
    ] = 1.0,
    shapes: Annotated[
        str,
        option(
            help="Decoder shapes: paper (all with --layers) or ladder (narrow ones are shallower).",
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
            help="Device for training, to convert FLOPs into days.",
            metavar="NAME",
            panel=TRAINING,
            show_default="h100-sxm-80gb",
        ),
    ] = None,
    law: AnswerLaw = None,
    out: Out = None,
    figure: Figure = None,
    figure_kind: Annotated[
        str | None,
        option(
            help="Figure: frontier (loss over costs) or contours (loss and limits over N and P); with --serve-tokens: "
            "lifetime (best N and D, and cost, over served tokens).",
            metavar="NAME",
            panel=OUTPUT,
            show_default="frontier; lifetime with --serve-tokens",
        ),
    ] = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the best N and P within limits on memory, latency and training.

    N is continuous: decoders have real-valued widths. Without --loss, the plan minimises the loss within the limits;
    with --loss, it minimises the cost of reaching that loss. Bootstrap draws of the fit give the probability that the
    choice is best.

    With --serve-tokens and --loss, the plan finds the N, P and D with the lowest cost of training and serving together.
    """
    from scalelab.api.planning import make_plan
    from scalelab.plan import Plan

    check_out(out, source)
    check_figure(figure, figure_size, source)
    if figure is not None:
        from scalelab.api.loading import check_choice
        from scalelab.plot.lifetime import KINDS as LIFETIME_KINDS
        from scalelab.plot.plan import KINDS

        check_choice("figure_kind", figure_kind, KINDS if serve_tokens is None else LIFETIME_KINDS)
    limits = dict(memory=memory, latency=latency, ttft=ttft, tpot=tpot, train_flops=train_flops, loss=loss, by=by)
    model = dict(shapes=shapes, layers=layers, heads=heads, kv_heads=kv_heads, vocab=vocab, prefix_tokens=prefix_tokens)
    request = dict(batch=batch, tokens_in=tokens_in, tokens_out=tokens_out, preset=preset, engine=engine)
    device = dict(gpu=gpu, hardware=hardware, weights=weights, kv=kv, compute=compute)
    used = dict(flops_efficiency=flops_efficiency, memory_efficiency=memory_efficiency, runtime=runtime)
    used |= dict(launch_us=launch_us, reserve=reserve, tensor_parallel=tensor_parallel)
    used |= dict(price_per_hour=price_per_hour, watts=watts)
    lifetime = dict(serve_tokens=serve_tokens, train_utilisation=train_utilisation)
    lifetime |= dict(train_price_per_hour=train_price_per_hour)
    lifetime |= dict(constants=None if constants is None else numbers(pairs(constants, "--constants"), "constants"))
    training = dict(D=D, train_gpu=train_gpu, second_stage_fraction=second_stage_fraction, law=law)
    made = make_plan(source, P=P, max_P=max_P, **limits, **model, **request, **device, **used, **training, **lifetime)  # type: ignore[arg-type]
    if made.options or as_json:
        drawn = dict(kind=figure_kind, size=figure_size)
        figure = figure if made.options else None
        show(made, as_json=as_json, out=out, figure=figure, drawn=drawn, quiet=quiet, verdict=False)
    if made.winner is None:
        from scalelab.reports import lifetime as lifetimes
        from scalelab.reports import plan_words

        reason = plan_words.shortfall(made) if isinstance(made, Plan) else lifetimes.shortfall(made)
        raise ScalelabError(as_typed(reason))
