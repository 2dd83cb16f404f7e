"""The command `scalelab import`: runs of other tools as records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import print_line, show
from scalelab.cli.lists import pairs
from scalelab.cli.options import DATA, OUTPUT, AsJson, Quiet, Words, list_option, option
from scalelab.units import plural


def import_(
    source: Annotated[Path, typer.Argument(help="File or folder that another tool wrote.", show_default=False)],
    kind: Annotated[
        str | None,
        option(
            help="Source: wandb, trainer, tensorboard, mlflow, trackio or files.",
            metavar="NAME",
            panel=DATA,
            show_default="detected",
        ),
    ] = None,
    columns: Annotated[
        Words, list_option("--map", "Columns or expressions: loss=eval/c4/loss.", (), "NAME=COLUMN…", DATA)
    ] = None,
    n_from: Annotated[
        Words, list_option("--n-from", "N by run name: 190M=190354176, or a YAML map.", (), "PATTERN=N…", DATA)
    ] = None,
    strict: Annotated[bool, option("--strict", help="Import nothing if a run cannot be used.", panel=DATA)] = False,
    out: Annotated[Path, option("-o", "--out", help="Folder for the records.", metavar="FOLDER", panel=OUTPUT)] = Path(
        "results/imported"
    ),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Import runs from W&B, Trainer, TensorBoard, MLflow, trackio or your own files.

    Each run becomes a record with its loss curve and its source. `scalelab results` lists them.
    """
    from scalelab.api.importing import import_runs
    from scalelab.importers.sources import read_map

    sizes: dict[str, str | float] = {}
    for word in n_from or ():
        sizes |= pairs([word], "--n-from") if "=" in word else read_map(Path(word))
    imported = import_runs(source, out, source_kind=kind, columns=pairs(columns, "--map"), n_from=sizes, strict=strict)
    show(imported, as_json=as_json, quiet=quiet)
    print_line(f"imported {plural(len(imported), 'run')} to {out}; next: scalelab results {out}", quiet or as_json)
