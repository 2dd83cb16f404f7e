"""Studies of each fit in a report: a comparison of laws, a plan, costs, and the calls that make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Any, cast

from scalelab.api.costs import compare_costs
from scalelab.api.planning import make_plan
from scalelab.cost.equal_loss import measured_runs
from scalelab.cost.request import PAPER_VOCAB, Device
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit import FitOptions, FitResult
from scalelab.page.contents import Study
from scalelab.plan import Plan
from scalelab.units import format_count

if TYPE_CHECKING:
    from rich.console import Console

    from scalelab.api.report_sources import Source
    from scalelab.fit.select import LawComparison
    from scalelab.plan.comparison import CostComparison


@dataclass(frozen=True)
class Asked:
    """The parts of a report that were asked for, and their options."""

    laws: bool
    plan: bool
    memory: str | float | None
    latency: str | float | None
    gpu: str | Device | None
    options: FitOptions


def complete(study: Study, source: Source, asked: Asked, console: Console) -> Study:
    """Return the study with its comparison of laws, plan and costs; errors take the place of what failed."""
    fit = study.fit
    if not isinstance(fit, FitResult):
        return study
    if asked.laws:
        console.print(f"comparing laws for {study.title} …", soft_wrap=True)
        study = replace(study, laws=_laws(study, fit, asked.options))
    if not asked.plan:
        return study
    if fit.failure:
        return replace(study, plan=ScalelabError(f"the fit must not be used: {fit.failure}"))
    console.print(f"planning and pricing for {study.title} …", soft_wrap=True)
    fit = fit.averaged(fit.law.name)  # the page shows one law
    plan, limits = _plan(fit, source, asked)
    return replace(study, plan=plan, limits=limits, costs=_costs(fit, source, asked))


def _laws(study: Study, fit: FitResult, options: FitOptions) -> LawComparison | ScalelabError:
    from scalelab.fit.select import compare_laws, comparison_data

    try:
        data = fit.data if study.group is None else comparison_data(study.group, options)
        return compare_laws(data, study.title, replace(options, draws=0))
    except ScalelabError as error:
        return error


def _plan(fit: FitResult, source: Source, asked: Asked) -> tuple[Plan | ScalelabError, str]:
    """Return the plan, and where its limits come from."""
    P = fit.P_levels if "P" in fit.law.variables else (1,)
    given = {"memory": asked.memory, "latency": asked.latency}
    # A sweep of several depths has narrow models with fewer layers.
    shapes = "ladder" if source.runs.frame["num_layers"].nunique() > 1 else "paper"
    setting: dict[str, Any] = {"gpu": asked.gpu, "shapes": shapes}
    limits = ""
    try:
        if given == {"memory": None, "latency": None}:
            given, limits = _largest_plain(fit, cast(Plan, make_plan(fit, P=1, **setting)))
        return cast(Plan, make_plan(fit, P=P, **given, **setting)), limits
    except UsageError as error:
        if error.argument in ("memory", "latency", "gpu"):
            raise
        return error, ""
    except ScalelabError as error:
        return error, ""


def _largest_plain(fit: FitResult, plan: Plan) -> tuple[dict[str, str | float | None], str]:
    """Return the memory and latency of the largest plain run as limits for the plan, and a sentence that says so."""
    plain = fit.data.N[fit.data.P == 1]
    most = float((plain if len(plain) else fit.data.N).max())
    width = plan.problem.shapes.width_of(most, 1)
    if width is None:
        return {"memory": None, "latency": None}, "No limits were given: the device's memory is the only one."
    found = plan.problem.at_width(width, 1)
    text = (
        f"No limits were given: these are what the largest {'plain ' if len(plain) else ''}run would need as a plain "
    )
    return (
        {"memory": f"{found.memory / 2**30:.5g}GiB", "latency": f"{found.latency * 1e3:.5g}ms"},
        f"{text}model of N = {format_count(most)}.",
    )


def _costs(fit: FitResult, source: Source, asked: Asked) -> CostComparison | ScalelabError | None:
    """Return the costs of each measured P against a larger N, for a model of a middle width."""
    P = tuple(level for level in fit.P_levels if level > 1)
    if not P or "P" not in fit.law.variables or "N" not in fit.law.variables:
        return None
    records = source.runs.table.records
    try:
        hidden = _middle_width(records[records["n_streams"] > 1])
        return compare_costs(hidden, P, source.runs.table, fit=fit, gpu=asked.gpu)
    except UsageError as error:
        if error.argument == "gpu":
            raise
        return error
    except ScalelabError as error:
        return error


def _middle_width(records: Any) -> int:
    """Return the hidden size of the run with streams whose N is the nearest to the geometric mean."""
    runs = measured_runs(records, PAPER_VOCAB)
    middle = sum(log(run.n_params) for run in runs) / len(runs)
    return round(min(runs, key=lambda run: abs(log(run.n_params) - middle)).architecture.hidden_size)


def calls_of(
    sources: Sequence[Source],
    studies: Sequence[Study],
    columns: Mapping[str, str] | None,
    where: str | None,
    points: str,
    options: FitOptions,
) -> list[str]:
    """Return the Python calls that make the fits and plans again, of sources that have a name."""
    default = FitOptions()
    lines: list[str] = []
    chosen: dict[str, Any] = {"columns": dict(columns or {}), "where": where or "", "points": points}
    chosen |= {"best": options.best, "count": options.convention}
    chosen |= {name: getattr(options, name) for name in ("starts", "draws", "seed")}
    usual: dict[str, Any] = {"columns": {}, "where": "", "points": "auto", "best": False, "count": default.convention}
    usual |= {name: getattr(default, name) for name in ("starts", "draws", "seed")}
    given = "".join(f", {name}={value!r}" for name, value in chosen.items() if value != usual[name])
    for number, source in enumerate(sources):
        mine = [s for s in studies if s.source == number and isinstance(s.fit, FitResult)]
        if not source.name or not mine:
            continue
        law = mine[0].fit.law.name  # type: ignore[union-attr]  # filtered above
        if source.fits:
            lines.append(f"fit = sl.load_fit({source.name!r})")
        else:
            lines.append(f"{'fit' if len(mine) == 1 else 'fits'} = sl.fit_law({source.name!r}, {law!r}{given})")
        for study in mine:
            fit = "fit" if len(mine) == 1 else f"fits[{study.title!r}]"
            alone = f", law={law!r}" if study.fit.laws else ""  # type: ignore[union-attr]
            lines += [f"sl.make_plan({fit}{_limits(study.plan)}{alone})"] if isinstance(study.plan, Plan) else []
    return lines


def _limits(plan: Plan) -> str:
    limits, streams = plan.problem.limits, [option.P for option in plan.options]
    words = [f"memory={limits.memory_bytes:.0f}"] if limits.memory_bytes is not None else []
    words += [f"latency={limits.latency_s:.5g}"] if limits.latency_s is not None else []
    words += [f"P={streams}"] + (["shapes='ladder'"] if plan.problem.shapes.deepening else [])
    return "".join(f", {word}" for word in words)
