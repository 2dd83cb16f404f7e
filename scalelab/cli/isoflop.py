"""The command `scalelab isoflop`: compute-optimal N and D from runs at equal training FLOPs."""

from __future__ import annotations

from typing import Annotated

import typer

from scalelab.cli.console import check_figure, check_out, show
from scalelab.cli.lists import pairs
from scalelab.cli.options import (
    DATA,
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
    Where,
    Words,
    list_option,
    option,
)


def isoflop(
    source: Annotated[str, typer.Argument(metavar="DATA", help="Folder of records or table.")],
    budgets: Annotated[
        Words,
        list_option(
            "--budgets", "Training FLOPs, e.g. 1e18 1e19, or a column of them; recognised by default.", panel=DATA
        ),
    ] = None,
    flops: Annotated[Words, list_option("--flops", "Other budgets to answer for, e.g. 1e24.")] = None,
    basis: Annotated[
        str | None,
        option(
            help="Training FLOPs: 6NDP or recorded.",
            panel=DATA,
            metavar="NAME",
            show_default="the one that forms budgets",
        ),
    ] = None,
    window: Annotated[
        float | None,
        option(help="Use sizes within this factor of each minimum.", panel=DATA, metavar="FACTOR", show_default="all"),
    ] = None,
    columns: Columns = None,
    where: Where = None,
    count: Count = "paper",
    law: Annotated[
        str | None,
        option(help="Law to compare with.", panel=LAW, metavar="NAME", show_default="chinchilla; joint for several P"),
    ] = None,
    starts: Starts = 100,
    draws: Draws = 1000,
    seed: FitSeed = 0,
    out: Out = None,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the best N and D at equal training FLOPs, and how they grow with compute.

    A quadratic of the loss in ln N at each budget gives the best N; exponents are compared with those of a fitted law
    and of loss curves. With several P, the lowest losses tell whether streams pay at equal compute.
    """
    from scalelab.api.isoflops import isoflop as find_minima

    check_out(out, source)
    check_figure(figure, figure_size, source)
    more = dict(basis=basis, window=window, law=law, where=where, count=count, starts=starts, draws=draws, seed=seed)
    mapped = pairs(columns, "--map") or None
    found = find_minima(source, budgets=budgets, flops=flops, columns=mapped, **more)  # type: ignore[arg-type]
    show(found, as_json=as_json, out=out, figure=figure, drawn=dict(size=figure_size), quiet=quiet)
