"""The command `scalelab results`: runs of a folder as a table, a file or loss curves, and a check of the folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalelab.cli.console import check_figure, check_out, print_line, save_figure, saved_line, show_report, stdout
from scalelab.cli.options import DATA, OUTPUT, AsJson, Figure, FigureSize, Out, Quiet, Words, list_option, option
from scalelab.errors import ScalelabError, UsageError
from scalelab.units import plural

if TYPE_CHECKING:
    pass

CHECK = "check"


def results(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[check] DIR", help="Folder of records, or a table; after 'check', a folder.", show_default=False
        ),
    ],
    where: Annotated[
        str | None,
        option(help="Runs to list, e.g. \"P < 8 and status == 'ok'\".", panel=DATA, metavar="CONDITION"),
    ] = None,
    sort: Annotated[
        str | None, option(help="Column to sort by.", panel=DATA, metavar="COLUMN", show_default="newest first")
    ] = None,
    descending: Annotated[bool, option("--descending", help="Sort from largest to smallest.", panel=DATA)] = False,
    columns: Annotated[
        Words, list_option("--columns", "Columns to show: N P loss key created_utc.", (), "COLUMN…", OUTPUT)
    ] = None,
    out: Out = None,
    csv: Annotated[bool, option("--csv", help="Print CSV instead of a table.", panel=OUTPUT)] = False,
    as_json: AsJson = False,
    figure: Figure = None,
    figure_kind: Annotated[
        str,
        option(help="Kind of figure: curves, or accuracy over loss.", metavar="NAME", panel=OUTPUT),
    ] = "curves",
    figure_size: FigureSize = None,
    quarantine: Annotated[
        bool, option("--quarantine", help="With check: move unusable files to DIR/quarantine.", panel=OUTPUT)
    ] = False,
    quiet: Quiet = False,
) -> None:
    """List the runs in a results folder with their status.

    `scalelab results check DIR` checks every file instead, and lists unreadable, foreign, duplicate and leftover files;
    --quarantine moves files that cannot be used to DIR/quarantine, which readers skip.
    """
    if words[0] == CHECK and not (len(words) == 1 and Path(CHECK).is_dir()):
        if where or sort or descending or columns or csv or as_json or figure or out:
            raise UsageError("results check: the only option is --quarantine")
        if len(words) != 2:
            raise UsageError("results check: give one folder of records")
        _check(Path(words[1]), quarantine)
        return
    if quarantine:
        raise UsageError("--quarantine: needs check: scalelab results check DIR --quarantine")
    if len(words) != 1:
        raise UsageError(f"results {' '.join(words)}: give one folder or file")
    if csv and as_json:
        raise UsageError("--csv and --json: give one of them; write the other with -o FILE")
    check_out(out, words[0])
    check_figure(figure, figure_size, words[0])
    from scalelab.api.loading import check_choice
    from scalelab.api.runs import RUN_FIGURES, list_runs
    from scalelab.atomic import write_text

    check_choice("figure_kind", figure_kind, RUN_FIGURES)
    if figure_kind != "curves" and figure is None:
        raise UsageError("needs `figure`", argument="figure_kind", value=figure_kind)
    runs = list_runs(words[0], where=where, sort=sort, descending=descending, columns=columns or ())
    if csv or as_json:
        stdout().out(runs.to_csv() if csv else runs.to_json(), end="", highlight=False)
    else:
        show_report(runs.report(), quiet)
    quiet = quiet or csv or as_json
    if out is not None:
        done = saved_line(out)
        write_text(out, runs.to_csv() if out.suffix.lower() == ".csv" else runs.to_json())
        print_line(done, quiet)
    if figure is not None:
        done = saved_line(figure)
        save_figure(runs.plot(figure_kind, size=figure_size), figure)
        if figure_kind == "curves":
            without = len(runs) - len(runs.curves)
            more = f"; {plural(without, 'run has', 'runs have')} no curve" if without else ""
            done += f" with the loss curves of {plural(len(runs.curves), 'run')}{more}"
        print_line(done, quiet)
    if runs.faults:
        more = f" (and {plural(len(runs.faults) - 1, 'other file')})" if len(runs.faults) > 1 else ""
        raise ScalelabError(f"{runs.faults[0]}{more}")


def _check(folder: Path, quarantine: bool) -> None:
    from scalelab.api.runs import check_results
    from scalelab.records.files import QUARANTINE

    found, moved = check_results(folder, quarantine=quarantine)
    console = stdout()
    for finding in found.findings:
        wrong = finding.action == "quarantine"
        text = f"{'error' if wrong else 'note'}: {finding.message}"
        console.print(text, style="red" if wrong else "", soft_wrap=True)
    for line in moved:
        console.print(line, soft_wrap=True)
    n_wrong, n_notes = len(found.wrong), len(found.findings) - len(found.wrong)
    verdict = f"{plural(n_wrong, 'file')} cannot be used" if n_wrong else "no errors"
    verdict += f", {plural(n_notes, 'note')}" if n_notes else ""
    readable = f"{plural(found.n_records, 'record')} and {plural(found.n_curves, 'loss curve')}"
    console.print(f"{readable} can be read; {verdict}", soft_wrap=True)
    if n_wrong and not quarantine:
        raise ScalelabError(
            f"{folder}: {plural(n_wrong, 'file')} cannot be used; to move {'it' if n_wrong == 1 else 'them'} to "
            f"{folder / QUARANTINE}: scalelab results check {folder} --quarantine"
        )
