"""What a report adds to each fit: a comparison of laws, a plan, costs, and the commands that make them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.api.costs import compare_costs
from scalelab.api.planning import make_plan
from scalelab.cost.equal_loss import measured_runs
from scalelab.cost.request import PAPER_VOCAB, Device
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit import FitOptions, FitResult
from scalelab.fit.files import fit_name
from scalelab.laws import Law
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
            given, limits = _largest_plain(fit, make_plan(fit, P=1, **setting))
        return make_plan(fit, P=P, **given, **setting), limits
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


def commands_of(
    sources: Sequence[Any],
    studies: Sequence[Study],
    out: Path,
    law: str | Law | None,
    columns: Mapping[str, str] | None,
    where: str | None,
    points: str,
    asked: Asked,
) -> list[str]:
    """Return the commands that make the report, its fits and its plans; none if a source has no name."""
    if not all(isinstance(source, str | Path) for source in sources) or isinstance(law, Law):
        return []
    options, default = asked.options, FitOptions()
    fitting = ["--law", law] if law else []
    fitting += ["--map", *(f"{name}={column}" for name, column in columns.items())] if columns else []
    fitting += ["--where", where] if where else []
    fitting += ["--points", points] if points != "auto" else []
    fitting += ["--best"] if options.best else []
    fitting += ["--count", options.convention] if options.convention != default.convention else []
    for name in ("starts", "draws", "seed"):
        value = getattr(options, name)
        fitting += [f"--{name}", str(value)] if value != getattr(default, name) else []
    planning: list[str] = []
    for name in ("memory", "latency", "gpu"):
        value = getattr(asked, name)
        planning += [f"--{name}", str(value)] if value is not None else []
    switches = [flag for flag, on in (("--no-laws", asked.laws), ("--no-plan", asked.plan)) if not on]
    words = ["scalelab", "report", *map(str, sources), *fitting, *planning, *switches]
    words += ["-o", out.name] if out.name != "report.html" else []
    return [shlex.join(words), *_steps(studies, fitting)]


def _steps(studies: Sequence[Study], fitting: Sequence[str]) -> list[str]:
    """Return a command for each fit and plan."""
    lines: dict[str, None] = {}
    for study in studies:
        fit = study.fit
        if not isinstance(fit, FitResult) or study.group is None:
            continue
        chosen = fitting if "--law" in fitting or fit.law.name == "parallel" else ["--law", fit.law.name, *fitting]
        lines[shlex.join(["scalelab", "fit", fit.origin.get("source", ""), *chosen])] = None
        if isinstance(study.plan, Plan):
            lines[_plan_command(f"fits/{fit_name(study.slug, fit)}.json", study.plan)] = None
    return list(lines)


def _plan_command(file: str, plan: Plan) -> str:
    limits = plan.problem.limits
    words = ["scalelab", "plan", file]
    words += ["--memory", f"{limits.memory_bytes / 2**30:.5g}GiB"] if limits.memory_bytes is not None else []
    words += ["--latency", f"{limits.latency_s * 1e3:.5g}ms"] if limits.latency_s is not None else []
    words += ["--P", *(str(option.P) for option in plan.options)]
    words += ["--shapes", "ladder"] if plan.problem.shapes.deepening else []
    return shlex.join(words)
