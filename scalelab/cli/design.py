"""The command `scalelab design`: the runs that most lower the doubt of a target within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import check_figure, check_out, print_line, saved_line, show
from scalelab.cli.lists import pairs
from scalelab.cli.options import (
    DATA,
    LAW,
    OUTPUT,
    AsJson,
    Columns,
    Count,
    Figure,
    FigureSize,
    FitSeed,
    Quiet,
    Where,
    Words,
    list_option,
    option,
)
from scalelab.errors import UsageError

_CANDIDATES = "Candidates"


def design(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FIT_OR_DATA", help="Known runs: folder, table or saved fit.", show_default="none: a pilot"
        ),
    ] = None,
    target: Annotated[
        Words,
        list_option(
            "--target", "What to learn: N=7B,P=8; 'N=7B,P=8 vs N=9B'; a parameter such as k; laws.", metavar="TARGET…"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        option(help="FLOPs (1e15FLOP), compute time (2h), or a share of finished runs (5%).", metavar="AMOUNT"),
    ] = None,
    N: Annotated[Words, list_option("--N", "Parameters, e.g. 50k 0.2M.", panel=_CANDIDATES)] = None,
    P: Annotated[Words, list_option("--P", "Numbers of streams.", panel=_CANDIDATES)] = None,
    D: Annotated[Words, list_option("--D", "Training tokens.", panel=_CANDIDATES)] = None,
    candidates: Annotated[
        Path | None, option(help="Table of candidates instead of a grid.", panel=_CANDIDATES, metavar="FILE")
    ] = None,
    price: Annotated[
        str | None,
        option(help="Its column of prices.", panel=_CANDIDATES, metavar="COLUMN", show_default="6·N·D·P"),
    ] = None,
    seeds: Annotated[Words, list_option("--seed", "Seeds of each chosen run.", (0,), panel=_CANDIDATES)] = None,
    most: Annotated[int, option(min=1, help="Runs at most.", panel=_CANDIDATES)] = 24,
    update: Annotated[
        Path | None,
        option(
            help="Spec of an earlier design whose runs are done: go on with its budget.", panel=DATA, metavar="FILE"
        ),
    ] = None,
    columns: Columns = None,
    where: Where = None,
    count: Count = "paper",
    laws: Annotated[Words, list_option("--laws", "Laws to consider; all that suit by default.", panel=LAW)] = None,
    draws: Annotated[int, option(min=50, help="Draws of the parameters.", panel=LAW)] = 400,
    fit_seed: FitSeed = 0,
    out: Annotated[
        Path | None,
        option(
            "-o",
            "--out",
            help="Write a sweep spec (.yaml), or all numbers (.json, .csv).",
            metavar="FILE",
            panel=OUTPUT,
        ),
    ] = None,
    force: Annotated[bool, option("--force", help="Replace an existing spec.", panel=OUTPUT)] = False,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Choose the runs that most lower the doubt of a target within a budget, and write a sweep of them.

    Over all plausible laws and optima, each candidate run is judged by how much its loss would narrow the target for
    its price. Without known runs the design is a pilot that fills the space.
    """
    from scalelab.api.design_specs import check_spec, sweep_command
    from scalelab.api.designs import design as find_design

    spec = out is not None and out.suffix in (".yaml", ".yml")
    if out is not None and not spec and out.suffix not in (".json", ".csv"):
        raise UsageError("must end in .yaml, .json or .csv", argument="out", value=str(out))
    if spec and out is not None:
        check_spec(out, force)
    else:
        check_out(out, source)
    check_figure(figure, figure_size, source)
    found = find_design(
        source,
        target,
        budget,
        N=N,
        P=P,
        D=D,
        candidates=candidates,
        price=price,
        laws=laws,
        seeds=0 if seeds is None else seeds,
        most=most,
        columns=pairs(columns, "--map") or None,
        where=where,
        count=count,
        update=update,
        draws=draws,
        seed=fit_seed,
    )
    more = {} if spec else {"out": out}
    show(found, as_json=as_json, figure=figure, drawn={"size": figure_size}, quiet=quiet, **more)
    if spec and out is not None and found.prices:
        done = saved_line(out)
        found.save(out, force)
        print_line(done, quiet or as_json)
        print_line(f"next: {sweep_command(found, out)}", quiet or as_json)
