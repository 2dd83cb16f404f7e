"""The command `scalelab compare`: the cost of streams against a larger plain model of equal loss."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from scalelab.cli.console import check_figure, check_out, print_line, save_figure, saved_line, show
from scalelab.cli.lists import pairs
from scalelab.cli.options import (
    DATA,
    LAW,
    MODEL,
    WORKLOAD,
    AsJson,
    Columns,
    Compute,
    Engine,
    Figure,
    FigureSize,
    FlopsEfficiency,
    Gpu,
    HardwareFile,
    Kv,
    LaunchUs,
    MemoryEfficiency,
    Out,
    Preset,
    Quiet,
    Reserve,
    Runtime,
    TensorParallel,
    Vocab,
    Weights,
    Where,
    Words,
    list_option,
    option,
)
from scalelab.cost.request import PAPER_VOCAB, Precision
from scalelab.errors import UsageError

_STREAMS, _BATCHES, _LENGTHS = (8,), (1, 2, 4, 8), (64, 128, 256, 512)


def compare(
    hidden: Annotated[int, option(help="Hidden size of the model with streams.", panel=MODEL, show_default=False)],
    P: Annotated[Words, list_option("--P", "Numbers of streams, e.g. --P 2 4 8.", _STREAMS, panel=MODEL)] = None,
    data: Annotated[str | None, option(help="Losses: a folder of records, a table, or 'paper'.", panel=DATA)] = None,
    corpus: Annotated[str | None, option(help="Corpus to use, if the data hold several.", panel=DATA)] = None,
    columns: Columns = None,
    where: Where = None,
    law: Annotated[
        str | None,
        option(
            help="Use losses of a law fitted to the data: parallel, additive, … or file.py:NAME; with --fit, one of "
            "its laws.",
            panel=LAW,
            metavar="NAME",
        ),
    ] = None,
    fit: Annotated[
        Path | None,
        option(
            help="Use losses of a saved fit, averaged over its laws; --data is then optional.",
            panel=LAW,
            metavar="FILE",
        ),
    ] = None,
    D: Annotated[
        str | None,
        option("--D", help="Training tokens, if the data hold several; with a law, by default the most.", panel=DATA),
    ] = None,
    batch: Annotated[Words, list_option("--batch", "Concurrent requests.", _BATCHES, panel=WORKLOAD)] = None,
    lengths: Annotated[
        Words,
        list_option(
            "--lengths", "Prompt and generated tokens; costs are averaged over these.", _LENGTHS, panel=WORKLOAD
        ),
    ] = None,
    preset: Preset = "parscale",
    vocab: Vocab = PAPER_VOCAB,
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
    out: Out = None,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare the memory and latency that P streams add with those of a larger plain model of equal loss.

    The size of the plain model is interpolated over ln N between the measured losses of P = 1. With --law or --fit it
    follows from the law, with intervals, and may lie outside the measured range. With the roofline, intervals of
    latency include the error against published measurements of larger batches.
    """
    from scalelab.api.costs import compare_costs

    check_out(out, data, fit)
    if data is None and fit is not None and (corpus or columns or where or figure):
        raise UsageError("--corpus, --map, --where and --figure use measured runs: give --data as well")
    check_figure(figure, figure_size, data, fit)
    found = compare_costs(
        hidden,
        P or _STREAMS,  # type: ignore[arg-type]  # as typed
        data,
        corpus=corpus,
        columns=pairs(columns, "--map"),
        where=where,
        law=law,
        fit=fit,
        D=D,
        batch=batch or _BATCHES,  # type: ignore[arg-type]
        lengths=lengths or _LENGTHS,  # type: ignore[arg-type]
        vocab=vocab,
        preset=preset,  # type: ignore[arg-type]
        engine=engine,  # type: ignore[arg-type]
        gpu=gpu,
        hardware=hardware,
        weights=weights,
        kv=kv,  # type: ignore[arg-type]
        compute=compute,  # type: ignore[arg-type]
        flops_efficiency=flops_efficiency,
        memory_efficiency=memory_efficiency,
        runtime=runtime,  # type: ignore[arg-type]
        launch_us=launch_us,
        reserve=reserve,
        tensor_parallel=tensor_parallel,
    )
    show(found, as_json=as_json, out=out, quiet=quiet)
    if figure is not None:
        _save_figures(found, figure, figure_size, quiet or as_json)


def _save_figures(found: Any, figure: Path, size: Any, quiet: bool) -> None:
    """Save a figure of each group of runs, and say so."""
    for title in dict.fromkeys(answer.title for answer in found):
        group = found.groups[title]
        path = figure if len(found.groups) == 1 else figure.with_stem(f"{figure.stem}-{group.slug}")
        done = saved_line(path)
        save_figure(found.plot(group=title, size=size), path)
        print_line(done, quiet)
