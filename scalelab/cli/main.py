"""The command line: parse, call the library, print; one line for every error."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from scalelab import __version__
from scalelab.cli.compare import compare
from scalelab.cli.convert import convert
from scalelab.cli.cost import cost
from scalelab.cli.diagnose import diagnose
from scalelab.cli.fit import fit
from scalelab.cli.generate import generate
from scalelab.cli.import_ import import_
from scalelab.cli.lists import ListCommand
from scalelab.cli.plan import plan
from scalelab.cli.predict import predict
from scalelab.cli.results import ResultsCommand, results
from scalelab.cli.sweep import sweep
from scalelab.cli.train import train
from scalelab.cli.watch import watch
from scalelab.errors import ScalelabError

app = typer.Typer(
    name="scalelab",
    help="How many parameters N and parallel streams P to train and serve, and how sure.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(cls=ListCommand)(sweep)
app.command(cls=ResultsCommand)(results)
app.command()(watch)
app.command("import", cls=ListCommand)(import_)
app.command(cls=ListCommand)(fit)
app.command(cls=ListCommand)(predict)
app.command(cls=ListCommand)(cost)
app.command(cls=ListCommand)(compare)
app.command()(plan)
app.command(cls=ListCommand)(convert)
app.command()(train)
app.command()(diagnose)
app.command()(generate)


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
    """Run the command line. Returns the exit code: 0 done, 1 failed, 2 misused, 130 interrupted, 143 by SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without α gets a ? and no traceback
            stream.reconfigure(errors="replace")
    try:
        code = app(args=args, standalone_mode=False)
        if code == 130:
            return _complain("interrupted", code)
        return code if isinstance(code, int) else 0
    except ScalelabError as error:
        return _complain(str(error), error.exit_code)
    except typer.TyperException as error:
        message = error.format_message()
        return _complain(message, error.exit_code) if message else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except OSError as error:
        return _complain(f"{error.filename or 'input/output'}: {error.strerror or error}", 1)


def _complain(message: str, code: int) -> int:
    print(f"scalelab: {' '.join(message.split())}", file=sys.stderr)
    return code
