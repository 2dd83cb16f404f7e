"""`scalelab results`: the runs of a folder as a table, a file or loss curves; and is the folder sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalelab.cli.console import stdout
from scalelab.cli.lists import ListCommand, list_option
from scalelab.errors import DataError, ScalelabError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from scalelab.records import Table

CHECK = "check"
_FILES = ("--csv", "--json")
_STANDARD_OUTPUT = "-"
_PICTURES = (".png", ".pdf", ".svg")


class ResultsCommand(ListCommand):
    """A command whose `--csv` and `--json` may stand without a file: then they mean standard output."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: list[str] = []
        for word, after in zip(args, [*args[1:], None], strict=True):
            given.append(word)
            if word in _FILES and (after is None or _is_no_file(after)):
                given.append(_STANDARD_OUTPUT)
        return super().parse_args(ctx, given)


def _is_no_file(word: str) -> bool:
    """Whether `word` is another option, or what to show."""
    option = word.startswith("-") and word != _STANDARD_OUTPUT
    return option or word == "paper" or Path(word).is_dir()


def results(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[check] DIR", help="A folder of records, or a table; after 'check' a folder.", show_default=False
        ),
    ],
    where: Annotated[str | None, typer.Option(help="Which runs, e.g. \"n_streams < 8 and status == 'ok'\".")] = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by; by default the newest come first.")] = None,
    descending: Annotated[bool, typer.Option("--descending", help="Largest first.")] = False,
    columns: Annotated[
        list[str] | None, list_option("--columns", "Which columns: N P loss key created_utc.", (), "COLUMN…")
    ] = None,
    csv: Annotated[str | None, typer.Option(metavar="[FILE]", help="Write CSV; to standard output if -.")] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="[FILE]", help="Write JSON; to standard output if -.")
    ] = None,
    curves: Annotated[Path | None, typer.Option(metavar="FIGURE", help="Draw loss curves, e.g. curves.png.")] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="With check: move bad files to DIR/quarantine.")
    ] = False,
) -> None:
    """Show the runs of a folder, whatever became of them.

    `scalelab results check DIR` looks at every file instead, and lists what is unreadable, foreign, doubled
    or left over; --quarantine moves what readers refuse to DIR/quarantine, where none looks.
    """
    if words[0] == CHECK and not (len(words) == 1 and Path(CHECK).is_dir()):
        if where or sort or descending or columns or csv or as_json or curves:
            raise UsageError("results check: of the options only --quarantine applies to it")
        if len(words) != 2:
            raise UsageError("results check: give one folder of records")
        _check(Path(words[1]), quarantine)
        return
    if quarantine:
        raise UsageError("--quarantine: only with check: scalelab results check DIR --quarantine")
    if len(words) != 1:
        raise UsageError(f"results {' '.join(words)}: give one folder or file")
    _show(words[0], where, sort, descending, columns, {"csv": csv, "json": as_json}, curves)


def _show(
    source: str,
    where: str | None,
    sort: str | None,
    descending: bool,
    columns: list[str] | None,
    files: dict[str, str | None],
    figure: Path | None,
) -> None:
    import pandas as pd

    from scalelab import records
    from scalelab.cli.results_table import column_name, show_runs, sort_runs
    from scalelab.records.read import nothing_there

    if descending and sort is None:
        raise UsageError("--descending: needs --sort COLUMN")
    by = None if sort is None else column_name(sort, "--sort")
    names = [column_name(word, "--columns") for given in columns or () for word in given.split(",") if word]
    if list(files.values()).count(_STANDARD_OUTPUT) > 1:
        raise UsageError("--csv and --json: only one of them can go to standard output; give the other a file")
    if figure is not None and figure.suffix.lower() not in _PICTURES:
        raise UsageError(f"--curves {figure}: give a file that ends in {', '.join(_PICTURES)}")
    faults: list[DataError] = []
    table = records.gather(source, where=where, faults=faults)
    runs = pd.concat([frame for frame in (table.records, table.others) if len(frame)] or [table.records])
    if not len(runs):
        raise faults[0] if faults else nothing_there(source, table, where)
    runs = sort_runs(runs.reset_index(drop=True), by, descending)
    console = stdout()
    written = _write(console, runs, names, files)
    if _STANDARD_OUTPUT not in files.values():
        show_runs(console, source, runs, names)
        _summarise(console, table, faults)
        for line in written:
            console.print(line, soft_wrap=True)
    if figure is not None:
        drawn, without = _draw(runs, figure, faults)
        if _STANDARD_OUTPUT not in files.values():
            told = f"; {without} have none" if without else ""
            console.print(f"drew the loss curves of {drawn} runs to {figure}{told}", soft_wrap=True)
    if faults:
        more = f" ({len(faults)} such files)" if len(faults) > 1 else ""
        raise ScalelabError(f"{faults[0]}{more}")


