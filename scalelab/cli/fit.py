"""`scalelab fit`: fit the parallel law to every group of records, print, save, draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalelab.cli.console import make_table, print_table, stdout
from scalelab.errors import ScalelabError, UsageError
from scalelab.units import format_count, format_number

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from scalelab.fit import FitResult, Group


def fit(
    source: Annotated[str, typer.Argument(help="A folder or file of records, or 'paper' for the published losses.")],
    out: Annotated[Path, typer.Option(help="Folder for the fits (JSON) and figures (PNG).")] = Path("fits"),
    count: Annotated[
        str, typer.Option(help="Which N: paper (non-embedding with streams), backbone or total.")
    ] = "paper",
    delta: Annotated[float, typer.Option(help="Huber threshold on log residuals.")] = 1e-3,
    starts: Annotated[int, typer.Option(min=1, help="Starting points of the optimiser.")] = 300,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of starts and bootstrap.")] = 0,
    figure: Annotated[bool, typer.Option(help="Draw loss over N, a curve for each P.")] = True,
) -> None:
    """Fit L = E + (A / (N·(k ln P + 1)))^α by Huber loss on log residuals.

    Records are fitted in groups of one corpus, tokenizer, training set-up and number of tokens.
    """
    from scalelab import records
    from scalelab.fit import CONVENTIONS, fit_group, group_records

    if count not in CONVENTIONS:
        raise UsageError(f"--count {count}: choose one of {', '.join(CONVENTIONS)}")
    if not 1e-8 <= delta <= 1e3:
        raise UsageError(f"--delta {delta}: choose between 1e-8 and 1e3")
    console = stdout()
    failures = []
    groups = group_records(records.load(source))
    for group in groups:
        try:
            result = fit_group(group, None, count, delta, starts, draws, seed)
        except ScalelabError as error:
            console.print(f"not fitted: {error}", style="red", soft_wrap=True)
            failures.append(error)
            continue
        name = group.slug if count == "paper" else f"{group.slug}-{count}"
        paths = [out / f"{name}.json"]
        result.save(paths[0])
        if figure:
            paths.append(_draw(result, paths[0].with_suffix(".png")))
        _show(console, group, result)
        console.print(f"saved {' and '.join(map(str, paths))}\n", soft_wrap=True)
    if len(failures) == len(groups):
        raise ScalelabError(f"{source}: none of {len(groups)} groups of records could be fitted")


def _draw(result: FitResult, path: Path) -> Path:
    from scalelab.plot import plot_loss

    plot_loss(result).savefig(path, dpi=150)
    return path


def _show(console: Console, group: Group, result: FitResult) -> None:
    from scalelab.fit import CONVENTIONS

    table = make_table("<parameter", "value", "<95 % interval", "<unit")
    for parameter in result.law_object.parameters:
        name = parameter.name
        value = "not estimated" if name in result.fixed else format_number(result.values[name])
        table.add_row(name, value, _interval_text(result.interval(name)), parameter.unit)
    print_table(console, group.title, table)
    console.print(
        f"{result.law_object.equation(result.values)}   (N: {CONVENTIONS[result.convention].meaning})\n"
        f"R² {result.r_squared:.4f}, objective {result.objective:.6e}, {result.n_runs} runs, "
        f"{result.agreement:.0%} of starts agree",
        soft_wrap=True,
    )
    print_table(console, "predicted over measured, %", _residuals(group, result))
    for note in result.notes:
        console.print(f"note: {note.message} ({note.code})", style="yellow", soft_wrap=True)


def _interval_text(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "none"
    dash = "–" if interval[0] >= 0 else " to "
    return dash.join(format_number(end, 3) for end in interval)


def _residuals(group: Group, result: FitResult) -> Table:
    """Relative residuals as a grid: a row a backbone, a column a P, a value a run."""
    sizes = group.records["n_params_backbone"].fillna(group.records["n_params"])
    streams = group.records["n_streams"]
    table = make_table("N of backbone", *(f"P = {P}" for P in result.P_levels))
    for size in sorted(sizes.unique()):
        cells = []
        for P in result.P_levels:
            here = (sizes == size) & (streams == P)
            cells.append(" ".join(f"{100 * r:+.2f}" for r, use in zip(result.residuals, here, strict=True) if use))
        table.add_row(format_count(size), *cells)
    return table
