"""The command `scalelab pairs`: runs that differ in one setting, compared in pairs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from scalelab.cli.console import check_figure, check_out, show
from scalelab.cli.lists import pairs as key_values
from scalelab.cli.options import (
    DATA,
    AsJson,
    Columns,
    Figure,
    FigureSize,
    Out,
    Quiet,
    Where,
    Words,
    list_option,
    option,
)


def pairs(
    source: Annotated[str, typer.Argument(metavar="DATA", help="Folder of records, table, or 'paper'.")],
    by: Annotated[str, option(help="Setting to compare: P, D, lr, aggregation, …", metavar="NAME")] = "P",
    baseline: Annotated[
        str | None,
        option(help="Level that others are compared with, or previous.", metavar="LEVEL", show_default="the smallest"),
    ] = None,
    each: Annotated[str | None, option(help="Compare at each level of this setting apart.", metavar="NAME")] = None,
    along: Annotated[
        str | None,
        option(help="Follow the differences over this setting, by doublings or between two levels.", metavar="NAME"),
    ] = None,
    best: Annotated[
        str | None,
        option(help="Compare the best level of this setting, such as lr, instead of losses.", metavar="NAME"),
    ] = None,
    value: Annotated[str, option(help="Column or expression to compare.", metavar="COLUMN")] = "loss",
    ignore: Annotated[
        Words, list_option("--ignore", "Settings in which the runs of a pair may differ.", panel=DATA)
    ] = None,
    columns: Columns = None,
    where: Where = None,
    out: Out = None,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare runs that differ in one setting and agree in all others, the seed included.

    The noise of a seed cancels in part within a pair. For learning rates at each P: scalelab pairs results/mine --by lr
    --each P. For a gain of streams that changes with the tokens: scalelab pairs results/mine --along D. For the
    exponent of the best learning rate: scalelab pairs results/mine --best lr --by D --along D.
    """
    from scalelab.api.pairing import pairs as compare

    check_out(out, source)
    check_figure(figure, figure_size, source)
    mapped = key_values(columns, "--map") or None
    given: dict[str, Any] = dict(baseline=baseline, each=each, along=along, value=value, best=best, ignore=ignore or ())
    found = compare(source, by, **given, columns=mapped, where=where)
    show(found, as_json=as_json, out=out, figure=figure, drawn=dict(size=figure_size), quiet=quiet)
