"""`scalelab diagnose`: are the streams of a model different, and does the mixture use them?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import check_out, show
from scalelab.cli.options import (
    MODEL,
    OUTPUT,
    AsJson,
    Corpus,
    DtypeName,
    Out,
    Quiet,
    SeqLen,
    TextColumn,
    ValTokens,
    Where_,
    option,
)


def diagnose(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a model with streams.")],
    P: Annotated[
        int | None,
        option("--P", min=2, help="Streams.", panel=MODEL, show_default="those the model was saved with"),
    ] = None,
    corpus: Corpus = "stdlib",
    text_column: TextColumn = "text",
    seq_len: SeqLen = None,
    val_tokens: ValTokens = 32768,
    dtype: DtypeName = "auto",
    device: Where_ = "auto",
    out: Out = None,
    figure: Annotated[
        Path | None,
        option(
            help="Picture of the weights over tokens.",
            panel=OUTPUT,
            metavar="FILE",
            show_default="MODEL-streams-P….png",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Mixture weights, how alike the streams are, warnings, and a picture of the weights over tokens.

    Cosine is between two streams' final states, ρ the correlation of their own losses over tokens: at 1 they are
    copies, and above 0.99 the warning is stream_collapse. weight_monoculture: the mixture leans on one stream.
    """
    from scalelab.api.diagnosis import diagnose as look
    from scalelab.api.loading import check_figure, check_model

    check_model(source)
    check_out(out)
    if figure is not None:
        check_figure(figure)
    more = dict(corpus=corpus, text_column=text_column, seq_len=seq_len, val_tokens=val_tokens)
    found = look(source, P, **more, dtype=dtype, device=device)  # type: ignore[arg-type]  # as typed
    picture = figure or Path(f"{found.name}-streams-P{found.P}.png")
    show(found, as_json=as_json, out=out, figure=picture, quiet=quiet)