def _write(console: Console, runs: pd.DataFrame, names: list[str], files: dict[str, str | None]) -> list[str]:
    """Write the files that were asked for; returns a line for each, none for standard output."""
    from scalelab.cli.results_table import as_csv, as_json
    from scalelab.records.store import whole_file

    lines = []
    for form, make in (("csv", as_csv), ("json", as_json)):
        file = files[form]
        if file is None:
            continue
        text = make(runs, names)
        if file == _STANDARD_OUTPUT:
            console.out(text, end="")
            continue
        with whole_file(Path(file)) as opened:
            opened.write(text.encode())
        lines.append(f"wrote {len(runs)} runs to {file}")
    return lines


def _summarise(console: Console, table: Table, faults: list[DataError]) -> None:
    from scalelab.records.schema import OK, describe_statuses

    counts = {OK: len(table.records), **table.unfinished}
    left_out = f"; {table.left_out} left out by --where" if table.left_out else ""
    console.print(f"{sum(counts.values())} runs: {describe_statuses(counts)}{left_out}", soft_wrap=True)
    for row in table.rejected:
        console.print(f"left out: {row}", style="red", soft_wrap=True)
    for fault in faults:
        console.print(f"left out: {fault}", style="red", soft_wrap=True)


def _draw(runs: pd.DataFrame, figure: Path, faults: list[DataError]) -> tuple[int, int]:
    """Draw the loss curves of `runs`; returns how many there were, and how many runs have none."""
    from scalelab.plot.curves import plot_curves
    from scalelab.records.files import read_curve
    from scalelab.records.store import curve_path, whole_file

    found = {}
    for key, file in zip(runs["key"], runs["file"], strict=True):
        place = curve_path(Path(file).parent.parent, str(key))
        if not place.is_file():
            continue
        try:
            curve = read_curve(place)
        except DataError as error:
            faults.append(error)
            continue
        if len(curve):
            found[key] = curve
    drawing = plot_curves(runs, found)
    with whole_file(figure) as opened:
        drawing.savefig(opened, format=figure.suffix[1:].lower(), dpi=150)
    return len(found), len(runs) - len(found)


def _check(folder: Path, quarantine: bool) -> None:
    from scalelab.records.check import check_folder, settle
    from scalelab.records.files import QUARANTINE

    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found = check_folder(folder)
    if not (found.n_records or found.n_curves or found.findings):
        raise UsageError(f"{folder}: no records (*.parquet) here")
    console = stdout()
    for finding in found.findings:
        wrong = finding.action == "quarantine"
        console.print(
            f"{'wrong' if wrong else 'note'}: {finding.message}", style="red" if wrong else "", soft_wrap=True
        )
    if quarantine:
        for line in settle(folder, found.findings):
            console.print(line, soft_wrap=True)
    n_wrong, n_notes = len(found.wrong), len(found.findings) - len(found.wrong)
    told = f"{n_wrong} files that readers refuse" if n_wrong else "nothing is wrong"
    told += f", {n_notes} notes" if n_notes else ""
    console.print(f"{found.n_records} records and {found.n_curves} loss curves can be read; {told}", soft_wrap=True)
    if n_wrong and not quarantine:
        raise ScalelabError(
            f"{folder}: {n_wrong} files that readers refuse; to move them to {folder / QUARANTINE}: "
            f"scalelab results check {folder} --quarantine"
        )
