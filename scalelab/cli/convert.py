"""`scalelab convert`: banks of streams for a pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import show, told
from scalelab.cli.options import (
    MODEL,
    AsJson,
    Corpus,
    DtypeName,
    NewFolder,
    Quiet,
    SeqLen,
    TextColumn,
    ValTokens,
    Where_,
    Words,
    list_option,
    option,
)

_STREAMS = (2, 4, 8)


def convert(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder with config.json, safetensors, tokenizer.")],
    out: NewFolder,
    P: Annotated[Words, list_option("--P", "Streams, a bank for each, e.g. --P 2 4 8.", _STREAMS, panel=MODEL)] = None,
    prefix_tokens: Annotated[
        int | None,
        option(
            min=1,
            help="Prefix length of each stream.",
            panel=MODEL,
            show_default="48, or an eighth of what the model was made for",
        ),
    ] = None,
    start: Annotated[
        str,
        option(
            help="How prefixes begin: text (keys and values of real text), moments (of those), normal.",
            panel=MODEL,
            metavar="NAME",
        ),
    ] = "text",
    aggregation: Annotated[
        str | None,
        option(
            help="How streams are mixed: dynamic (the paper's), mean or channel.",
            panel=MODEL,
            metavar="NAME",
            show_default="dynamic",
        ),
    ] = None,
    draws: Annotated[
        int | None,
        option(min=1, show_default="8", help="Choices of text to try; the best is kept.", panel=MODEL),
    ] = None,
    seed: Annotated[int, option(min=0, max=2**32 - 1, help="Seed of the choice of text.", panel=MODEL)] = 0,
    corpus: Corpus = "stdlib",
    text_column: TextColumn = "text",
    seq_len: SeqLen = None,
    val_tokens: ValTokens = 8192,
    dtype: DtypeName = "auto",
    device: Where_ = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Give a pretrained model streams, say what that does to its loss, and save it.

    Losses are compared with the base: the model without any prefix. Cosine is between two streams' final states, ρ the
    correlation of their losses over tokens: at 1 they are copies. --P 1 adds a prefix without streams: prefix tuning.
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
    told(f"next: scalelab train {out} --P {max(bank.P for bank in found.banks)} -o …", quiet or as_json)
