"""The command `scalelab fit`: a law fitted to each group of records, or a comparison of laws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from scalelab.cli.console import check_figure, print_line, progress, show, show_report
from scalelab.cli.lists import numbers, pairs, ranges
from scalelab.cli.options import (
    DATA,
    LAW,
    OUTPUT,
    AsJson,
    Best,
    Columns,
    Count,
    Draws,
    Figure,
    FigureSize,
    FitSeed,
    Points,
    Quiet,
    Source,
    Starts,
    Where,
    Words,
    list_option,
    option,
)
from scalelab.errors import ScalelabError, UsageError, choice_error
from scalelab.units import counts, plural

if TYPE_CHECKING:
    from scalelab.fit import FitOptions

FIGURES = ("loss", "contours", "residuals", "profiles", "pairs", "predicted", "panels")
ALL, PANELS = "all", "panels"
_LAWS = "Law: parallel, joint, chinchilla, farseer, …; file.py:NAME; or all, to compare laws."


def fit(
    source: Source,
    law: Annotated[
        str | None, option(help=_LAWS, panel=LAW, metavar="NAME", show_default="parallel, averaged with others")
    ] = None,
    average: Annotated[
        bool | None,
        option(
            "--average/--no-average",
            help="Weigh the other laws, over which predict, plan and compare average.",
            panel=LAW,
            show_default="only without --law, --fix, --bound and --tie",
        ),
    ] = None,
    columns: Columns = None,
    run: Annotated[str | None, option(help="Column of run ids, for loss curves.", panel=DATA, metavar="COLUMN")] = None,
    points: Points = "auto",
    best: Best = False,
    where: Where = None,
    count: Count = "paper",
    fix: Annotated[Words, list_option("--fix", "Hold parameters at values: k=0.", (), "NAME=VALUE…", LAW)] = None,
    bound: Annotated[
        Words, list_option("--bound", "Bounds of parameters: alpha=0.1:1.", (), "NAME=LOW:HIGH…", LAW)
    ] = None,
    tie: Annotated[Words, list_option("--tie", "Keep parameters equal: beta=alpha.", (), "NAME=NAME…", LAW)] = None,
    objective: Annotated[
        str,
        option(
            help="huber (log residuals), log or raw (least squares), or asymmetric.",
            panel=LAW,
            metavar="NAME",
        ),
    ] = "huber",
    delta: Annotated[float, option(help="Threshold of the Huber loss, in ln loss.", panel=LAW)] = 1e-3,
    starts: Starts = 300,
    bootstrap: Annotated[
        str, option(help="Bootstrap: residual, wild or pairs.", panel=LAW, metavar="NAME")
    ] = "residual",
    draws: Draws = 1000,
    rollout: Annotated[
        Words,
        list_option(
            "--rollout",
            "Fit only the runs up to these training FLOPs and score the fits on the others; auto chooses four. Saves "
            "no fits.",
            (),
            "FLOPS…",
            LAW,
        ),
    ] = None,
    profile: Annotated[bool, option("--profile", help="Add profile likelihood intervals.", panel=LAW)] = False,
    seed: FitSeed = 0,
    details: Annotated[
        bool, option("--details", help="Show residuals, warnings and notes of every group.", panel=OUTPUT)
    ] = False,
    out: Annotated[
        Path,
        option("-o", "--out", help="Folder for the fits (JSON) and figures.", metavar="FOLDER", panel=OUTPUT),
    ] = Path("fits"),
    force: Annotated[
        bool, option("--force", help="Save fits that explain nothing, and overwrite other fits.", panel=OUTPUT)
    ] = False,
    figure: Figure = None,
    figures: Annotated[
        Words,
        list_option("--figures", f"Figures in the folder: {', '.join(FIGURES)} or all.", (), "NAME…", OUTPUT),
    ] = None,
    figure_kind: Annotated[
        str,
        option(
            help="Kind of --figure, as for --figures; panels shows all groups side by side.",
            metavar="NAME",
            panel=OUTPUT,
        ),
    ] = "loss",
    figure_format: Annotated[
        str, option(help="Format of --figures: png, pdf, svg or another.", metavar="NAME", panel=OUTPUT)
    ] = "png",
    figure_size: FigureSize = None,
    no_figure: Annotated[bool, option("--no-figure", help="Draw no figures.", panel=OUTPUT)] = False,
    as_json: AsJson = False,
    strict: Annotated[
        bool, option("--strict", help="Exit with code 1 for serious notes or failed groups.", panel=OUTPUT)
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Fit a scaling law to losses, with intervals and notes on what the data support.

    The default is L = E + (A / (N·(k ln P + 1)))^α, with the Huber loss of log residuals. Runs are grouped by corpus,
    tokenizer, training setup and, for laws without D, training tokens; each group is fitted on its own.
    `--law all` compares the laws. Without a law, the others are weighed by AICc, and predictions average over them.
    """
    from scalelab.api.fitting import (
        DEFAULT_LAW,
        averages_by_default,
        compare_groups,
        comparison_groups,
        fit_groups,
        origin_of,
        read,
    )
    from scalelab.api.grouping import groups_for
    from scalelab.fit import FitOptions
    from scalelab.fit.files import save_fits
    from scalelab.laws import get_law
    from scalelab.reports.blocks import Report
    from scalelab.reports.runs import rejected_lines

    fixed, bounds = numbers(pairs(fix, "--fix"), "fix"), ranges(pairs(bound, "--bound"), "bounds")
    options = FitOptions(
        count, objective, delta, starts, bootstrap, draws, seed, fixed, bounds, pairs(tie, "--tie"), best
    )
    kinds = _kinds(figures, no_figure, figure)
    _check_figures(figure, figure_kind, figure_format, figure_size, source)
    budgets = None if rollout is None else () if rollout == ["auto"] else counts(rollout, "rollout")
    chosen = None if law == ALL else get_law(law or DEFAULT_LAW)
    if chosen is None:
        given = profile or average is not None or budgets is not None
        _check_comparison(options, given or bool(figures or figure))
    averages = averages_by_default(law, options) if average is None else average
    mapped = pairs(columns, "--map") | ({"run": run} if run else {})
    table = read(source, mapped, where)
    show_report(Report.of(rejected_lines(table)), quiet or as_json)
    if chosen is None:
        compared = compare_groups(comparison_groups(table, None, None, points), options)
        show(compared, as_json=as_json, quiet=quiet)
        _fail_if_strict(source, compared.failures, len(compared), strict, "are too small to compare laws")
        return
    groups = groups_for(chosen, table, None, None, None, points)
    if budgets is not None:
        _roll_out(groups, chosen, options, budgets, averages, figure, figure_size, as_json, quiet)
        return
    origin = origin_of(source, mapped, where, points)
    with progress(quiet or as_json) as report:
        fits = fit_groups(groups, chosen, options, origin, report, averages)
    saved, unsaved = save_fits(fits, out, fits.slugs, force)
    profiles = {g: f.profile().profiles for g, f in fits.items()} if profile or "profiles" in kinds else {}
    show(fits, as_json=as_json, quiet=quiet, details=details, profiles=profiles if profile else None)
    drawn = _save_figures(fits, [*saved], out, kinds, profiles, figure_format, figure_size)
    if figure is not None:
        _save_figure(fits, figure, figure_kind, figure_size, profiles, drawn)
    for group, path in saved.items():
        print_line(f"saved {', '.join(map(str, (path, *drawn.get(group, ()))))}", quiet or as_json)
    _raise_failures(fits, unsaved, source, strict, quiet or as_json)


