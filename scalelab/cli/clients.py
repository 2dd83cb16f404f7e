"""The commands `scalelab serve` and `scalelab lm-eval`, which start other programs with models with streams."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.options import MODEL, option
from scalelab.errors import MissingPackageError, UsageError

# Of a command that passes the options that it does not know on to another program.
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model and its tokenizer.")]
Streams = Annotated[int | None, option("--P", min=1, help="Number of streams.", panel=MODEL, show_default="as saved")]


def serve(context: typer.Context, source: Model, P: Streams = None) -> None:
    """Serve a model with P streams over HTTP, with the API of OpenAI.

    This starts `transformers serve`. Its options, such as --host, --port, --dtype and --quantization, are passed on.
    """
    _need("serve", "fastapi", "openai", "uvicorn")
    with _streams(source, P):
        from transformers.cli.transformers import app

        app(args=["serve", str(source), *context.args], prog_name="scalelab")


def lm_eval(context: typer.Context, source: Model, P: Streams = None) -> None:
    """Evaluate a model with P streams with the command of lm-eval.

    Its options, such as --tasks, --batch_size and --output_path, are passed on. `scalelab eval` compares several P.
    """
    _refuse_other_model(context.args)
    _need("lm-eval", "lm_eval")
    with _streams(source, P):
        from lm_eval.__main__ import cli_evaluate

        own = ["--model", "hf", "--model_args", f"pretrained={source}"]  # lm-eval merges further --model_args
        before, sys.argv = sys.argv, ["lm-eval", "run", *own, *context.args]
        try:
            cli_evaluate()
        finally:
            sys.argv = before


def _refuse_other_model(words: list[str]) -> None:
    """Raise `UsageError` if options for lm-eval name another model."""
    for word in words:
        flag = word.partition("=")[0]
        if flag in ("--model", "-M", "pretrained") or "=pretrained=" in word or ",pretrained=" in word:
            raise UsageError(f"{flag}: the model is the folder; leave it out")


@contextmanager
def _streams(folder: Path, P: int | None) -> Iterator[None]:
    """Let every loader find models with streams in the body, and load them with P streams.

    Raises:
        UsageError: The model has no bank of P streams.
        DataError: The folder has no such model.
    """
    from scalelab.model import initial_streams
    from scalelab.model.checkpoint import prepare_loading, saved_streams

    saved = saved_streams(prepare_loading(folder))
    if P is not None and P not in saved:
        reason = f"{folder} has banks for {', '.join(map(str, saved))}; choose one, or add a bank with scalelab convert"
        raise UsageError(reason, argument="P", value=P)
    with initial_streams(P):
        yield


def _need(command: str, *packages: str) -> None:
    for name in packages:
        if find_spec(name) is None:
            raise MissingPackageError(
                f"{command} needs {name}, which is not installed: pip install 'scalelab[clients]'"
            )
