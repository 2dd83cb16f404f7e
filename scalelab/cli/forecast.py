"""The command `scalelab forecast score`: registered forecasts against the runs that came after them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import check_figure, check_out, show
from scalelab.cli.lists import pairs
from scalelab.cli.options import AsJson, Columns, Figure, FigureSize, Out, Quiet, Source, Where
from scalelab.errors import UsageError

_ACTIONS = ("score",)


def forecast(
    action: Annotated[str, typer.Argument(metavar="score", help="The only action.", show_default=False)],
    forecasts: Annotated[
        Path, typer.Argument(metavar="FILE", help="Forecasts of scalelab predict --register.", show_default=False)
    ],
    source: Source,
    columns: Columns = None,
    where: Where = None,
    out: Out = None,
    figure: Figure = None,
    figure_size: FigureSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score forecasts that `scalelab predict --register` wrote: errors on later runs, and how often intervals held.

    `scalelab forecast score FILE DATA` compares each with the runs of DATA that came after it. A run is that of a
    forecast if P is the same and N and D agree within 1 %.
    """
    if action not in _ACTIONS:
        raise UsageError(f"forecast {action}: use scalelab forecast score FILE DATA")
    check_out(out, source, forecasts)
    check_figure(figure, figure_size, source, forecasts)
    from scalelab.api.forecasting import score_forecasts

    found = score_forecasts(forecasts, source, columns=pairs(columns, "--map") or None, where=where)
    show(found, as_json=as_json, out=out, figure=figure, drawn={"size": figure_size}, quiet=quiet)
