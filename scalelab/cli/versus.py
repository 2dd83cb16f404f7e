"""The command `scalelab versus`: the compute that one recipe saves over another at equal loss."""

from __future__ import annotations

from typing import Annotated

import typer

from scalelab.cli.console import check_figure, check_out, show
from scalelab.cli.lists import pairs
from scalelab.cli.options import (
    DATA,
    DEVICE,
    LAW,
    AsJson,
    Columns,
    Count,
    Draws,
    Figure,
    FigureSize,
    FitSeed,
    Out,
    Quiet,
    Starts,
    Words,
    list_option,
    option,
)


def versus(
    first: Annotated[str, typer.Argument(metavar="A", help="Runs of the baseline: folder, table, or 'paper'.")],
    second: Annotated[
        str | None, typer.Argument(metavar="B", help="Runs of the other recipe.", show_default="A, with --against")
    ] = None,
    where: Annotated[
        str | None,
        option(help="Rows of A, e.g. 'P == 1'; of B too without --against.", panel=DATA, metavar="CONDITION"),
    ] = None,
    against: Annotated[
        str | None, option(help="Rows of B, e.g. 'P == 4'.", panel=DATA, metavar="CONDITION", show_default="as --where")
    ] = None,
    names: Annotated[
        Words, list_option("--names", "Names of the two recipes, e.g. dense MoE.", (), "A B", panel=DATA)
    ] = None,
    columns: Columns = None,
    count: Count = "paper",
    factor: Annotated[
        str | None,
        option(help="B multiplies N, D or compute.", panel=LAW, metavar="NAME", show_default="N, if the law has it"),
    ] = None,
    law: Annotated[
        str | None, option(help="Law that both share.", panel=LAW, metavar="NAME", show_default="by what varies")
    ] = None,
    starts: Starts = 100,
    draws: Draws = 1000,
    test_draws: Annotated[int, option(min=0, help="Bootstrap data sets of each test.", panel=LAW)] = 500,
    seed: FitSeed = 0,
    gpu: Annotated[
        str | None,
        option(help="Compare the time to serve a request on this device.", panel=DEVICE, metavar="NAME"),
    ] = None,
    out: Out = None,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare two recipes by one law that they share: the compute that B saves over A at equal loss.

    The recipes may be two folders, or rows of one: scalelab versus results/mine --where 'P == 1' --against 'P == 4'.
    Nested models and bootstrap tests say whether floor and exponents are shared.
    """
    from scalelab.api.recipes import compare_recipes

    check_out(out, first, second)
    check_figure(figure, figure_size, first, second)
    options = dict(factor=factor, law=law, gpu=gpu, count=count, starts=starts, draws=draws, test_draws=test_draws)
    found = compare_recipes(
        first,
        second,
        where=where,
        against=against,
        names=names,
        columns=pairs(columns, "--map") or None,
        seed=seed,
        **options,  # type: ignore[arg-type]  # as typed
    )
    show(found, as_json=as_json, out=out, figure=figure, drawn=dict(size=figure_size), quiet=quiet)
