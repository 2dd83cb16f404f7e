"""The section on provenance: versions, hashes, commands and downloads."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from scalelab import __version__
from scalelab.fit import FitResult
from scalelab.fit.result import library_versions
from scalelab.page.contents import Contents
from scalelab.page.document import Section
from scalelab.reports.blocks import Report, Table
from scalelab.visible import shortened, visible


def provenance_section(contents: Contents) -> Section:
    """Return the section."""
    fits = [study.fit for study in contents.studies if isinstance(study.fit, FitResult)]
    commands = "\n".join(visible(line, keep="") for line in contents.commands)
    made = (
        f"Made on {contents.made} by scalelab {__version__}." if contents.made else f"Made by scalelab {__version__}."
    )
    steps = f"<h3>Commands and calls</h3><pre><code>{escape(commands)}</code></pre>" if commands else ""
    return Section(
        "provenance",
        "Provenance",
        f'<div class="panel"><p>{made}</p>{steps}<h3>Downloads</h3>'
        '<p class="muted no-print">From this file, without a network. The CSV and the JSON can be read by '
        "<code>scalelab fit</code> and <code>scalelab predict</code>.</p>"
        '<div class="controls no-print" data-controls="downloads"></div></div>'
        f'<div class="grid"><div class="panel">{Report((_hashes(fits),)).html()}</div>'
        f'<div class="panel">{Report((_versions(fits),)).html()}</div></div>',
    )


def _hashes(fits: Sequence[FitResult]) -> Table:
    table = Table("Data of the fits", ["<group", "runs", "<law", "<hash of the rows", "<source"])
    for fit in fits:
        chosen = [f"where {fit.origin['where']}"] if fit.origin.get("where") else []
        chosen += [f"map {fit.origin['map']}"] if fit.origin.get("map") else []
        source = "; ".join([fit.origin.get("source") or "a table in memory", *chosen])
        table.add(shortened(fit.group, 60), str(len(fit.runs)), fit.law.name, fit.data_hash, source)
    return table


def _versions(fits: Sequence[FitResult]) -> Table:
    """Return the versions that the fits were made with; those of this page where they differ."""
    now = library_versions()
    table = Table("Versions", ["<package", "<fits", "<this page"])
    for name in now:
        used = sorted({str(fit.versions.get(name, "unknown")) for fit in fits})
        table.add(name, ", ".join(used), now[name])
    return table
