"""The command `scalelab report`: runs, fits, plans and costs as one HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from scalelab.cli.console import print_line, saved_line, stderr
from scalelab.cli.flags import FLAGS
from scalelab.cli.lists import pairs
from scalelab.cli.options import (
    DEVICE,
    LAW,
    LIMITS,
    OUTPUT,
    Best,
    Columns,
    Count,
    Draws,
    FitSeed,
    Points,
    Quiet,
    Starts,
    Where,
    option,
)
from scalelab.units import format_bytes


def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE", help="Folders of records, tables, 'paper', or saved fits (JSON).", show_default=False
        ),
    ],
    law: Annotated[
        str | None,
        option(
            help="Law to fit: parallel, joint, chinchilla, …; file.py:NAME.",
            panel=LAW,
            metavar="NAME",
            show_default="by what varies",
        ),
    ] = None,
    columns: Columns = None,
    points: Points = "auto",
    best: Best = False,
    where: Where = None,
    count: Count = "paper",
    starts: Starts = 300,
    draws: Draws = 1000,
    seed: FitSeed = 0,
    no_laws: Annotated[bool, option("--no-laws", help="Compare no laws.", panel=LAW)] = False,
    memory: Annotated[
        str | None,
        option(help="Limit of the plan, e.g. 4GB or 4GiB.", show_default="that of the largest plain run", panel=LIMITS),
    ] = None,
    latency: Annotated[
        str | None,
        option(
            help="Limit of the plan on a request, e.g. 500ms.",
            show_default="that of the largest plain run",
            panel=LIMITS,
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        option(help="Device of plan and costs, from scalelab cost --list-hardware.", panel=DEVICE, metavar="NAME"),
    ] = None,
    no_plan: Annotated[bool, option("--no-plan", help="Add no plan and no costs.", panel=LIMITS)] = False,
    title: Annotated[
        str | None, option(help="Title of the page.", panel=OUTPUT, metavar="TEXT", show_default="the sources' names")
    ] = None,
    out: Annotated[Path, option("-o", "--out", help="HTML file to write.", metavar="FILE", panel=OUTPUT)] = Path(
        "report.html"
    ),
    force: Annotated[bool, option("--force", help="Replace a file that is not a report.", panel=OUTPUT)] = False,
    quiet: Quiet = False,
) -> None:
    """Write a report of runs and fits: one HTML file that opens from disk and can be sent around.

    It shows the runs with their loss curves, the fit of each group with notes on what to do, a comparison of laws, a
    plan with the cost of streams against a larger N, and buttons to download the data.
    """
    command = _command(locals())
    from scalelab.api.reporting import report as write_report

    done = saved_line(out)
    made = write_report(
        *sources,
        out=out,
        title=title,
        law=law,
        columns=pairs(columns, "--map") or None,
        where=where,
        points=points,  # type: ignore[arg-type]  # as typed
        best=best,
        count=count,  # type: ignore[arg-type]
        starts=starts,
        draws=draws,
        seed=seed,
        laws=not no_laws,
        plan=not no_plan,
        memory=memory,
        latency=latency,
        gpu=gpu,
        force=force,
        command=command,
        progress=stderr(quiet),
    )
    for text in made.left_out:
        print_line(f"left out: {text}", quiet)
    print_line(f"{done} ({format_bytes(made.n_bytes, binary=False)})", quiet)


def _command(given: Mapping[str, Any]) -> str:
    """Return the command line with the options that are not the default; without the folder of the output."""
    words = ["scalelab", "report", *given["sources"]]
    for name, parameter in signature(report).parameters.items():
        value = given[name]
        if name in ("sources", "quiet", "force") or value == parameter.default:
            continue
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        values = value if isinstance(value, list) else [value.name if isinstance(value, Path) else str(value)]
        words += [flag] if value is True else [flag, *values]
    return shlex.join(words)
