"""Reports: one HTML file with the runs, fits, plans and costs of one or several sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.api.fitting import Count, LawName, Points, fit_groups, origin_of
from scalelab.api.grouping import groups_for
from scalelab.api.loading import check_file, console_of
from scalelab.api.report_sources import Source, open_sources
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.file_names import slug
from scalelab.fit import FitOptions, FitResult
from scalelab.laws import Law, get_law
from scalelab.units import format_bytes, plural

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from scalelab.api.runs import Runs
    from scalelab.cost.request import Device
    from scalelab.fit import Group
    from scalelab.fit.many import FitResults
    from scalelab.page.contents import Study
    from scalelab.records import RunTable

_ENDINGS = (".html", ".htm")

__all__ = ["ReportFile", "report"]


@dataclass(frozen=True)
class ReportFile:
    """A report that was written. `left_out` are the errors of parts that it lacks, also shown in the page."""

    path: Path
    n_bytes: int
    n_runs: int
    fits: FitResults
    left_out: tuple[str, ...]

    def __repr__(self) -> str:
        about = f"{plural(self.n_runs, 'run')}, {plural(len(self.fits), 'fit')}, {format_bytes(self.n_bytes, False)}"
        return f"<ReportFile {self.path}: {about}>"


def report(
    *sources: str | Path | pd.DataFrame | RunTable | Runs | FitResult | FitResults,
    out: str | Path = "report.html",
    title: str | None = None,
    law: LawName | str | Law | None = None,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    points: Points = "auto",
    best: bool = False,
    count: Count = "paper",
    starts: int = FitOptions.starts,
    draws: int = FitOptions.draws,
    seed: int = 0,
    laws: bool = True,
    plan: bool = True,
    memory: str | float | None = None,
    latency: str | float | None = None,
    gpu: str | Device | None = None,
    force: bool = False,
    command: str = "",
    progress: bool | Console = False,
) -> ReportFile:
    """Write a report of runs and fits as one HTML file that opens from disk, without a server or a network.

    It has the runs with their loss curves, the fit of each group of comparable runs with residuals and notes, a
    comparison of laws, a plan, the cost of streams against a larger N, and the data to download.

    Args:
        sources: Folders of records, tables in files, pandas tables, results of `read` and `list_runs`, "paper", fits,
            files of saved fits, or folders of these.
        out: The file to write.
        title: Title of the page; by default the names of the sources.
        law: Law to fit; by default "parallel", "joint" if N, D and P vary, "chinchilla" if N and D do, and "params",
            "compute" or "tokens" for tables with one variable. For saved fits of your own law, that law.
        columns: Map from field to column or expression, as for `fit_law`.
        where: Condition that selects rows, as for `fit_law`.
        points: Rows of runs that have several, as for `fit_law`.
        best: Use only the row with the lowest loss for each N, P and D.
        count: Definition of N, as for `fit_law`.
        starts: Starting points of the optimiser.
        draws: Bootstrap draws; 0 gives no intervals.
        seed: Seed of starting points and bootstrap.
        laws: Compare laws.
        plan: Add plans and costs.
        memory: Limit of the plan on memory, as for `make_plan`; without `memory` and `latency`, both limits are what
            the largest plain run needs.
        latency: Limit of the plan on the time of a request, as for `make_plan`.
        gpu: Device of the plan, from `list_hardware`.
        force: Replace a file that is not a report.
        command: Command to show in the page as the one that made it.
        progress: Show progress on standard error, or on a rich console.

    Returns:
        The file, with the fits in it.

    Raises:
        UsageError: An argument is wrong; `argument` names it.
        DataError: A source cannot be read.
        ScalelabError: No group of runs could be fitted.
    """
    if not sources:
        raise UsageError("give at least one source: a folder of records, a table, 'paper' or a saved fit")
    path = _check_out(Path(out), sources, force)
    chosen = None if law is None else get_law(law)
    options = FitOptions(count, starts=starts, draws=draws, seed=seed, best=best)
    console = console_of(progress)
    opened = open_sources(sources, columns, where, chosen)

    from scalelab.api.report_studies import Asked, calls_of, complete
    from scalelab.atomic import write_text
    from scalelab.fit.many import FitResults as Fits
    from scalelab.page.contents import Contents
    from scalelab.page.report import report_page
    from scalelab.records.schema import describe_statuses

    asked = Asked(laws, plan, memory, latency, gpu, options)
    studies: list[Study] = []
    for number, source in enumerate(opened):
        found = _studies(source, number, chosen, options, (columns, where, points), console)
        studies += [complete(study, source, asked, console) for study in found]
    studies = _told_apart(studies, opened)
    fits = {study.title: study.fit for study in studies if isinstance(study.fit, FitResult)}
    if not studies:
        found = describe_statuses(opened[0].runs.table.unfinished)
        raise DataError(f"{opened[0].runs.title}: no run is ok, so there is no loss to fit ({found})")
    if not fits:
        first = studies[0].fit
        assert isinstance(first, ScalelabError)
        more = f" (and {plural(len(studies) - 1, 'other group')})" if len(studies) > 1 else ""
        raise ScalelabError(f"{first}{more}")
    left_out = [str(part) for study in studies for part in study.parts if isinstance(part, ScalelabError)]
    contents = Contents(
        title or _title(opened),
        [source.runs for source in opened],
        studies,
        [*([command] if command else []), *calls_of(opened, studies, columns, where, points, options)],
        datetime.now(UTC).date().isoformat(),
    )
    text = report_page(contents)
    write_text(path, text)
    runs = sum(len(source.runs) for source in opened)
    return ReportFile(path, len(text.encode()), runs, Fits(fits), tuple(dict.fromkeys(left_out)))


def _check_out(path: Path, sources: Sequence[Any], force: bool) -> Path:
    """Return `path` if a report may be written there; a file that is not a report is replaced only with `force`."""
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError("must end in .html", argument="out", value=str(path))
    check_file(path, "out", *(source for source in sources if isinstance(source, str | Path)))
    if force or not path.is_file():
        return path
    from scalelab.page.document import is_ours

    if not is_ours(path):
        raise UsageError(
            "is not a report of scalelab; give another file, or replace it with `force`",
            argument="out",
            value=str(path),
        )
    return path


def _studies(
    source: Source,
    number: int,
    law: Law | None,
    options: FitOptions,
    reading: tuple[Mapping[str, str] | None, str | None, Points],
    console: Console,
) -> list[Study]:
    """Return a study for each fit of a source, or for each group of its runs once it is fitted."""
    from scalelab.page.contents import Study

    if source.fits:
        return [Study(fit.group, slug, number, fit) for slug, fit in source.fits.items()]
    columns, where, points = reading
    chosen = law or default_law(source.runs.table)
    groups = groups_for(chosen, source.runs.table, None, None, None, points)
    origin = origin_of(source.name, columns, where, points)
    return [Study(g.title, g.slug, number, _fit(g, chosen, options, origin, console), group=g) for g in groups]


def _fit(
    group: Group, law: Law, options: FitOptions, origin: Mapping[str, str], console: Console
) -> FitResult | ScalelabError:
    console.print(f"fitting the {law.name} law to {group.title} …", soft_wrap=True)
    try:
        return next(iter(fit_groups([group], law, options, origin).values()))
    except UsageError:
        raise
    except ScalelabError as error:
        return error


def default_law(table: RunTable) -> Law:
    """Return the law to fit if none was chosen: by which of N, D, P and compute the table has and varies."""
    records = table.records
    varied = {name for name in ("n_params", "n_tokens", "n_streams") if records[name].nunique() > 1}
    if records["n_params"].isna().all():
        return get_law("compute" if records["train_flops"].notna().all() else "tokens")
    if {"n_params", "n_tokens"} <= varied and records["n_tokens"].notna().all():
        return get_law("joint" if "n_streams" in varied else "chinchilla")
    return get_law("params" if records["n_streams"].isna().all() else "parallel")


def _told_apart(studies: Sequence[Study], sources: Sequence[Source]) -> list[Study]:
    """Return the studies with different titles and slugs: groups of several sources may have the same."""
    made: dict[str, Study] = {}
    slugs: set[str] = set()
    for study in studies:
        title, stem = study.title, slug(study.slug, slugs)
        if title in made:
            title = f"{title} ({sources[study.source].runs.title})"
        while title in made:
            title += "′"
        slugs.add(stem)
        made[title] = replace(study, title=title, slug=stem)
    return list(made.values())


def _title(sources: Sequence[Source]) -> str:
    names = [source.runs.title for source in sources]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"Scaling laws: {', '.join(names[:2])}{more}"
