"""`scalelab train`: the second stage of a model that has streams."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import show, stderr
from scalelab.cli.options import (
    MODEL,
    TRAINING,
    AsJson,
    Corpus,
    DtypeName,
    NewFolder,
    Quiet,
    SeqLen,
    TextColumn,
    ValTokens,
    Where_,
    option,
)


def train(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model, as scalelab convert writes it.")],
    out: NewFolder,
    P: Annotated[
        int | None,
        option("--P", min=1, help="Streams.", panel=MODEL, show_default="those trained last, or the most"),
    ] = None,
    part: Annotated[
        str,
        option(
            "--train",
            help="streams: only prefixes and mixture learn; all: everything does.",
            panel=TRAINING,
            metavar="NAME",
        ),
    ] = "streams",
    tokens: Annotated[str, option(help="Training tokens, e.g. 100k.", panel=TRAINING)] = "100k",
    batch_size: Annotated[int, option(min=1, help="Sequences of a step.", panel=TRAINING)] = 4,
    lr: Annotated[
        float | None,
        option(help="Peak learning rate.", panel=TRAINING, show_default="3e-2 for streams, 1e-4 for all"),
    ] = None,
    corpus: Corpus = "stdlib",
    text_column: TextColumn = "text",
    seq_len: SeqLen = None,
    val_tokens: ValTokens = 32768,
    seed: Annotated[int, option(min=0, help="Seed of the order of the data.", panel=TRAINING)] = 0,
    dtype: DtypeName = "auto",
    device: Where_ = "auto",
    checkpoint_minutes: Annotated[
        float, option(min=0.0, help="How often a long training saves its state, to resume from.", panel=TRAINING)
    ] = 5.0,
    compile_model: Annotated[bool, option("--compile", help="Use torch.compile.", panel=TRAINING)] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Continue a model with P streams on a corpus; with --train streams its backbone stays bit for bit.

    For one seed every P sees the same text in the same order. States and the curve so far are in OUT.checkpoints until
    OUT is there: the same command goes on from the latest. On several devices: accelerate launch … -m scalelab train …,
    data parallel or with FSDP (which saves no states); --batch-size is of all processes together.
    """
    from scalelab.api.second_stage import train_streams

    found = train_streams(
        source,
        out,
        P,
        part=part,  # type: ignore[arg-type]  # as typed
        tokens=tokens,
        corpus=corpus,
        text_column=text_column,
        seq_len=seq_len,
        batch_size=batch_size,
        lr=lr,
        val_tokens=val_tokens,
        seed=seed,
        dtype=dtype,  # type: ignore[arg-type]
        device=device,  # type: ignore[arg-type]
        checkpoint_minutes=checkpoint_minutes,
        compile_model=compile_model,
        progress=stderr(quiet or as_json),
    )
    show(found, as_json=as_json, quiet=quiet)
