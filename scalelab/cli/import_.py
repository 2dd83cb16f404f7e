"""`scalelab import`: runs that other tools recorded, as records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import print_text, stdout
from scalelab.cli.lists import list_option, pairs
from scalelab.errors import ScalelabError

_Words = list[str] | None


def import_(
    source: Annotated[Path, typer.Argument(help="A file or folder that another tool wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the records.")] = Path("results/imported"),
    kind: Annotated[
        str | None, typer.Option(help="wandb, trainer, tensorboard, mlflow, trackio or files; else found.")
    ] = None,
    columns: Annotated[
        _Words, list_option("--map", "Columns or expressions: loss=eval/c4/loss.", (), "NAME=COLUMN…")
    ] = None,
    n_from: Annotated[
        _Words, list_option("--n-from", "N by run name: 190M=190354176, or a YAML map.", (), "PATTERN=N…")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Import nothing if a run cannot be used.")] = False,
) -> None:
    """Bring in runs from W&B, Trainer, TensorBoard, MLflow, trackio or files of your own.

    Each run becomes a record with its loss curve and where it came from; `scalelab results` lists them.
    """
    from scalelab.importers import import_runs, write_runs
    from scalelab.importers.sources import read_map

    sizes: dict[str, str | float] = {}
    for word in n_from or ():
        sizes |= pairs([word], "--n-from") if "=" in word else read_map(Path(word))
    imported = import_runs(source, kind, pairs(columns, "--map"), sizes, strict)
    files = write_runs(imported, out)
    console = stdout()
    named = ", ".join(f"{path!r} as {name}" for name, path in imported.columns.items())
    print_text(console, f"using {named}")
    for error in imported.errors[:5]:
        print_text(console, f"left out: {error}", style="red")
    if len(imported.errors) > 5:
        print_text(console, f"left out: {len(imported.errors) - 5} more runs")
    print_text(console, f"imported {len(files)} runs to {out}; scalelab results {out} lists them")
    if strict and imported.errors:
        raise ScalelabError(f"{source}: {len(imported.errors)} runs cannot be used")
