"""The command `scalelab predict`: losses, or compute-optimal N and D, from saved fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import check_figure, check_out, print_line, save_figure, saved_line, show_report, stdout
from scalelab.cli.flags import as_typed, describe
from scalelab.cli.lists import pairs
from scalelab.cli.options import (
    OUTPUT,
    AnswerLaw,
    AsJson,
    Figure,
    FigureSize,
    Out,
    Quiet,
    Words,
    list_option,
    option,
)
from scalelab.errors import ScalelabError, UsageError
from scalelab.units import plural


def predict(
    source: Annotated[Path, typer.Argument(metavar="FIT", help="Saved fit (JSON), or a folder of fits.")],
    N: Annotated[Words, list_option("--N", "Parameters, e.g. --N 1.6B 7B, counted as in the fit.")] = None,
    P: Annotated[Words, list_option("--P", "Numbers of streams, e.g. --P 1 16.", (1,))] = None,
    D: Annotated[Words, list_option("--D", "Training tokens, e.g. --D 20B 40B, for laws with D.")] = None,
    flops: Annotated[
        Words,
        list_option("--flops", "Training budgets 6·N·D·P, e.g. 1e19 1e21, for the best N and D of laws with D."),
    ] = None,
    at: Annotated[
        Words,
        list_option("--at", "Other variables of the law: C=1e21 U=10B X=8 lr=1e-3 B=2M.", (), "NAME=VALUE…"),
    ] = None,
    law: AnswerLaw = None,
    register: Annotated[
        Path | None,
        option(
            help="Append the predictions to this file, for `scalelab forecast score`.", panel=OUTPUT, metavar="FILE"
        ),
    ] = None,
    out: Out = None,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict losses with intervals, the plain N of equal loss, and the gain of more streams.

    With --flops, find the best N and D of training budgets instead.
    """
    points = [N, at, *([D] if flops is None else [])]
    if any(values is not None for values in points) == (flops is not None):
        raise UsageError("give either `N` for predictions, or `flops` for the best N and D of a training budget")
    if flops is not None and D is not None:
        raise UsageError("`flops` finds the best D: leave `D` out")
    check_out(out, source)
    if register is not None and flops is not None:
        raise UsageError("--register: only for predictions; leave out `flops`")
    if figure is not None and flops is not None:
        raise UsageError("--figure: only for predictions; leave out `flops`")
    check_figure(figure, figure_size, source)
    from scalelab.api.predictions import answer_all
    from scalelab.fit.answers import Predictions

    found = answer_all(source, N=N, P=P or [1], D=D, flops=flops, law=law, **pairs(at, "--at"))
    if not found.answers:
        first = describe(found.failures[0])
        raise ScalelabError(f"{source}: none of the {found.asked} fits can predict this; first error: {first}")
    if not as_json:
        for answer in found.answers.values():
            show_report(answer.report(), quiet)
            stdout().print()
    for error in found.failures:
        print_line(f"left out: {as_typed(describe(error))}", quiet or as_json)
    rows = [{"fit": str(file), **row} for file, answer in found.answers.items() for row in answer.to_dict()]
    if as_json:
        stdout().out(json.dumps(rows, indent=1), highlight=False)
    if out is not None:
        done = saved_line(out)
        found.write(out, rows)
        print_line(done, quiet or as_json)
    if register is not None:
        new = sum(answer.register(register) for answer in found.answers.values() if isinstance(answer, Predictions))
        print_line(f"registered {plural(new, 'new forecast')} in {register}", quiet or as_json)
    for file, answer in found.answers.items() if figure is not None else ():
        assert figure is not None
        path = figure if len(found.answers) == 1 else figure.with_stem(f"{figure.stem}-{file.stem}")
        done = saved_line(path)
        save_figure(answer.plot(size=figure_size), path)
        print_line(done, quiet or as_json)
