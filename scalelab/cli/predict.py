"""`scalelab predict`: what a saved fit says about an N and P, and how surely."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import check_out, show_report, stdout, told
from scalelab.cli.flags import as_typed, describe
from scalelab.cli.lists import pairs
from scalelab.cli.options import AsJson, Out, OwnLaw, Quiet, Words, list_option
from scalelab.errors import ScalelabError, UsageError


def predict(
    source: Annotated[Path, typer.Argument(metavar="FIT", help="A saved fit (JSON), or a folder of them.")],
    N: Annotated[Words, list_option("--N", "Parameters, e.g. --N 1.6B 7B, counted as in the fit.")] = None,
    P: Annotated[Words, list_option("--P", "Parallel streams, e.g. --P 1 16.", (1,))] = None,
    D: Annotated[Words, list_option("--D", "Training tokens, e.g. --D 20B 40B, for laws that know D.")] = None,
    flops: Annotated[
        Words,
        list_option("--flops", "Training budgets 6·N·D·P, e.g. 1e19 1e21: their best N and D, for laws that know D."),
    ] = None,
    at: Annotated[
        Words,
        list_option("--at", "Other variables of the law: C=1e21 U=10B X=8 lr=1e-3 B=2M.", (), "NAME=VALUE…"),
    ] = None,
    law: OwnLaw = None,
    out: Out = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict losses with intervals, the plain N they are worth, and what more streams would gain."""
    if (N is None and D is None and at is None) == (flops is None):
        raise UsageError("give either `N` for predictions, or `flops` for the best N and D of a training budget")
    if flops is not None and D is not None:
        raise UsageError("`flops` finds the best D itself: leave `D` out")
    check_out(out)
    from scalelab.api.predictions import answer_all

    found = answer_all(source, N=N, P=P or [1], D=D, flops=flops, law=law, **pairs(at, "--at"))
    if not found.answers:
        first = describe(found.failures[0])
        raise ScalelabError(f"{source}: none of {found.asked} fits can answer that; the first: {first}")
    if not as_json:
        for answer in found.answers.values():
            show_report(answer.report(), quiet)
            stdout().print()
    for error in found.failures:
        told(f"left out: {as_typed(describe(error))}", quiet or as_json)
    rows = [{"fit": str(file), **row} for file, answer in found.answers.items() for row in answer.to_dict()]
    if as_json:
<<<<<<< HEAD
        console.print(json.dumps([_plain(row) for row in results], indent=1), soft_wrap=True)


def _row(fit: FitResult, N: float, P: int, D: float | None) -> dict[str, Any]:
    from scalelab.fit.derived import doubling_gain, extrapolation_notes, n_equivalent, predicted

    row: dict[str, Any] = {"N": N, "P": P, "D": D, "loss": predicted(fit, N, P, D)}
    if "P" in fit.law.variables:
        row |= {"n_equivalent": n_equivalent(fit, N, P, D), "doubling_gain": None}
        with suppress(ScalelabError):  # where streams hurt, the law may end before 2P
            row["doubling_gain"] = doubling_gain(fit, N, P, D)
    return row | {"notes": extrapolation_notes(fit, N, P, D)}


def _best(fit: FitResult, flops: float, P: int) -> dict[str, Any]:
    from scalelab.fit.derived import compute_optimal, extrapolation_notes, predicted

    if fit.law.variables == ("C",):  # a law of compute says the loss, not how to spend it
        notes = extrapolation_notes(fit, C=flops)
        loss = predicted(fit, C=flops)
        return {"flops": flops, "P": P, "best_N": None, "best_D": None, "loss": loss, "notes": notes}
    best = compute_optimal(fit, flops, P)
    notes = extrapolation_notes(fit, best.N.value, P, best.D.value)
    return {"flops": flops, "P": P, "best_N": best.N, "best_D": best.D, "loss": best.loss, "notes": notes}


def _show(console: Console, fit: FitResult, rows: list[dict[str, Any]]) -> None:
    from scalelab.cli.fit_tables import show_note
    from scalelab.fit import CONVENTIONS

    if "flops" in rows[0]:
        table = make_table(
            "FLOPs", "P", "best N", "<95 % interval", "best D", "<95 % interval", "loss", "<95 % interval"
        )
        for row in rows:
            cells = [c for name in ("best_N", "best_D") for c in _cells(row[name], format_count)]
            table.add_row(format_number(row["flops"], 3), str(row["P"]), *cells, *_cells(row["loss"], _loss))
    else:
        knows_P, knows_D = "P" in fit.law.variables, "D" in fit.law.variables
        headings = ["N", *(["P"] if knows_P else []), *(["D"] if knows_D else []), "loss", "<95 % interval"]
        headings += ["plain N of this loss", "<95 % interval", "2P would gain", "<95 % interval"] if knows_P else []
        table = make_table(*headings)
        for row in rows:
            cells = [format_count(row["N"], 4), *([str(row["P"])] if knows_P else [])]
            cells += [format_count(row["D"], 4)] if knows_D else []
            cells += _cells(row["loss"], _loss)
            if knows_P:
                worth = _cells(row["n_equivalent"], format_count) if row["P"] > 1 else [format_count(row["N"]), ""]
                cells += [*worth, *_cells(row["doubling_gain"], _loss)]
            table.add_row(*cells)
    print_table(console, f"{fit.group}, {fit.law.name} law", table)
    meaning = CONVENTIONS[fit.options.convention].meaning
    print_text(console, f"{fit.equation(digits=7)}   (N: {meaning})")
    serious = [note for note in fit.notes if note.severity == "serious"]
    notes = {(n.code, n.message): n for n in (*serious, *(note for row in rows for note in row["notes"]))}
    for note in notes.values():
        show_note(console, note.severity, note.message, note.code)
    console.print()


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _cells(estimate: Estimate | None, form: Any) -> list[str]:
    """A value and its interval, open where it is infinite."""
    from math import isinf

    if estimate is None:
        return ["none", "none"]
    value = "beyond any" if isinf(estimate.value) else form(estimate.value)
    if estimate.low is None or estimate.high is None:
        return [value, "none"]
    if isinf(estimate.high):
        return [value, "open" if isinf(estimate.low) else f"above {form(estimate.low)}"]
    dash = " to " if estimate.low < 0 else "–"
    return [value, f"{form(estimate.low)}{dash}{form(estimate.high)}"]


def _plain(value: Any) -> Any:
    """Objects as JSON: dataclasses as mappings, infinities, for which JSON has no number, as "inf"."""
    from dataclasses import asdict, is_dataclass
    from math import isfinite

    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
=======
        stdout().out(json.dumps(rows, indent=1), highlight=False)
    if out is not None:
        found.write(out, rows)
        told(f"saved {out}", quiet or as_json)
>>>>>>> w17