def _roll_out(
    groups: Any, law: Any, options: Any, budgets: Sequence[float], average: bool, figure: Path | None, *shown: Any
) -> None:
    """Show the rollout of each group: fits of the runs up to each budget, scored on the others."""
    from scalelab.analysis.rollout import roll_out

    size, as_json, quiet = shown
    if figure is not None and len(groups) > 1:
        raise UsageError(f"--figure: choose one of {len(groups)} groups with `where`")
    with progress(quiet or as_json) as report:
        found = [roll_out(group, law, options, budgets, average, report) for group in groups]
    for rollout in found:
        show(rollout, as_json=as_json, figure=figure, drawn={"size": size}, quiet=quiet)


def _raise_failures(fits: Any, unsaved: dict[str, ScalelabError], source: str, strict: bool, quiet: bool) -> None:
    """Raise `ScalelabError` if no fit was saved or, if `strict`, for a failure or serious note; else print failures."""
    if unsaved and len(unsaved) == len(fits):
        first = next(iter(unsaved.values()))
        more = f" (and {plural(len(unsaved) - 1, 'other fit')})" if len(unsaved) > 1 else ""
        raise ScalelabError(f"{first}{more}")
    for error in unsaved.values():
        print_line(str(error), quiet)
    done = len(fits) - len(unsaved)
    _fail_if_strict(source, {**fits.failures, **unsaved}, done, strict, "could not be fitted")
    serious = dict.fromkeys(n.code for f in fits.values() for n in f.notes if n.severity == "serious")
    if strict and serious:
        raise ScalelabError(f"{source}: `strict` fails for serious notes: {', '.join(serious)}")


