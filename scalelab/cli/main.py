"""Entry point of the command line: commands, exit codes and errors in one line."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from scalelab import __version__
from scalelab.cli.chat import chat
from scalelab.cli.clients import PASSES_ON, lm_eval, serve
from scalelab.cli.compare import compare
from scalelab.cli.convert import convert
from scalelab.cli.cost import cost
from scalelab.cli.design import design
from scalelab.cli.diagnose import diagnose
from scalelab.cli.downstream import downstream
from scalelab.cli.eval import eval_
from scalelab.cli.explore import explore
from scalelab.cli.fit import fit
from scalelab.cli.flags import describe
from scalelab.cli.forecast import forecast
from scalelab.cli.generate import generate
from scalelab.cli.import_ import import_
from scalelab.cli.isoflop import isoflop
from scalelab.cli.lists import ListCommand
from scalelab.cli.pairs import pairs
from scalelab.cli.plan import plan
from scalelab.cli.predict import predict
from scalelab.cli.report import report
from scalelab.cli.results import results
from scalelab.cli.sweep import sweep
from scalelab.cli.train import train
from scalelab.cli.versus import versus
from scalelab.cli.watch import watch
from scalelab.errors import ScalelabError
from scalelab.import_logs import quiet_imports
from scalelab.visible import visible

# Packages of the extra `train`.
_TRAIN = ("torch", "transformers", "tokenizers", "safetensors", "filelock", "platformdirs")
_RUNS, _ANALYSIS, _MODELS = "Runs", "Laws, costs, plans", "Models with streams"

app = typer.Typer(
    name="scalelab",
    help="Scaling laws over parameters N and parallel streams P: train sweeps, fit laws, price inference, plan models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command, panel in (
    *((command, _RUNS) for command in (sweep, results, watch)),
    *((command, _ANALYSIS) for command in (fit, predict, forecast, design, isoflop, versus, pairs, downstream)),
    *((command, _ANALYSIS) for command in (cost, compare, plan, report, explore)),
    *((command, _MODELS) for command in (convert, train, diagnose, generate, chat)),
):
    app.command(cls=ListCommand, rich_help_panel=panel)(command)
    if command is watch:
        app.command("import", cls=ListCommand, rich_help_panel=_RUNS)(import_)
    if command is diagnose:
        app.command("eval", cls=ListCommand, rich_help_panel=_MODELS)(eval_)
app.command(cls=ListCommand, rich_help_panel=_MODELS, context_settings=PASSES_ON)(serve)
app.command("lm-eval", cls=ListCommand, rich_help_panel=_MODELS, context_settings=PASSES_ON)(lm_eval)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scalelab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(args: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 ended by SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without α shows ? instead of a traceback
            stream.reconfigure(errors="replace")
    quiet_imports()
    words = sys.argv[1:] if args is None else args
    command = next((word for word in words if not word.startswith("-")), "")
    try:
        code = app(args=args, standalone_mode=False)
        if code == 130:
            return _complain("interrupted", code)
        return code if isinstance(code, int) else 0
    except ScalelabError as error:
        return _complain(describe(error, command), error.exit_code)
    except typer.TyperException as error:
        message = error.format_message()
        return _complain(message, error.exit_code) if message else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _TRAIN:
            raise
        return _complain(f"{command} needs {error.name}, which is not installed: pip install 'scalelab[train]'", 1)
    except OSError as error:
        return _complain(f"{error.filename or 'input/output'}: {error.strerror or error}", 1)


def _complain(message: str, code: int) -> int:
    print(f"scalelab: {visible(' '.join(message.split()))}", file=sys.stderr)
    return code
