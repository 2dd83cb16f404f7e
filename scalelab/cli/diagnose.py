"""The command `scalelab diagnose`: similarity of the streams of a model, and aggregator weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import check_figure, check_out, show
from scalelab.cli.options import (
    MODEL,
    OUTPUT,
    AsJson,
    Corpus,
    DeviceChoice,
    DtypeName,
    FigureSize,
    Out,
    Quiet,
    SeqLen,
    TextColumn,
    ValTokens,
    option,
)


def diagnose(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a model with streams.")],
    P: Annotated[
        int | None,
        option("--P", min=2, help="Number of streams.", panel=MODEL, show_default="as saved"),
    ] = None,
    corpus: Corpus = "stdlib",
    text_column: TextColumn = "text",
    seq_len: SeqLen = None,
    val_tokens: ValTokens = 32768,
    dtype: DtypeName = "auto",
    device: DeviceChoice = "auto",
    out: Out = None,
    figure: Annotated[
        Path | None,
        option(
            help="Figure of the aggregator weights over tokens.",
            panel=OUTPUT,
            metavar="FILE",
            show_default="MODEL-streams-P….png",
        ),
    ] = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure how different the streams of a model are, and draw the aggregator weights over tokens.

    Cosine compares the final states of two streams, ρ their losses over tokens; streams with 1 are copies. Warnings:
    stream_collapse (ρ above 0.99), weight_monoculture (one stream has nearly all the weight).
    """
    from scalelab.api.diagnosis import diagnose as diagnose_streams
    from scalelab.api.loading import check_model

    check_model(source)
    check_out(out)
    check_figure(figure, figure_size, default=True)
    more = dict(corpus=corpus, text_column=text_column, seq_len=seq_len, val_tokens=val_tokens)
    found = diagnose_streams(source, P, **more, dtype=dtype, device=device)  # type: ignore[arg-type]  # as typed
    path = figure or Path(f"{found.name}-streams-P{found.P}.png")
    show(found, as_json=as_json, out=out, figure=path, drawn=dict(size=figure_size), quiet=quiet)
