"""The page of a report: its sections, data and scripts put together."""

from __future__ import annotations

from html import escape
from typing import Any

from scalelab.fit import FitResult
from scalelab.fit.saved import fit_text
from scalelab.page.contents import Contents, Study
from scalelab.page.document import PLOTLY, document
from scalelab.page.explorer import SCRIPTS as EXPLORER
from scalelab.page.explorer import explorer_data, explorer_section
from scalelab.page.fits import fit_data, fit_section
from scalelab.page.plans import cost_data, plan_data, plan_section
from scalelab.page.provenance import provenance_section
from scalelab.page.runs import runs_data, runs_section
from scalelab.plan import Plan
from scalelab.plan.comparison import CostComparison
from scalelab.units import plural
from scalelab.visible import visible

SCRIPTS = (PLOTLY, "chart.js", "controls.js", "runs.js", "fit.js", "plan.js", *EXPLORER, "page.js")


def report_page(contents: Contents) -> str:
    """Return the report as one HTML file."""
    studies = contents.studies
    sections = [runs_section(contents.runs), fit_section(studies)]
    fits = [study.fit for study in studies if isinstance(study.fit, FitResult)]
    if fits:
        sections.append(explorer_section())
    if any(study.plan is not None or study.costs is not None for study in studies):
        sections.append(plan_section(studies))
    sections.append(provenance_section(contents))
    data: dict[str, Any] = {
        "P": _levels(contents),
        "sources": [runs_data(runs) for runs in contents.runs],
        "groups": [_group(study) for study in studies],
    }
    if fits:
        data["explorer"] = explorer_data(fits)
    return document(contents.title, sections, data, SCRIPTS, lede=_lede(contents))


def _levels(contents: Contents) -> list[int]:
    """Return every P of the page, ascending: each has one colour and marker."""
    found = {int(P) for runs in contents.runs for P in runs.frame["n_streams"].dropna().unique()}
    return sorted(found.union(*(s.fit.P_levels for s in contents.studies if isinstance(s.fit, FitResult))))


def _group(study: Study) -> dict[str, Any]:
    fit = study.fit if isinstance(study.fit, FitResult) else None
    return {
        "title": visible(study.title, keep=""),
        "slug": study.slug,
        "source": study.source,
        "law": None if fit is None else fit.law.name,
        "fit": None if fit is None else fit_text(fit, indent=None),
        "charts": None if fit is None else fit_data(fit),
        "plan": plan_data(study.plan) if isinstance(study.plan, Plan) and study.plan.options else None,
        "costs": cost_data(study.costs) if isinstance(study.costs, CostComparison) else None,
    }


def _lede(contents: Contents) -> str:
    """Return what the page is about, in a sentence, and notes on what was left out."""
    runs = sum(len(source) for source in contents.runs)
    names = ", ".join(f"<b>{escape(visible(source.title))}</b>" for source in contents.runs[:4])
    more = f" and {len(contents.runs) - 4} more" if len(contents.runs) > 4 else ""
    groups = plural(len(contents.studies), "group of comparable runs", "groups of comparable runs")
    notes = "".join(f'<p class="muted">{escape(visible(note))}</p>' for note in contents.notes)
    return f'<p class="lede">{plural(runs, "run")} from {names}{more}, in {groups}.</p>{notes}'
