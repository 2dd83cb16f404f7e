"""The command `scalelab train`: second-stage training of a model with streams."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import show, stderr
from scalelab.cli.options import (
    DATA,
    MODEL,
    TRAINING,
    AsJson,
    Corpus,
    DeviceChoice,
    DtypeName,
    NewFolder,
    Quiet,
    SeqLen,
    TextColumn,
    ValTokens,
    option,
)


def train(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, as scalelab convert writes it.")],
    out: NewFolder,
    P: Annotated[
        int | None,
        option("--P", min=1, help="Number of streams.", panel=MODEL, show_default="trained last, or the largest"),
    ] = None,
    part: Annotated[
        str,
        option(
            "--train",
            help="Parameters to train: streams (prefixes and aggregator) or all.",
            panel=TRAINING,
            metavar="NAME",
        ),
    ] = "streams",
    tokens: Annotated[str, option(help="Training tokens, e.g. 100k.", panel=TRAINING)] = "100k",
    batch_size: Annotated[
        int, option(min=1, help="Sequences, conversations or pairs per step, over all processes.", panel=TRAINING)
    ] = 4,
    lr: Annotated[
        float | None,
        option(
            help="Peak learning rate.",
            panel=TRAINING,
            show_default="3e-2 for streams, 1e-4 for all; with --preference a tenth",
        ),
    ] = None,
    corpus: Corpus = "stdlib",
    text_column: TextColumn = "text",
    chat: Annotated[
        Path | None,
        option(help="Conversations: JSONL with messages, or a folder.", panel=DATA, metavar="DATA"),
    ] = None,
    preference: Annotated[
        Path | None,
        option(
            help="Preferences for DPO: JSONL with prompt, chosen and rejected, or a folder.", panel=DATA, metavar="DATA"
        ),
    ] = None,
    beta: Annotated[float, option(help="Weight of the reference with --preference.", panel=TRAINING)] = 0.1,
    seq_len: SeqLen = None,
    val_tokens: ValTokens = 32768,
    seed: Annotated[int, option(min=0, help="Seed of the data order.", panel=TRAINING)] = 0,
    dtype: DtypeName = "auto",
    device: DeviceChoice = "auto",
    checkpoint_minutes: Annotated[float, option(min=0.0, help="Minutes between checkpoints.", panel=TRAINING)] = 5.0,
    compile_model: Annotated[bool, option("--compile", help="Use torch.compile.", panel=TRAINING)] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a model with P streams on text or chat; with --train streams its backbone is unchanged, bit for bit.

    With --chat only the tokens of the assistant count in the loss; with --preference training is DPO, with the model
    before training as reference. All P see the same data in the same order for the same seed. Checkpoints are in
    OUT.checkpoints until OUT is written: the same command resumes from the latest. On several devices: accelerate
    launch … -m scalelab train …, with data parallelism or FSDP (without checkpoints).
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
        chat=chat,
        preference=preference,
        beta=beta,
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
