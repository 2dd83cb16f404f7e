"""The command `scalelab forecast score`: registered forecasts against the runs that came after them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import check_figure, check_out, show
from scalelab.cli.lists import pairs
from scalelab.cli.options import AsJson, Columns, Figure, FigureSize, Out, Quiet, Source, Where


def score(
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
    """Compare registered forecasts with the runs that came after them: errors, and how often intervals held.

    A run is that of a forecast if P is the same and N and D agree within 1 %.
    """
    check_out(out, source, forecasts)
    check_figure(figure, figure_size, source, forecasts)
    from scalelab.api.forecasting import score_forecasts

    found = score_forecasts(forecasts, source, columns=pairs(columns, "--map") or None, where=where)
    show(found, as_json=as_json, out=out, figure=figure, drawn={"size": figure_size}, quiet=quiet)
