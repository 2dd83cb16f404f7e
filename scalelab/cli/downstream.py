"""The command `scalelab downstream`: accuracies of larger models from losses and accuracies of smaller ones."""

from __future__ import annotations

from typing import Annotated

from scalelab.cli.console import check_figure, check_out, progress, show
from scalelab.cli.lists import pairs
from scalelab.cli.options import (
    DATA,
    LAW,
    AsJson,
    Columns,
    Draws,
    Figure,
    FigureSize,
    FitSeed,
    Out,
    Quiet,
    Source,
    Starts,
    Where,
    Words,
    list_option,
    option,
)


def downstream(
    source: Source,
    tasks: Annotated[
        Words,
        list_option(
            "--tasks",
            "Columns of accuracies: mmlu=acc_mmlu, or names alone. Default: those of a sweep with eval.",
            (),
            "TASK=COLUMN…",
            DATA,
        ),
    ] = None,
    losses: Annotated[
        Words,
        list_option(
            "--losses", "Columns of the tasks' own losses: mmlu=bpb_mmlu. Default: loss.", (), "TASK=COLUMN…", DATA
        ),
    ] = None,
    N: Annotated[Words, list_option("--N", "Parameters of the models to predict.")] = None,
    P: Annotated[Words, list_option("--P", "Their streams.", (1,))] = None,
    D: Annotated[Words, list_option("--D", "Their training tokens; as many as N are taken as pairs.")] = None,
    columns: Columns = None,
    where: Where = None,
    run: Annotated[str | None, option(help="Column of run ids, for loss curves.", panel=DATA, metavar="COLUMN")] = None,
    smooth: Annotated[int, option(min=1, help="Evaluations at the end of a run whose mean counts.", panel=DATA)] = 1,
    law: Annotated[
        str | None,
        option(
            help="Law of the losses: chinchilla, joint, …", panel=LAW, metavar="NAME", show_default="by what varies"
        ),
    ] = None,
    hold_out: Annotated[
        str | None,
        option(
            help="N from which on runs are left out, to check predictions.",
            panel=LAW,
            metavar="N",
            show_default="the largest",
        ),
    ] = None,
    starts: Starts = 100,
    draws: Draws = 500,
    seed: FitSeed = 0,
    out: Out = None,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict accuracies of larger models: from loss to accuracy in two steps, directly, and both averaged.

    Larger runs are left out to measure how well each way predicts them.
    """
    check_out(out, source)
    check_figure(figure, figure_size, source)
    from scalelab.api.downstream import predict_downstream

    named = None if tasks is None else pairs([t if "=" in t else f"{t}={t}" for t in tasks], "--tasks")
    mapped = pairs(columns, "--map") | ({"run": run} if run else {})
    with progress(quiet or as_json) as report:
        found = predict_downstream(
            source,
            named,
            losses=pairs(losses, "--losses") or None,
            N=N,
            P=P,
            D=D,
            law=law,
            smooth=smooth,
            hold_out=hold_out,
            columns=mapped or None,
            where=where,
            starts=starts,
            draws=draws,
            seed=seed,
            progress=report,
        )
    show(found, as_json=as_json, out=out, figure=figure, drawn={"size": figure_size}, quiet=quiet)
