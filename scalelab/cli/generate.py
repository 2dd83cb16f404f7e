"""The command `scalelab generate`: text from a model with streams."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scalelab.cli.console import print_line, silence_stdout
from scalelab.cli.options import DEVICE, MODEL, DeviceChoice, Quiet, option
from scalelab.errors import DataError, UsageError

_SAMPLING = "Sampling"
MaxNewTokens = Annotated[int, option(min=1, help="Maximum number of tokens to generate.", panel=_SAMPLING)]
Temperature = Annotated[float, option(min=0.0, help="Sampling temperature; 0 is greedy decoding.", panel=_SAMPLING)]
TopP = Annotated[float, option(min=0.0, max=1.0, help="Probability mass to sample from.", panel=_SAMPLING)]
SamplingSeed = Annotated[int, option("--seed", min=0, help="Seed of the sampling.", panel=_SAMPLING)]
System = Annotated[
    str | None, option("--system", help="System message of the conversation.", panel=MODEL, metavar="TEXT")
]


def generate(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a model and its tokenizer.")],
    prompt: Annotated[str, option(help="Text to continue; - reads it from standard input.", panel=MODEL)],
    P: Annotated[
        int | None,
        option("--P", min=1, help="Number of streams.", panel=MODEL, show_default="as saved"),
    ] = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: SamplingSeed = 0,
    chat: Annotated[
        bool, option("--chat", help="Apply the model's chat template: one turn of a conversation.", panel=MODEL)
    ] = False,
    system: System = None,
    dtype: Annotated[str, option(help="Precision: fp32 or bf16.", panel=DEVICE, metavar="NAME")] = "fp32",
    device: DeviceChoice = "auto",
    quiet: Quiet = False,
) -> None:
    """Continue a prompt with P streams; the speed goes to standard error."""
    from scalelab.api.generation import generate as continue_prompt

    text = _standard_input() if prompt == "-" else prompt

    def stream(tokenizer: Any) -> Any:
        from transformers import TextStreamer

        return TextStreamer(tokenizer, skip_prompt=chat or prompt == "-", skip_special_tokens=True)

    sampling = dict(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    try:
        made = continue_prompt(
            source,
            text,
            P,
            **sampling,  # type: ignore[arg-type]
            chat=chat,
            system=system,
            dtype=dtype,  # type: ignore[arg-type]  # as typed
            device=device,  # type: ignore[arg-type]
            stream=stream,
            on_note=lambda line: print_line(line, quiet),
        )
    except BrokenPipeError:  # the reader has closed the pipe
        silence_stdout()
        return
    print_line(made.speed, quiet)


def _standard_input() -> str:
    if sys.stdin is None:
        raise UsageError("--prompt -: standard input is closed")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"--prompt -: standard input is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
