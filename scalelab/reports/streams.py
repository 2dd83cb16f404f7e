"""Reports of models with streams: conversion, second-stage training and diagnosis."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.json_values import as_json_value
from scalelab.units import format_count, format_seconds

if TYPE_CHECKING:
    from scalelab.api.conversion import Conversion
    from scalelab.api.diagnosis import Diagnosis
    from scalelab.api.second_stage import SecondStage

_MOST_LOSS = 0.01  # relative increase over the base loss above which a conversion warns


def conversion_report(found: Conversion) -> Report:
    """Return loss and similarity of the streams of each bank, and warnings."""
    title = f"{found.source.resolve().name}, before any training, on {found.n_tokens} tokens of {found.corpus}"
    table = Table(title, ["P", "prefix", "draw", "loss", "over base", "cosine", "ρ", "<warnings"])
    table.add("base", "", "", f"{found.base_loss:.4f}", "", "", "", "")
    for bank in found.banks:
        draw = f"{bank.draw} of {bank.draws}" if bank.draw else ""
        alike = ("" if value is None else f"{value:.4f}" for value in (bank.cosine, bank.correlation))
        sizes = (str(bank.P), str(bank.prefix_tokens), draw, f"{bank.loss:.4f}", f"{bank.over_base:+.2%}")
        table.add(*sizes, *alike, ", ".join(bank.warnings))
    blocks: list[Table | Line] = [table]
    if max(bank.over_base for bank in found.banks) > _MOST_LOSS:
        advice = "a shorter `prefix_tokens`" if found.start == "text" else "`start='text'`"
        blocks.append(Line(f"the loss is more than 1 % above the base loss; try {advice}", "warning"))
    return Report.of([*blocks, *(Line(text, "warning") for text in found.notes), Line(f"saved {found.out}")])


def conversion_json(found: Conversion) -> dict[str, Any]:
    """Return everything except notes, unrounded."""
    return as_json_value(
        {
            "source": str(found.source),
            "out": str(found.out),
            "corpus": found.corpus,
            "n_tokens": found.n_tokens,
            "base_loss": found.base_loss,
            "banks": [asdict(bank) for bank in found.banks],
        }
    )


def stage_report(found: SecondStage) -> Report:
    """Return losses before and after training, and a warning if the loss rose."""
    title = f"P = {found.P}, {found.part}, {format_count(found.n_tokens)} tokens, {format_seconds(found.seconds)}"
    if found.objective == "preference":
        return _preference_report(found, title)
    unit = "text" if found.objective == "text" else "conversations"
    table = Table(title, ["<training", "loss", f"± ({unit})", "cosine", "ρ", "<warnings"])
    for name, seen in (("before", found.before), ("after", found.after)):
        streams = seen.streams
        about = ("", "", "")
        if streams:
            about = (f"{streams.cosine:.4f}", f"{streams.correlation:.4f}", ", ".join(streams.warnings))
        table.add(name, f"{seen.loss:.4f}", f"{seen.loss_stderr:.4f}", *about)
    return _with_notes(found, table)


def _preference_report(found: SecondStage, title: str) -> Report:
    table = Table(title, ["<training", "DPO loss", "± (pairs)", "chosen preferred", "margin"])
    for name, seen in (("before", found.before), ("after", found.after)):
        ranked: Any = seen  # a PreferenceEvaluation
        numbers = (f"{seen.loss:.4f}", f"{seen.loss_stderr:.4f}", f"{ranked.accuracy:.1%}", f"{ranked.margin:.4f}")
        table.add(name, *numbers)
    return _with_notes(found, table)


def _with_notes(found: SecondStage, table: Table) -> Report:
    """Return the report: the table, a warning if the loss rose, notes, and where the model is."""
    blocks: list[Table | Line] = [table]
    if found.after.loss > found.before.loss:
        blocks.append(Line("the loss is higher than before training; try a lower `lr` or more tokens", "warning"))
    blocks += [Line(text, "warning") for text in found.notes]
    return Report.of([*blocks, Line(f"saved {found.out}, with the loss curve in {found.record}")])


def stage_json(found: SecondStage) -> dict[str, Any]:
    """Return losses, time and loss curve, unrounded."""

    def values(seen: Any) -> dict[str, Any]:
        streams = seen.streams
        return {
            "loss": seen.loss,
            "loss_stderr": seen.loss_stderr,
            "n_tokens": seen.n_tokens,
            "streams": streams and asdict(streams) | {"warnings": streams.warnings},
            **{name: getattr(seen, name) for name in ("accuracy", "margin") if hasattr(seen, name)},
        }

    return {
        "before": values(found.before),
        "after": values(found.after),
        "seconds": found.seconds,
        "curve": [list(point) for point in found.curve],
    }


def diagnosis_report(found: Diagnosis) -> Report:
    """Return weight and loss of each stream, similarity of the streams, and warnings."""
    report = found.streams
    table = Table(
        f"{found.name}, P = {found.P}, {found.n_tokens} tokens of {found.corpus}",
        ["stream", "mean weight", "loss alone"],
    )
    for p, (weight, loss) in enumerate(zip(report.mixture_weights, report.losses, strict=True), 1):
        table.add(str(p), f"{weight:.3f}", f"{loss:.4f}")
    table.add("all", f"{sum(report.mixture_weights):.3f}", f"{found.loss:.4f}")
    sentences = [
        f"entropy of the weights of a token: {report.mixture_entropy:.3f} nats (uniform: ln P = "
        f"{math.log(found.P):.3f}); effective streams: {report.effective_streams:.2f} of {found.P}",
        f"cosine of final states: {report.cosine:.4f}; ρ, correlation of the streams' losses: {report.correlation:.4f}",
    ]
    warnings = [Line(report.explain(name), "warning", name) for name in report.warnings]
    return Report.of([table, *(Line(text) for text in sentences), *warnings])


def diagnosis_json(found: Diagnosis) -> dict[str, Any]:
    """Return everything except the weights over tokens, unrounded."""
    about = {"P": found.P, "loss": found.loss, "loss_stderr": found.loss_stderr, "n_tokens": found.n_tokens}
    report = found.streams
    more = {"effective_streams": report.effective_streams, "warnings": list(report.warnings)}
    return about | asdict(report) | more
