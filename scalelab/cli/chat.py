"""The command `scalelab chat`: a conversation with a model with streams in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalelab.cli.console import print_line, silence_stdout
from scalelab.cli.flags import describe
from scalelab.cli.generate import MaxNewTokens, SamplingSeed, System, Temperature, TopP
from scalelab.cli.options import DEVICE, MODEL, DeviceChoice, Quiet, option
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.visible import visible

if TYPE_CHECKING:
    from scalelab.api.chat import Chat

_HELP = "/P N uses N streams from now on, /reset starts again, /help shows this line, /quit or Ctrl-D ends"
_PROMPT = "> "


def chat(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a model whose tokenizer has a chat template.")
    ],
    P: Annotated[
        int | None,
        option("--P", min=1, help="Number of streams.", panel=MODEL, show_default="as saved"),
    ] = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: SamplingSeed = 0,
    dtype: Annotated[str, option(help="Precision: fp32 or bf16.", panel=DEVICE, metavar="NAME")] = "fp32",
    device: DeviceChoice = "auto",
    quiet: Quiet = False,
) -> None:
    """Chat with a model; /P N switches streams, /reset starts again, /quit ends.

    Messages are lines, typed or from a pipe. Answers appear as they are generated; the speed of each goes to standard
    error.
    """
    from scalelab.api.chat import open_chat

    chat = open_chat(
        source,
        P,
        system=system,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        dtype=dtype,  # type: ignore[arg-type]  # as typed
        device=device,  # type: ignore[arg-type]
    )
    print_line(f"{source.resolve().name}, P = {chat.P}; {_HELP}", quiet)
    typed = sys.stdin is not None and sys.stdin.isatty()
    try:
        for line in _typed_lines() if typed else _piped_lines():
            try:
                if not _answer(chat, line.strip(), quiet):
                    return
            except ScalelabError as error:
                if not typed:  # a script must notice
                    raise
                print_line(describe(error))
            except KeyboardInterrupt:
                if not typed:
                    raise
                print()
                print_line("interrupted: this message and its answer are not part of the conversation")
    except BrokenPipeError:  # the reader has closed the pipe
        silence_stdout()


def _answer(chat: Chat, line: str, quiet: bool) -> bool:
    """Do what a line asks for; return false if it ends the conversation."""
    word, _, rest = line.partition(" ")
    if not line:
        return True
    if not line.startswith("/"):
        made = chat.send(line, _write, lambda note: print_line(note, quiet))
        _write("\n")
        print_line(made.speed, quiet)
    elif line in ("/quit", "/exit"):
        return False
    elif line == "/help":
        print_line(_HELP)
    elif line == "/reset":
        chat.reset()
        print_line("a new conversation", quiet)
    elif word == "/P":
        P = rest.strip()
        if not P.isdecimal() or int(P) not in chat.available:
            have = ", ".join(map(str, chat.available))
            raise UsageError(f"/P {P}: the model has P = {have}; choose one of them")
        chat.set_streams(int(P))
        print_line(f"P = {chat.P}", quiet)
    else:
        raise UsageError(f"{word}: no such command; {_HELP}")
    return True


def _write(text: str) -> None:
    sys.stdout.write(visible(text))
    sys.stdout.flush()


def _typed_lines() -> Iterator[str]:
    """Yield lines of a terminal, with editing and history where Python has readline."""
    with suppress(ImportError):
        import readline  # noqa: F401  # input() uses it
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            print()
            return


def _piped_lines() -> Iterator[str]:
    """Yield lines of standard input, and write them so that the output reads as a conversation."""
    if sys.stdin is None:
        raise UsageError("standard input is closed; give lines, or use scalelab generate --chat")
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input, line {number}: not UTF-8 text ({error.reason})") from None
        _write(f"{_PROMPT}{text}\n")
        yield text
