"""The command `scalelab convert`: streams for a pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import print_line, show
from scalelab.cli.options import (
    MODEL,
    AsJson,
    Corpus,
    DeviceChoice,
    DtypeName,
    NewFolder,
    Quiet,
    SeqLen,
    TextColumn,
    ValTokens,
    Words,
    list_option,
    option,
)

_STREAMS = (2, 4, 8)


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder with config.json, safetensors, tokenizer.json.")
    ],
    out: NewFolder,
    P: Annotated[
        Words, list_option("--P", "Numbers of streams, each with its own bank.", _STREAMS, panel=MODEL)
    ] = None,
    prefix_tokens: Annotated[
        int | None,
        option(
            min=1,
            help="Prefix length of each stream.",
            panel=MODEL,
            show_default="48, at most 1/8 of the context",
        ),
    ] = None,
    start: Annotated[
        str,
        option(
            help="Initial prefixes: text (keys and values of text), moments (their mean and variance) or normal.",
            panel=MODEL,
            metavar="NAME",
        ),
    ] = "text",
    aggregation: Annotated[
        str | None,
        option(
            help="Aggregator: dynamic (the paper's), mean or channel.",
            panel=MODEL,
            metavar="NAME",
            show_default="dynamic",
        ),
    ] = None,
    draws: Annotated[
        int | None,
        option(min=1, show_default="8", help="Text samples to try; the best is kept.", panel=MODEL),
    ] = None,
    seed: Annotated[int, option(min=0, max=2**32 - 1, help="Seed of the text samples.", panel=MODEL)] = 0,
    corpus: Corpus = "stdlib",
    text_column: TextColumn = "text",
    seq_len: SeqLen = None,
    val_tokens: ValTokens = 8192,
    dtype: DtypeName = "auto",
    device: DeviceChoice = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Add streams to a pretrained model, measure its loss with them, and save it.

    Losses are compared with the base model without prefixes. Cosine compares the final states of two streams, ρ their
    losses over tokens; streams with 1 are copies. --P 1 adds one prefix, as in prefix tuning.
    """
    from scalelab.api.conversion import convert as give_streams

    found = give_streams(
        source,
        out,
        P or _STREAMS,  # type: ignore[arg-type]  # as typed
        prefix_tokens=prefix_tokens,
        start=start,  # type: ignore[arg-type]
        aggregation=aggregation,  # type: ignore[arg-type]
        corpus=corpus,
        text_column=text_column,
        seq_len=seq_len,
        val_tokens=val_tokens,
        draws=draws,
        seed=seed,
        dtype=dtype,  # type: ignore[arg-type]
        device=device,  # type: ignore[arg-type]
    )
    show(found, as_json=as_json, quiet=quiet)
    print_line(f"next: scalelab train {out} --P {max(bank.P for bank in found.banks)} -o …", quiet or as_json)
