"""`scalelab fit`: fit a law to every group of records, print, save, draw; or compare laws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalelab.cli.console import print_text, stdout
from scalelab.cli.lists import list_option, pairs
from scalelab.errors import ScalelabError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from scalelab.fit import FitOptions, FitResult, Group
    from scalelab.fit.groups import Points
    from scalelab.laws import Law
    from scalelab.records import Table

_Words = list[str] | None
FIGURES = ("loss", "contours", "residuals", "profiles", "pairs", "predicted")
ALL = "all"


def fit(
    source: Annotated[
        str, typer.Argument(help="A folder of records, a Parquet, CSV or JSONL table, or 'paper'.", show_default=False)
    ],
    law: Annotated[
        str,
        typer.Option(help="A law's name (scalelab.laws.LAWS), file.py:NAME, or all."),
    ] = "parallel",
    columns: Annotated[
        _Words, list_option("--map", "Columns of your own: n_params=N loss=val_loss.", (), "NAME=COLUMN…")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Which rows, e.g. 'n_tokens > 100M and n_streams < 8'.")] = None,
    count: Annotated[
        str, typer.Option(help="Which N: paper (non-embedding with streams), backbone or total.")
    ] = "paper",
    fix: Annotated[_Words, list_option("--fix", "Parameters not to fit: k=0.", (), "NAME=VALUE…")] = None,
    bound: Annotated[_Words, list_option("--bound", "Limits of parameters: alpha=0.1:1.", (), "NAME=LOW:HIGH…")] = None,
    objective: Annotated[
        str, typer.Option(help="huber (on log residuals), log, raw (least squares of either) or asymmetric.")
    ] = "huber",
    delta: Annotated[float, typer.Option(help="Huber threshold on log residuals.")] = 1e-3,
    starts: Annotated[int, typer.Option(min=1, help="Starting points of the optimiser.")] = 300,
    bootstrap: Annotated[str, typer.Option(help="residual, wild or pairs.")] = "residual",
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 1000,
    profile: Annotated[bool, typer.Option("--profile", help="Profile likelihood intervals too.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of starts and bootstrap.")] = 0,
    run: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of run ids, for curves.")] = None,
    points: Annotated[Any, typer.Option(help="Of runs with several rows: final, all, or auto.")] = "auto",
    best: Annotated[bool, typer.Option("--best", help="Only the best run of each configuration.")] = False,
    tie: Annotated[_Words, list_option("--tie", "Parameters that are equal: beta=alpha.", (), "NAME=NAME…")] = None,
    details: Annotated[bool, typer.Option("--details", help="Every residual and note.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Save a fit that explains nothing, or over another one.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if a note is serious or a group fails.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the fits (JSON) and figures (PNG).")] = Path("fits"),
    figure: Annotated[bool, typer.Option(help="Draw figures.")] = True,
    figures: Annotated[
        _Words, list_option("--figures", f"Which: {', '.join(FIGURES)}, all. Default loss.", (), "NAME…")
    ] = None,
) -> None:
    """Fit a law to losses, with intervals, and say what the data do and do not support.

    The default is L = E + (A / (N·(k ln P + 1)))^α by Huber loss on log residuals. Records are fitted
    in groups of one corpus, tokenizer, training set-up and, for laws without D, number of tokens.
    With `--law all` the laws are compared.
    """
    from scalelab import records
    from scalelab.fit import FitOptions, group_records
    from scalelab.laws import get_law

    options = FitOptions(
        convention=count,
        objective=objective,
        delta=delta,
        starts=starts,
        bootstrap=bootstrap,
        draws=draws,
        seed=seed,
        best=best,
        tie=pairs(tie, "--tie"),
        fix={name: _number(value, f"--fix {name}") for name, value in pairs(fix, "--fix").items()},
        bounds={name: _limits(value, f"--bound {name}") for name, value in pairs(bound, "--bound").items()},
    )
    if figures and not figure:
        raise UsageError("--figures and --no-figure: choose one")
    drawn = _figures(figures) if figure else ()
    chosen = None if law == ALL else get_law(law)
    if chosen is None and (
        profile or figures or options != FitOptions(convention=count, starts=starts, seed=seed, best=best)
    ):
        raise UsageError(
            "--law all compares laws by least squares on log losses and saves no fit: of the options "
            "only --map, --run, --points, --best, --where, --count, --starts, --seed and --strict apply to it"
        )
    console = stdout()
    mapped = pairs(columns, "--map") | ({"run": run} if run else {})
    table = records.read(source, mapped, where)
    for line in table.notes:
        print_text(console, line)
    _show_rejected(console, table)
    if chosen is None:
        _compare(console, table, options, source, strict, points)
        return
    groups = group_records(table, by_tokens="D" not in chosen.variables, points=points)
    origin = {"source": str(source), "where": where or "", "map": " ".join(columns or ()), "points": points}
    failures, serious = [], []
    for group in groups:
        try:
            result = _fit_one(
                console, group, chosen, options, out, drawn, profile, origin, _view(details, len(groups)), force
            )
        except UsageError:
            raise
        except ScalelabError as error:
            failures.append(error)
            if len(groups) == 1:
                raise
            print_text(console, f"not fitted: {error}", style="red")
            continue
        serious += [note.code for note in result.notes if note.severity == "serious"]
    if len(failures) == len(groups) or (strict and failures):
        raise ScalelabError(f"{source}: {len(failures)} of {len(groups)} groups of records could not be fitted")
    if strict and serious:
        raise ScalelabError(f"{source}: serious notes ({', '.join(dict.fromkeys(serious))}), and --strict was given")


def _fit_one(
    console: Console,
    group: Group,
    law: Law,
    options: FitOptions,
    out: Path,
    drawn: tuple[str, ...],
    profile: bool,
    origin: dict[str, str],
    view: str,
    force: bool,
) -> FitResult:
    from dataclasses import replace

    from scalelab.cli.fit_tables import show_fit
    from scalelab.fit import fit_group
    from scalelab.fit.files import save_in
    from scalelab.fit.profile import profile_fit

    result = fit_group(group, law, options, _Progress())
    profiles = {}
    if profile or "profiles" in drawn:
        profiles = {p.name: p for name in result.law.names if (p := profile_fit(result, name)) is not None}
    result = replace(result, origin=origin)
    show_fit(console, result, profiles if profile else {}, view)
    path = save_in(result, out, group.slug, force)
    paths = [path]
    for name in drawn:
        place = path.with_name(path.stem + ("" if name == "loss" else f"-{name}") + ".png")
        if _draw(name, result, profiles, place):
            paths.append(place)
    print_text(console, f"saved {', '.join(map(str, paths))}" + ("" if view == "line" else "\n"))
    return result


def _view(details: bool, groups: int) -> str:
    """How much is shown of each fit, so that all together stay within a screen or two."""
    if details:
        return "details"
    return "usual" if groups == 1 else "short" if groups == 2 else "line"


class _Progress:
    """A line on a terminal about how far a fit is, once it takes longer than two seconds."""

    def __init__(self) -> None:
        from time import monotonic

        self._clock = monotonic
        self._began = monotonic()

    def __call__(self, stage: str, share: float) -> None:
        import sys

        if sys.stderr.isatty() and self._clock() - self._began > 2:
            end = "\r\033[K" if share >= 1 else ""
            print(f"\r{stage}: {share:.0%} {end}", end="", file=sys.stderr, flush=True)


def _draw(name: str, result: FitResult, profiles: dict, path: Path) -> bool:
    """Draw one figure to `path`; False where this fit has none of that kind."""
    from scalelab import plot

    if name == "profiles":
        figure = plot.plot_profiles(result, list(profiles.values())) if profiles else None
    elif name == "contours":
        figure = (
            plot.plot_contours(result) if {"N", "P"} <= set(result.law.variables) and len(result.P_levels) > 1 else None
        )
    elif name == "residuals" and "N" not in result.known:
        figure = None
    elif name == "pairs":
        figure = plot.plot_draws(result) if result.draws else None
    else:
        figure = {"loss": plot.plot_loss, "residuals": plot.plot_residuals, "predicted": plot.plot_predicted}[name](
            result
        )
    if figure is None:
        return False
    figure.savefig(path, dpi=150)
    return True


def _compare(console: Console, table: Table, options: FitOptions, source: str, strict: bool, points: Points) -> None:
    """Tables of laws: at each D, and over all D where it varies."""
    from scalelab.cli.fit_tables import show_comparison
    from scalelab.fit import group_records
    from scalelab.fit.select import compare_laws, comparison_data

    over_tokens = [g for g in group_records(table, False, points) if g.records["n_tokens"].nunique() > 1]
    # One D at a time says something about P; without several P, all D together say it all.
    groups = [g for g in group_records(table, True, points) if not over_tokens or g.records["n_streams"].nunique() > 1]
    failures = []
    for group in (*groups, *over_tokens):
        try:
            comparison = compare_laws(comparison_data(group, options), group.title, options)
        except ScalelabError as error:
            failures.append(error)
            print_text(console, f"not compared: {error}", style="red")
            continue
        show_comparison(console, comparison)
    tried = len(groups) + len(over_tokens)
    if len(failures) == tried or (strict and failures):
        raise ScalelabError(f"{source}: {len(failures)} of {tried} groups of records are too small to compare laws")


def _show_rejected(console: Console, table: Table) -> None:
    from scalelab.records.schema import describe_statuses

    for row in table.rejected[:5]:
        print_text(console, f"left out: {row}", style="red")
    if len(table.rejected) > 5:
        print_text(console, f"left out: {len(table.rejected) - 5} more rows that cannot be used", style="red")
    told = [f", {table.left_out} left out by --where"] if table.left_out else []
    told += [f", not ok: {describe_statuses(table.unfinished)}"] if table.unfinished else []
    if told or table.rejected:
        print_text(console, f"{len(table.records)} rows used{''.join(told)}, {len(table.rejected)} not usable\n")


def _figures(names: _Words) -> tuple[str, ...]:
    chosen = [part for name in names or ["loss"] for part in name.split(",") if part]
    for name in chosen:
        if name not in (*FIGURES, ALL):
            raise UsageError(f"--figures {name}: choose of {', '.join(FIGURES)}, or all")
    return FIGURES if ALL in chosen else tuple(dict.fromkeys(chosen))


def _number(text: str, flag: str) -> float:
    from math import isfinite

    from scalelab.units import parse_count

    try:
        value = float(text)
    except ValueError:
        try:
            value = parse_count(text)
        except UsageError:
            raise UsageError(f"{flag}: {text!r} is not a number") from None
    if not isfinite(value):
        raise UsageError(f"{flag}: {text!r} is not a finite number")
    return value


def _limits(text: str, flag: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    if not colon:
        raise UsageError(f"{flag}: give LOW:HIGH, either of which may be left out")
    return (_number(low, flag) if low else float("-inf"), _number(high, flag) if high else float("inf"))
