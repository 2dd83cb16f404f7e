"""`scalelab generate`: text from a model with streams, as it comes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scalelab.cli.console import told
from scalelab.cli.options import DEVICE, MODEL, Quiet, Where_, option
from scalelab.errors import DataError, UsageError

_SAMPLING = "Sampling"


def generate(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a model and its tokenizer.")],
    prompt: Annotated[str, option(help="The text to go on from; - reads it from standard input.", panel=MODEL)],
    P: Annotated[
        int | None,
        option("--P", min=1, help="Streams.", panel=MODEL, show_default="those the model was saved with"),
    ] = None,
    max_new_tokens: Annotated[int, option(min=1, help="Tokens at most.", panel=_SAMPLING)] = 128,
    temperature: Annotated[
        float, option(min=0.0, help="0 takes the likeliest token each time.", panel=_SAMPLING)
    ] = 0.0,
    top_p: Annotated[
        float, option(min=0.0, max=1.0, help="Sample from this share of the probability.", panel=_SAMPLING)
    ] = 1.0,
    seed: Annotated[int, option(min=0, help="Seed for temperatures above 0.", panel=_SAMPLING)] = 0,
    chat: Annotated[bool, option("--chat", help="Put the prompt into the model's chat template.", panel=MODEL)] = False,
    dtype: Annotated[str, option(help="fp32 or bf16.", panel=DEVICE, metavar="NAME")] = "fp32",
    device: Where_ = "auto",
    quiet: Quiet = False,
) -> None:
    """Continue a prompt with P streams, streaming the text; speed goes to standard error."""
    from scalelab.api.generation import generate as go_on

    text = _standard_input() if prompt == "-" else prompt

    def stream(tokenizer: Any) -> Any:
        from transformers import TextStreamer

        return TextStreamer(tokenizer, skip_prompt=not chat and prompt == "-", skip_special_tokens=True)

    sampling = dict(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    try:
        made = go_on(
            source,
            text,
            P,
            **sampling,  # type: ignore[arg-type]
            chat=chat,
            dtype=dtype,  # type: ignore[arg-type]  # as typed
            device=device,  # type: ignore[arg-type]
            stream=stream,
            on_note=lambda line: told(line, quiet),
        )
    except BrokenPipeError:  # the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    told(made.speed, quiet)


def _standard_input() -> str:
    if sys.stdin is None:
        raise UsageError("--prompt -: standard input is closed")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"--prompt -: standard input is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