def _kinds(names: Words, no_figure: bool, figure: Path | None) -> tuple[str, ...]:
    """Return the kinds of figures to save in the folder."""
    if no_figure and (names or figure):
        raise UsageError("--figures and --no-figure: choose one")
    chosen = [part for name in names or ["loss"] for part in name.split(",") if part]
    for name in chosen:
        if name not in (*FIGURES, ALL):
            raise choice_error("kind", name, (*FIGURES, ALL))
    return () if no_figure else FIGURES if ALL in chosen else tuple(dict.fromkeys(chosen))


def _check_figures(figure: Path | None, kind: str, ending: str, size: str | None, source: str) -> None:
    """Raise `UsageError` if an option of figures is wrong."""
    from scalelab.api.loading import check_choice, figure_formats

    if ending != "png":
        check_choice("figure_format", ending, figure_formats())
    check_choice("figure_kind", kind, FIGURES)
    if kind != "loss" and figure is None:
        raise UsageError(
            "needs `figure`; kinds of figures in the folder: --figures", argument="figure_kind", value=kind
        )
    check_figure(figure, size, source, default=True)


def _check_comparison(options: FitOptions, other: bool) -> None:
    from scalelab.fit import FitOptions

    if other or options != FitOptions(options.convention, starts=options.starts, seed=options.seed, best=options.best):
        raise UsageError(
            "--law all compares laws by least squares of log losses and saves no fits; it only takes "
            "--map, --run, --points, --best, --where, --count, --starts, --seed, --json and --strict"
        )


def _save_figures(
    fits: Any, groups: list[str], out: Path, kinds: tuple[str, ...], profiles: Any, ending: str, size: Any
) -> dict[str, list[Path]]:
    """Save the figures of the folder, and return their paths by group."""
    if not kinds:
        return {}
    from scalelab.plot.fits import save_figures

    return save_figures(fits, groups, out, kinds, profiles, ending, size)


def _save_figure(fits: Any, figure: Path, kind: str, size: Any, profiles: Any, paths: dict[str, list[Path]]) -> None:
    """Save one figure of each group, or one of all, and add it to the paths of its group."""
    from scalelab.plot.fits import figure_of
    from scalelab.plot.loss import plot_loss_panels
    from scalelab.plot.save import save_figure

    if kind == PANELS:
        save_figure(plot_loss_panels(fits, size=size), figure)
        paths.setdefault([*fits][-1], []).append(figure)
        return
    for group, fit in fits.items():
        path = figure if len(fits) == 1 else figure.with_stem(f"{figure.stem}-{fits.slugs[group]}")
        drawn = figure_of(fit, kind, size=size, profiles=profiles.get(group))  # type: ignore[arg-type]
        if drawn is None:
            raise ScalelabError(f"{group}: no figure {kind!r}: the fit has no draws, only one P, or no N")
        save_figure(drawn, path)
        paths.setdefault(group, []).append(path)


def _fail_if_strict(source: str, failures: Any, done: int, strict: bool, what: str) -> None:
    if strict and failures:
        raise ScalelabError(f"{source}: {len(failures)} of {plural(len(failures) + done, 'group')} of records {what}")
